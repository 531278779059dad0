"""Keras' sequences of batches as ``tf.data`` datasets: :func:`with_datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError


def with_datasets(source: Any) -> Any:
    """Return a source with datasets in place of ``keras.utils.PyDataset`` objects.

    Iterators of ``ImageDataGenerator`` are such objects too; they name their classes.

    Args:
        source: Any source of examples; such an object, or a pair of them, is replaced.

    Raises:
        DataError: If one of them is empty or has no length.
    """
    if isinstance(source, keras.utils.PyDataset):
        return _dataset(source)
    if isinstance(source, (tuple, list)) and any(isinstance(part, keras.utils.PyDataset) for part in source[:2]):
        return tuple(with_datasets(part) for part in source)
    return source


def _dataset(sequence: Any) -> tf.data.Dataset:
    count = sequence.num_batches
    if not count:
        raise DataError(
            f"Expected a {type(sequence).__name__} with a number of batches of at least 1. Received: "
            f"{'no length' if count is None else 'an empty one'}. Define __len__."
        )

    def batches() -> Iterator[Any]:
        for at in range(count):
            yield tuple(sequence[at])
        sequence.on_epoch_end()

    first = tf.nest.map_structure(np.asarray, tuple(sequence[0]))
    spec = tf.nest.map_structure(
        lambda each: tf.TensorSpec((None,) * min(each.ndim, 1) + each.shape[1:], each.dtype), first
    )
    made = tf.data.Dataset.from_generator(batches, output_signature=spec)
    made = made.apply(tf.data.experimental.assert_cardinality(count))
    if hasattr(sequence, "class_indices"):
        made.class_names = sorted(sequence.class_indices, key=sequence.class_indices.get)
    return made
