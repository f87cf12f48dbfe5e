"""OpenAI's Images API, for clients that speak it: the same orders in other words."""
