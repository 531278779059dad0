"""The commands of ``tfft``, one module each.

Every module has a ``SUMMARY`` for the help, ``add_arguments(parser)``, and ``run(options, print_result)``, which prints
its result as JSON or text and returns the exit code. TensorFlow is imported inside ``run``, so that ``tfft --help``
starts quickly.
"""
