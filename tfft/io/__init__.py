"""Files on disk: atomic writes and the cache folder. Knows nothing of TensorFlow."""
