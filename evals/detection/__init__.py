"""Which task a text looks like, for the app's free input."""
