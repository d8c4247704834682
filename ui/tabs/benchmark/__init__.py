"""The tab that starts evaluations."""
