"""Training records: where they lie, how they are read, encoded and sampled into batches."""
