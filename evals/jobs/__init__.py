"""Jobs outside the web process: a queue on disk, one worker, and backups of finished runs."""
