"""Architectures: one file each, blocks that several share, and the table that names them."""
