"""What all commands share with the shell: exit codes, messages, and how TensorFlow starts quietly."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

SUCCESS, FAILED = 0, 1

PrintResult = Callable[[dict[str, Any], Any], None]


def say(text: str) -> None:
    """Print a message for a person, on standard error."""
    print(text, file=sys.stderr, flush=True)


def debugging() -> bool:
    """Tells whether the user asked for tracebacks and all messages, with ``TFFT_DEBUG=1``."""
    return os.environ.get("TFFT_DEBUG", "") not in ("", "0")


def start_tensorflow() -> None:
    """Import TensorFlow; holds back the notes its C++ side prints then, unless someone asked to see them."""
    if debugging() or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import tensorflow

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # what fails is raised in Python too; 2 would show oneDNN's notes
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow

        tensorflow.config.list_physical_devices()  # looks for a GPU, and prints when there is none
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
