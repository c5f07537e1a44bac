"""Devices: what each can do, how much memory it has, and which kernels and attention backends serve it."""
