"""Structured outputs: from a schema, regex or grammar to the tokens that may come next. No torch, no scheduling."""
