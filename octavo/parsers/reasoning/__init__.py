"""Formats of reasoning, one module each; `registry.py` has their names."""
