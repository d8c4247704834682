"""Whole comparisons: recipes, plans, trainings of every method, and their folders."""
