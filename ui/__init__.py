"""The web app, one file a tab; `app.py` puts it together."""
