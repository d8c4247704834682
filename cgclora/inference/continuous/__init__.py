"""Continuous batching: many greedy requests in one batch with a fixed number of rows."""
