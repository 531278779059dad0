"""Detection of text sources: :func:`holds_texts`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfft.data.table import SUFFIXES


def holds_texts(source: Any, settings: Mapping[str, Any]) -> int:
    """Return how surely a source holds texts, as :attr:`tfft.registry.Match.certainty`; 0 for no texts.

    Args:
        source: Source for :func:`tfft.data.load`.
        settings: Explicit settings for reading; a column name implies a table.
    """
    columns = any(settings.get(name) is not None for name in ("text", "label", "separator"))
    if settings.get("text") is not None:
        return 3
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.is_dir():
            return 2 if _folder_of_texts(path) else 0
        return 2 if columns or path.suffix.lower() in SUFFIXES else 0
    if columns or (hasattr(source, "columns") and hasattr(source, "iloc")):  # a DataFrame, without importing pandas
        return 2
    if isinstance(source, (tuple, list)) and len(source) == 2:
        if all(isinstance(part, (str, os.PathLike)) for part in source):
            return 2 if Path(source[0]).suffix.lower() in SUFFIXES else 0
        return 2 if _are_texts(source[0]) else 0
    return 0


def _are_texts(values: Any) -> bool:
    """Whether values are strings, judged by the first few; pairs of texts are two lists."""
    readable = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    if isinstance(values, (str, bytes)) or not readable or not len(values):
        return False
    if isinstance(values, np.ndarray) and values.ndim != 1:
        return False
    return all(isinstance(value, str) for value in list(values[:5]))


def _folder_of_texts(folder: Path) -> bool:
    """Whether a folder has tables of its parts, or mostly .txt files in its folders.

    A note among photos does not count, nor a table beside class folders.
    """
    entries = sorted(folder.iterdir())
    alone = not any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
    for entry in entries:
        if entry.suffix.lower() in SUFFIXES and (alone or entry.stem.lower() == "train"):
            return True
        if entry.is_dir() and not entry.name.startswith("."):
            inside = sorted(entry.iterdir())[:50]
            if _mostly_texts(inside):
                return True
            if any(inner.is_dir() and _mostly_texts(list(inner.iterdir())[:50]) for inner in inside):
                return True
    return False


def _mostly_texts(paths: Sequence[Path]) -> bool:
    files = [path.suffix.lower() for path in paths if path.is_file() and not path.name.startswith(".")]
    return 2 * files.count(".txt") > len(files)
