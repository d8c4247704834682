"""The tab that compares methods on a user's data."""
