"""Exit codes and messages of all commands, and the quiet start of TensorFlow and other libraries."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

SUCCESS, FAILED = 0, 1

PrintResult = Callable[[dict[str, Any], Any], None]


def say(text: str) -> None:
    """Print a message for the user on standard error."""
    print(text, file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether the user asked for tracebacks and all messages, with ``TFFT_DEBUG=1``."""
    return os.environ.get("TFFT_DEBUG", "") not in ("", "0")


@contextlib.contextmanager
def quiet_loggers(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """Suppress messages of Python loggers below a level.

    Args:
        *names: Names of the loggers, such as ``"tensorflow"``.
        level: Level of the messages that are still shown.
    """
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


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
