"""Result of :func:`tfft.features.extract`: :class:`Features`, arrays that form a dataset for the suffix.

Implementation notes: the arrays are in memory or in a file; epochs use the views in turn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.arrays.npy_files import by_position
from tfft.arrays.ragged import Rows
from tfft.data.batches import BatchOptions, assemble
from tfft.errors import DataError


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Features:
    """Outputs of a frozen prefix for every example of a dataset, in order.

    Attributes:
        arrays: [N, ...], float32 or float16; a tuple if the prefix has several outputs. Read-only and memory-mapped if
            stored on disk. Outputs of variable length, such as token features, are a
            :class:`~tfft.arrays.ragged.Ragged` instead of an array.
        labels: Labels of the examples, or None; labels that move with the pixels, such as boxes, have a row per view.
        engine: Engine that computed them, ``"litert"`` or ``"tensorflow"``.
        seconds: Time for reading and computing; 0 if they came from a cache.
        notes: Decisions and their reasons, one sentence each.
        cached: Whether they came from a cache.
        folder: Folder on disk, or None.
        weights: Sample weights in the loss, if the dataset had some; else None.
        views: Number of views; the rows of all first views come first, then those of the second.
    """

    arrays: Rows | tuple[Rows, ...]
    labels: np.ndarray | None
    engine: str
    seconds: float
    notes: tuple[str, ...] = ()
    cached: bool = False
    folder: Path | None = None
    views: int = 1
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.parts[0]) // self.views

    def __repr__(self) -> str:
        arrays = ", ".join(f"{a.shape} {a.dtype}" for a in self.parts)
        return f"Features({arrays}, engine={self.engine!r}, cached={self.cached})"

    @property
    def bytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(a.nbytes for a in self.parts)

    @property
    def parts(self) -> tuple[Rows, ...]:
        """The arrays as a tuple."""
        return self.arrays if isinstance(self.arrays, tuple) else (self.arrays,)

    def dataset(
        self,
        batch_size: int = 32,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: tf.Variable | None = None,
        sampling: str | None = None,
        lengths: np.ndarray | None = None,
    ) -> tf.data.Dataset:
        """Build a dataset for the suffix, in the order of :func:`tfft.data.to_dataset` for the same arguments.

        Args:
            batch_size: Examples per batch; the last batch of a pass may be smaller.
            shuffle: Whether each pass has another order, a pure function of seed and epoch.
            seed: Seed for the orders.
            epoch: As in :func:`tfft.data.to_dataset`.
            sampling: As in :func:`tfft.data.to_dataset`: ``"balanced"`` draws all classes equally often.
            lengths: Lengths of the texts, [N], see :attr:`tfft.data.Examples.lengths`: texts of similar length then
                share batches, the same ones as without features. Each batch is as long as its longest example in either
                case.

        Returns:
            Dataset of (float32 features, labels) with a known length. Several tensors form a tuple.

        Raises:
            DataError: If there are no labels.

        Example:
            >>> suffix.fit(features.dataset(shuffle=True), epochs=20, shuffle=False)
        """
        if self.labels is None:
            raise DataError("These features have no labels. Extract them from (images, labels).")
        options = BatchOptions(batch_size, shuffle, seed, epoch, sampling=sampling)
        labels, moved = self.labels[: len(self)], self.labels if len(self.labels) > len(self) else None
        return assemble(self.fetch, labels, options, views=self.views, lengths=lengths, moved=moved)

    def take(self, at: np.ndarray) -> Any:
        """Return the features of some examples as one batch for the suffix, with padding.

        Args:
            at: Positions [b].
        """
        return self._packed([tf.constant(array) for array in self.rows(at)])

    def rows(self, at: np.ndarray) -> list[np.ndarray]:
        """Return some examples of each array, with padding.

        Args:
            at: Positions [b].
        """
        return by_position(*self.parts)(at)

    @tf.autograph.experimental.do_not_convert
    def fetch(self, positions: tf.Tensor) -> Any:
        """Implement :meth:`take` with TensorFlow operations in a dataset."""
        found = tf.numpy_function(by_position(*self.parts), [positions], [tf.as_dtype(a.dtype) for a in self.parts])
        for tensor, array in zip(found, self.parts, strict=True):
            tensor.set_shape([None, *array.shape[1:]])
        return self._packed(found)

    def _packed(self, found: Sequence[tf.Tensor]) -> Any:
        found = [tf.cast(t, tf.float32) if t.dtype == tf.float16 else t for t in found]
        return tuple(found) if isinstance(self.arrays, tuple) else found[0]
