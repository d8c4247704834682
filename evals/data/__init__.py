"""Data of evaluations and trainings: the official files, splits, and reports on what is in them."""
