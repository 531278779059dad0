"""Memory that a process keeps for itself: :func:`advise_memory`."""

from __future__ import annotations

import ctypes
import os
import sys

PLAIN_MEMORY = "TFFT_PLAIN_MEMORY"
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # of glibc's malloc.h


def advise_memory() -> bool:
    """Let this process keep the memory that it frees, for the next step of training.

    By default glibc returns each large array to the kernel as soon as TensorFlow frees it, and the next operation gets
    fresh pages, which the kernel must clear first: in a step of full fine-tuning that is hundreds of thousands of page
    faults. Call this once at the start of a program or notebook, before TensorFlow computes anything; the command line
    does. Memory then stays with the process until it ends, at about the peak of what it used. Nothing happens where
    the C library is not glibc (macOS, Windows, musl) and with ``TFFT_PLAIN_MEMORY=1`` in the environment.

    Returns:
        Whether the C library took the advice.

    Example:
        >>> import tfft
        >>> tfft.training.advise_memory()
        True
    """
    if not sys.platform.startswith("linux") or os.environ.get(PLAIN_MEMORY, "0") not in ("", "0"):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  musl has a mallopt that does nothing
        # One arena: those of other threads are too small for large arrays, which would be mapped one by one again.
        settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
        taken = [library.mallopt(name, value) for name, value in settings]  # each, also after one that was refused
        return taken == [1, 1, 1]
    except (OSError, AttributeError):
        return False
