"""A run: ask an engine, store its answers, score them."""
