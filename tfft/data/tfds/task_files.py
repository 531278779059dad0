"""Examples of TensorFlow Datasets in the files that a task reads: :class:`TaskFiles`, :class:`TaskWriter`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class TaskWriter:
    """Writes examples into a folder; a context manager, so that files are complete at the end."""

    def add(self, part: str, name: str, values: Mapping[str, Any]) -> str | None:
        """Write one example.

        Args:
            part: ``"train"``, ``"validation"`` or ``"test"``.
            name: Id of the example, which is not a file name.
            values: Values of the features by name.

        Returns:
            The reason why it was left out, as the rest of a sentence; None if it was written.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Write what depends on all examples, such as an annotation file."""

    def __enter__(self) -> TaskWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if kind is None:
            self.close()


@dataclasses.dataclass(frozen=True)
class TaskFiles:
    """Features of a dataset that a task reads, and the form of the files.

    Attributes:
        features: Names of the features, with ``/`` between the levels.
        encoded: Those of them that are written as stored, without decoding.
        classes: Class names, by number; empty if the dataset has none.
        open: Function from a folder to the writer that fills it.
    """

    features: tuple[str, ...]
    encoded: tuple[str, ...]
    classes: tuple[str, ...]
    open: Callable[[Path], TaskWriter]
