"""Atomic file writes and the cache folder, without TensorFlow."""
