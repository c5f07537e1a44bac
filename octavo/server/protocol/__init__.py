"""The shapes of requests and responses, and how a request becomes what the engine takes."""
