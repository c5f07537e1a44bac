"""What an engine tells of itself while it runs."""
