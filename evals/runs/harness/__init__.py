"""Other harnesses: our tasks in lm-evaluation-harness, and its logs and those of inspect here."""
