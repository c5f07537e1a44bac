"""The loop: requests in, steps scheduled and executed, tokens and text out."""
