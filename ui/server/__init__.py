"""What stands around the page: guard, log, health, uploads, sessions, the Space."""
