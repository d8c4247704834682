"""The tabs of the app, a package each."""
