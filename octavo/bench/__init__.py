"""Measurements: of a running server, and of the engine in this process."""
