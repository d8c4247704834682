"""Training: one adapter or many side by side, on one device or several."""
