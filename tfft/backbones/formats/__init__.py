"""Readers of weight files: Keras files, PyTorch checkpoints, pickles without execution."""
