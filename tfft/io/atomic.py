"""Atomic file writes: :func:`whole`, :func:`write_whole`.

Implementation notes: files are written under a temporary name in the same folder and renamed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path, which is renamed to ``path`` once everything is written.

    Args:
        path: Path of the file; an existing file stays until the new one is complete.

    Yields:
        Another path in the same folder, with the same suffix.

    Example:
        >>> with whole("model.keras") as place:
        ...     model.save(place)
    """
    target = Path(path)
    aside = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield aside
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file atomically; text as UTF-8, with unchanged line ends.

    Args:
        path: Path of the file.
        content: Complete content.

    Returns:
        The path.
    """
    # File names may contain undecodable bytes; they are written as \udcff.
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with whole(path) as aside:
        aside.write_bytes(data)
    return Path(path)
