"""Text to token ids and back: vocabularies of all sources, chat templates, incremental detokenizing, stop strings."""
