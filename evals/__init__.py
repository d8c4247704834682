"""The judge: it knows the tasks and how their answers are scored, not how they are shown."""
