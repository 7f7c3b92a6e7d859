"""A server with the chat completions of OpenAI's API, on loopback, over any backend."""
