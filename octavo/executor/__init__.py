"""Executors: how the engine's loop reaches the workers that hold the devices."""
