"""From logits to tokens: constraints, penalties, truncation, the draw, log probabilities. Knows no model, no batch."""
