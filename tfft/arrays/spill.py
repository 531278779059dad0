"""Temporary arrays: in memory while they are small, otherwise in an unnamed temporary file.

Implementation notes: the file disappears with its last user.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft.arrays.npy_files import ArrayFiles, assemble_arrays, map_file
from tfft.arrays.ragged import Ragged, Rows, offsets_of

LIMIT = 256 * 2**20  # bytes to keep in memory


class Holder:
    """Collects examples batch by batch."""

    def __init__(self) -> None:
        self._parts: list[Sequence[Rows]] = []
        self._bytes = 0
        self._open: dict[str, Any] = {}
        self._files: ArrayFiles | None = None

    def append(self, arrays: Sequence[Rows]) -> None:
        """Add examples to each array."""
        if self._files is not None:
            self._files.append(arrays)
            return
        self._parts.append(arrays)
        self._bytes += sum(a.nbytes for a in arrays)
        if self._bytes > LIMIT:
            self._spill()

    def finish(self) -> tuple[Rows, ...]:
        """Return the arrays and empty the holder."""
        if self._files is not None:
            about, made = self._files.about, {}
            for name, file in self._open.items():
                made[name] = map_file(file, tuple(about[name]["shape"]), np.dtype(about[name]["dtype"]))
                file.close()
            return assemble_arrays(made, about)
        columns = [list(column) for column in zip(*self._parts, strict=True)]
        self._parts = []
        return tuple(_joined(parts) for parts in columns)

    def close(self) -> None:
        """Release everything after a failure."""
        self._parts = []
        for file in self._open.values():
            file.close()

    def _make(self, name: str) -> int:
        self._open[name] = tempfile.TemporaryFile(prefix="tfft-arrays-")
        return self._open[name].fileno()

    def _spill(self) -> None:
        self._files = ArrayFiles([(a.shape[1:], a.dtype) for a in self._parts[0]], self._make)
        parts, self._parts = self._parts, []
        for arrays in parts:
            self.append(arrays)


def _joined(parts: list[Rows]) -> Rows:
    """Concatenate parts, releasing each after its copy, to avoid holding the data twice."""
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if not ragged:
        return _joined_arrays(parts)
    offsets, fill = offsets_of(np.concatenate([part.lengths for part in ragged])), ragged[0].fill
    values: list[Rows] = [part.values for part in ragged]
    parts.clear()
    ragged.clear()
    return Ragged(_joined_arrays(values), offsets, fill)


def _joined_arrays(parts: list[Rows]) -> np.ndarray:
    whole = np.empty((sum(len(part) for part in parts), *parts[0].shape[1:]), parts[0].dtype)
    end = len(whole)
    while parts:
        part = parts.pop()
        whole[end - len(part) : end] = part
        end -= len(part)
    return whole
