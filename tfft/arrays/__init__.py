"""Storage for large arrays: in memory while they are small, otherwise in memory-mapped files.

Implementation notes: files are put in place atomically, and reading by position does not accumulate pages of the
mapping in the process. This package does not depend on TensorFlow.
"""
