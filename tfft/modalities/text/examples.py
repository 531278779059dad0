"""Labelled texts, or pairs of texts: :class:`TextExamples`, and their batches of similar length."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions, assemble
from tfft.data.examples import Examples, Skipped
from tfft.specs import AudioSpec, InputSpec

if TYPE_CHECKING:
    from tfft.features.engines import Staged
    from tfft.features.sources import Views


@dataclasses.dataclass(frozen=True, eq=False)
class TextExamples(Examples):
    """Labelled texts.

    Attributes:
        texts: str [N], an object array.
        pairs: Second text of each pair, or None.
        labels: int32 [N] for classes, float32 [N, C] of 0 and 1 for multi-label, float32 [N] for regression.
        class_names: Class names in the order of the labels; empty for regression.
        places: Origin of each example, such as ``reviews.csv:12``.
        skipped: Rows that were skipped.
    """

    modality: ClassVar[str] = "text"
    texts: np.ndarray
    pairs: np.ndarray | None
    labels: np.ndarray
    class_names: tuple[str, ...]
    places: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The texts by the name of their model input."""
        return {"text": self.texts} | ({} if self.pairs is None else {"text_pair": self.pairs})

    @property
    def captions(self) -> tuple[str, ...]:
        """The texts; those of a pair with a vertical bar between them."""
        if self.pairs is None:
            return tuple(map(str, self.texts))
        return tuple(f"{first} | {second}" for first, second in zip(self.texts, self.pairs, strict=True))

    @property
    def inputs(self) -> Any:
        """Model inputs: the texts, or ``{"text": ..., "text_pair": ...}``."""
        return self.texts if self.pairs is None else self.columns

    @property
    def lengths(self) -> np.ndarray | None:
        """Length of each text in bytes (of both, for pairs), for batching by length, int64 [N]."""
        bytes_of = [[len(text.encode("utf-8", "replace")) for text in column] for column in self.columns.values()]
        return np.asarray(bytes_of, np.int64).sum(axis=0)

    def take(self, positions: np.ndarray) -> Self:
        """Return the examples at some positions."""
        pairs = None if self.pairs is None else self.pairs[positions]
        places = tuple(self.places[i] for i in positions) if self.places else ()
        return dataclasses.replace(
            self, texts=self.texts[positions], pairs=pairs, labels=self.labels[positions], places=places
        )

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Build batches of (strings [B], labels), with a dict of two for pairs; without ``shuffle`` short texts
        first."""
        options.refuse(("augment", "views"), "texts")
        with tf.device("CPU:0"):
            columns = {name: tf.constant(values) for name, values in self.columns.items()}

        def fetch(rows: tf.Tensor) -> Any:
            values = {name: tf.gather(column, rows) for name, column in columns.items()}
            return values if len(values) > 1 else values["text"]

        return assemble(fetch, self.labels, options, lengths=self.lengths)

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Return texts and labels."""
        return self.inputs, self.labels

    def fingerprint(self, *others: Self) -> str:
        """Hash all texts and labels in their order."""
        return " ".join(_hash_of(part) for part in (self, *others))


def add_texts(result: Any, columns: Iterable[Iterable[str]]) -> None:
    """Add all texts of some columns and their lengths to a hash."""
    for column in columns:
        for text in column:
            data = text.encode("utf-8", "surrogatepass")
            result.update(len(data).to_bytes(8, "little") + data)


def _hash_of(part: TextExamples) -> str:
    result = hashlib.sha256(repr(part.class_names).encode())
    add_texts(result, part.columns.values())
    result.update(np.ascontiguousarray(part.labels).tobytes())
    return result.hexdigest()
