"""What the tabs that start jobs share: layout, submission, and the list of jobs."""
