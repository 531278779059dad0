"""Features that are not kept on disk: in memory while they are few, in a nameless temporary file beyond.

Hides where they are: either way they are arrays, and the file is gone when nobody uses them any more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft.features.cache import ArrayFile, map_file

LIMIT = 256 * 2**20  # bytes that are held in memory


class Holder:
    """Collects features batch by batch."""

    def __init__(self) -> None:
        self._parts: list[Sequence[np.ndarray]] = []
        self._bytes = 0
        self._files: list[tuple[Any, ArrayFile]] = []

    def append(self, arrays: Sequence[np.ndarray]) -> None:
        """Adds examples to each array."""
        if self._files:
            for (_, target), array in zip(self._files, arrays, strict=True):
                target.append(array)
            return
        self._parts.append(arrays)
        self._bytes += sum(a.nbytes for a in arrays)
        if self._bytes > LIMIT:
            self._spill()

    def finish(self) -> tuple[np.ndarray, ...]:
        """Returns the arrays; the holder is empty then."""
        if self._files:
            made = []
            for file, target in self._files:
                made.append(map_file(file, (target.count, *target.item), target.dtype))
                file.close()
            return tuple(made)
        columns = [list(column) for column in zip(*self._parts, strict=True)]
        self._parts = []
        return tuple(_joined(parts) for parts in columns)

    def close(self) -> None:
        """Lets go of everything, after a failure."""
        self._parts = []
        for file, _ in self._files:
            file.close()

    def _spill(self) -> None:
        for array in self._parts[0]:
            file = tempfile.TemporaryFile(prefix="tfft-features-")
            self._files.append((file, ArrayFile(file.fileno(), array.shape[1:], array.dtype)))
        parts, self._parts = self._parts, []
        for arrays in parts:
            self.append(arrays)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """Concatenates parts, letting go of each when it is copied, so that not all of it is there twice."""
    whole = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole
