"""The deciding side: which tokens of which requests a step computes, and where their keys and values live. No torch."""
