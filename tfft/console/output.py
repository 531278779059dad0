"""Exit codes, messages and the quiet start of TensorFlow, for all commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

SUCCESS, FAILED = 0, 1

PrintResult = Callable[[dict[str, Any], Any], None]


def say(text: str) -> None:
    """Print a message for the user on standard error."""
    print(text, file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether the user asked for tracebacks and all messages, with ``TFFT_DEBUG=1``."""
    return os.environ.get("TFFT_DEBUG", "") not in ("", "0")


def start_tensorflow() -> None:
    """Import TensorFlow and suppress the messages of its C++ code, unless debugging."""
    if debugging() or os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
        import tensorflow

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # errors are raised in Python too; 2 would show oneDNN's notes
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow

        tensorflow.config.list_physical_devices()  # looks for a GPU, and prints a message if there is none
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
