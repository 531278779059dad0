"""Logits and labels of examples, for calibration and thresholds: :func:`logits_and_labels`, :class:`LogitSample`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.data.dataset_forms import batches_for
from tfft.errors import DataError


class LogitSample:
    """Logits and labels of the examples of an evaluation; a random part of them if there are many.

    Args:
        head: Head for classes.
        most: Most examples to keep.
        seed: Seed of the choice.
    """

    def __init__(self, head: heads.Head, most: int, *, seed: int = 0) -> None:
        self._head, self._most, self._random = head, most, np.random.default_rng(seed)
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._keys: list[np.ndarray] = []  # the examples with the smallest random numbers stay
        self._count = 0

    def add(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        self._logits.append(logits)
        self._labels.append(labels)
        self._keys.append(self._random.random(len(labels)))
        self._count += len(labels)
        if self._count > 2 * self._most:
            self._reduce()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return logits and labels as :func:`logits_and_labels` does."""
        self._reduce()
        logits = self._logits[0].astype(np.float64)
        return logits, class_labels(self._head, logits, self._labels[0])

    def _reduce(self) -> None:
        keys = np.concatenate(self._keys)
        rows = np.sort(np.argsort(keys, kind="stable")[: self._most])
        self._keys, self._count = [keys[rows]], len(rows)
        self._logits, self._labels = [np.concatenate(self._logits)[rows]], [np.concatenate(self._labels)[rows]]


def logits_and_labels(model: keras.Model, dataset: Any, *, least: int, purpose: str) -> tuple[np.ndarray, np.ndarray]:
    """Predict for labelled examples.

    Args:
        model: Model with one head for classes.
        dataset: As in :func:`tfft.evaluate`.
        least: Least number of examples.
        purpose: What they are for, after "to", for the message.

    Returns:
        Logits, float64 [N, units], and labels: int64 [N] for one class of each example, else 0 or 1, float64
        [N, units].

    Raises:
        DataError: If there are fewer examples, or they cannot be used.
    """
    head = heads.from_model(model)
    batches = batches_for(model, head, dataset, measured=True)

    @tf.function(input_signature=[batches.element_spec[0]])
    def forward(inputs: Any) -> tf.Tensor:
        return tf.cast(model(inputs, training=False), tf.float32)

    logits, labels = [], []
    for batch in batches:
        logits.append(forward(batch[0]).numpy().astype(np.float64))
        labels.append(np.asarray(batch[1]))
    count = sum(len(each) for each in labels)
    if count < least:
        raise DataError(f"Expected at least {least} examples to {purpose}. Received: {count}. Fix: hold out more.")
    found = np.concatenate(logits)
    return found, class_labels(head, found, np.concatenate(labels))


def class_labels(head: heads.Head, logits: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return labels as :func:`logits_and_labels` does.

    Args:
        head: Head for classes.
        logits: Logits [N, units].
        given: Labels of the same examples: classes, one-hot rows, or 0 and 1 for each label.
    """
    if head.convex_loss == "softmax":
        classes = given.argmax(axis=-1) if given.ndim == 2 and given.shape[-1] > 1 else given.reshape(-1)
        return classes.astype(np.int64)
    return (given.reshape(logits.shape) > 0.5).astype(np.float64)
