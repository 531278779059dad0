"""Checkpoints of a training run: content, schedule, and resuming."""
