"""The tab where methods are ranked, down to the samples behind every number."""
