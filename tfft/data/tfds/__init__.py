"""TensorFlow Datasets as a source of examples."""
