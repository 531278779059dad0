"""Files with labels, whatever is in them: :class:`FileExamples`, which images and recordings have in common."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from typing import Any, Self

import numpy as np

from tfft.data.examples import Examples, Skipped

_COLUMNS = ("paths", "facts", "names")  # that have a value for each file


@dataclasses.dataclass(frozen=True, eq=False)
class FileExamples(Examples):
    """Files with labels.

    Attributes:
        paths: of the files.
        labels: int32 [N], index into ``class_names``; from tables also float32 [N, K], 0 or 1 for each of several
            classes, or float32 [N], numbers.
        class_names: in the order of the labels; empty for numbers.
        skipped: files that were found and are not used.
        facts: what was learned by reading each file, in the order of ``paths``; empty where they were not read.
        names: of the examples, relative paths with ``/``; those of a table are unique.
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
        """Hash names, sizes and labels: reading every byte would take as long as training on few of them."""
        result = hashlib.sha256()
        for part in (self, *others):
            for path, label in zip(part.paths, part.labels, strict=True):
                line = f"{path}\0{os.path.getsize(path)}\0{np.asarray(label).tolist()}\n"
                result.update(line.encode("utf-8", "surrogateescape"))
        return result.hexdigest()
