"""From a model's text to what it means: reasoning, content and tool calls, piece by piece as the text comes."""
