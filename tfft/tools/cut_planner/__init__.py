"""The cost of every cut of a network: segments, their measured times and the plan."""
