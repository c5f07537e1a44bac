"""Attention over the paged KV cache: what a backend is asked, the backends, and the choice between them."""
