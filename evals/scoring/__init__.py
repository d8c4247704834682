"""Metrics, their statistics, and effect sizes between runs."""
