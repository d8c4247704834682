"""Commands that look at tasks: which train well together, and which a prompt is of."""
