"""The version of octavo."""

__version__ = "0.1.0"
