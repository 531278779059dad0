"""CheckpointConfig of a training run: what is saved, when, and how a stopped run resumes."""
