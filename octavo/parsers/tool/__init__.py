"""Formats of tool calls, one module each; `registry.py` has their names."""
