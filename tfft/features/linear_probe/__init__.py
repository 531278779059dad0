"""The linear probe: the best linear head on frozen features, as a convex problem."""
