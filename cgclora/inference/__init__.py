"""Answers: requests, batches, decoding, several adapters on one backbone."""
