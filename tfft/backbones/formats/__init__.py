"""Readers of weight files: Keras files, PyTorch and safetensors checkpoints, pickles without execution."""
