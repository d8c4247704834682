"""What speaks with the model: the engine, its questions, limits and settings."""
