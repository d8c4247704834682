"""What gates, experts and tasks say about one another: gate weights, probes, affinity, grouping."""
