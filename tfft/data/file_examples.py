"""Labelled files: :class:`FileExamples`, the base class for images and recordings."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any, Self

import numpy as np

from tfft.data.examples import Examples, Skipped

_COLUMNS = ("paths", "facts", "names")  # with one value per file


@dataclasses.dataclass(frozen=True, eq=False)
class FileExamples(Examples):
    """Files with labels.

    Attributes:
        paths: Paths of the files.
        labels: int32 [N], index into ``class_names``; from tables also float32 [N, K] of 0 and 1 for multi-label, or
            float32 [N] for regression.
        class_names: Class names in the order of the labels; empty for regression.
        skipped: Files that were found and skipped.
        facts: Statistics of each file, in the order of ``paths``; empty if the files were not read.
        names: Names of the examples, relative paths with ``/``; unique for a table.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    facts: tuple[Any, ...] = ()
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def places(self) -> tuple[str, ...]:
        """The paths."""
        return self.paths

    def take(self, positions: np.ndarray) -> Self:
        """Return the examples at some positions, with the same classes."""
        columns = {name: getattr(self, name) for name in _COLUMNS}
        taken: dict[str, Any] = {n: tuple(column[i] for i in positions) for n, column in columns.items() if column}
        return dataclasses.replace(self, labels=self.labels[positions], **taken)

    def join(self, other: Self) -> Self:
        """Return these files followed by others."""
        columns: dict[str, Any] = {name: getattr(self, name) + getattr(other, name) for name in _COLUMNS}
        return dataclasses.replace(self, labels=np.concatenate([self.labels, other.labels]), **columns)

    def fingerprint(self, *others: Self) -> str:
        """Return a hash of names, sizes and labels; hashing all bytes would take as long as a short training."""
        result = hashlib.sha256()
        for part in (self, *others):
            for path, label in zip(part.paths, part.labels, strict=True):
                line = f"{path}\0{os.path.getsize(path)}\0{np.asarray(label).tolist()}\n"
                result.update(line.encode("utf-8", "surrogateescape"))
        return result.hexdigest()
