"""What :func:`tfft.features.extract` gives: :class:`Features`, arrays that are a dataset for the suffix.

Hides whether they are in memory or in a file, and which view of an example an epoch shows.
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
    """What a frozen prefix gives for every example of a data set, in order.

    Attributes:
        arrays: [N, ...], float32 or float16; a tuple where the prefix gives several tensors. Read-only
            and mapped from a file where they are kept on disk. What differs in length, such as the features of
            the pieces of texts, is a :class:`~tfft.arrays.ragged.Ragged` in place of an array.
        labels: of the examples, or None.
        engine: ``"litert"`` or ``"tensorflow"``, whichever computed them.
        seconds: that reading and computing took; 0 where they were found in a cache.
        notes: what was decided and why, one sentence each.
        cached: whether they were found, not computed.
        folder: where they are kept on disk, or None.
        weights: of the examples in the loss, where the dataset had some; else None.
        views: of each example; the rows of all first views come first, then those of the second.
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
        """Size of the arrays."""
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
        """Makes a dataset for the suffix, in the order that :func:`tfft.data.to_dataset` has for the same arguments.

        Args:
            batch_size: examples per batch; the last one of a pass may be smaller.
            shuffle: True gives another order in each pass, a pure function of seed and epoch.
            seed: picks another series of orders.
            epoch: as in :func:`tfft.data.to_dataset`.
            sampling: as in :func:`tfft.data.to_dataset`: ``"balanced"`` draws all classes equally often.
            lengths: of the texts behind the features, [N], see :attr:`tfft.data.Examples.lengths`: texts of similar
                length then share batches, the same ones as without features. Each batch is as long as its longest
                example, either way.

        Returns:
            Dataset of (float32 features, labels), its length known. Several tensors come as a tuple.

        Raises:
            DataError: when there are no labels.

        Example:
            >>> suffix.fit(features.dataset(shuffle=True), epochs=20, shuffle=False)
        """
        if self.labels is None:
            raise DataError("These features have no labels. Extract them from (images, labels).")
        options = BatchOptions(batch_size, shuffle, seed, epoch, sampling=sampling)
        return assemble(self.fetch, self.labels, options, views=self.views, lengths=lengths)

    def take(self, at: np.ndarray) -> Any:
        """Returns the features of some examples as one batch for the suffix, padded where they differ in length.

        Args:
            at: positions [b].
        """
        return self._packed([tf.constant(array) for array in self.rows(at)])

    def rows(self, at: np.ndarray) -> list[np.ndarray]:
        """Returns some examples of each array, padded where they differ in length.

        Args:
            at: positions [b].
        """
        return by_position(*self.parts)(at)

    @tf.autograph.experimental.do_not_convert
    def fetch(self, positions: tf.Tensor) -> Any:
        """Does what :meth:`take` does, as operations of TensorFlow in a dataset."""
        found = tf.numpy_function(by_position(*self.parts), [positions], [tf.as_dtype(a.dtype) for a in self.parts])
        for tensor, array in zip(found, self.parts, strict=True):
            tensor.set_shape([None, *array.shape[1:]])
        return self._packed(found)

    def _packed(self, found: Sequence[tf.Tensor]) -> Any:
        found = [tf.cast(t, tf.float32) if t.dtype == tf.float16 else t for t in found]
        return tuple(found) if isinstance(self.arrays, tuple) else found[0]
