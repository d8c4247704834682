"""Serving: a scheduler of requests behind OpenAI's completions API."""
