"""The tab that trains adapters."""
