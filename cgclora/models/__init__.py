"""Backbones: where they come from, what their layers are, and what this machine can run."""
