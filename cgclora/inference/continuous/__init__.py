"""Continuous batching: very many greedy requests through a batch with a fixed number of places."""
