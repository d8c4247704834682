"""The tab that explains the method and this installation."""
