"""Comparisons of methods on a user's data: from a file to a leaderboard within some minutes."""
