"""The side of the caller: an OpenAI-API client for the commands, on httpx."""
