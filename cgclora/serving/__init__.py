"""An HTTP server with OpenAI's API: chats, completions, and their log-probabilities."""
