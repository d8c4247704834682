"""Leaderboards computed from run folders, down to the samples behind every number."""
