"""Functions on tensors and numbers only. Nothing here imports the rest of octavo."""
