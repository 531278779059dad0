"""Large arrays that are kept: in memory while they are small, in files that are mapped beyond.

What is hidden here: how rows lie in a file, how a file gets into its place whole or not at all, and how rows are read
by position without the process growing by what it has seen. Knows nothing of TensorFlow, nor of what the rows mean.
"""
