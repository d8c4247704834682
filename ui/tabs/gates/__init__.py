"""The tab of the gates: what each expert weighs and adds, and what happens without it."""
