"""The routes, one subject a file; each has a `router`."""
