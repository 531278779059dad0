"""Files that are whole or not there: :func:`whole`, :func:`write_whole`.

Hides that they are written under another name beside their own and renamed. Knows no framework.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a place to write a file to, which takes its own name once everything is written.

    Args:
        path: of the file; one that is there stays until the new one is whole.

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
    """Write a file that is never half there; text as UTF-8, line ends as they are.

    Args:
        path: of the file.
        content: all of it.

    Returns:
        The path.
    """
    # File names may hold what is no text; it is written as \udcff, not refused.
    data = content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace")
    with whole(path) as aside:
        aside.write_bytes(data)
    return Path(path)
