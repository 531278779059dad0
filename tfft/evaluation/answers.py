"""Logits and labels of all examples, for calibration and thresholds: :func:`logits_and_labels`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.data.dataset_forms import batches_for
from tfft.errors import DataError


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
