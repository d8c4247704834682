"""What lies on disk: atomic files, adapter folders, run folders, and where each came from."""
