"""One training run: what it does each step, what chooses its weights, what it reports."""
