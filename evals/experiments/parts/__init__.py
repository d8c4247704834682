"""A comparison in part files of limited size, for machines with little room for results."""
