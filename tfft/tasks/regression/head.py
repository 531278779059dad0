"""Head for regression."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from tfft.heads import ConvexLoss, Head, as_names


@dataclasses.dataclass(frozen=True)
class RegressionHead(Head):
    """One unit per number; the labels are float [B] or [B, units].

    Served: ``value`` float32 [B, units].
    """

    needs_names: ClassVar[bool] = False
    convex_loss: ClassVar[ConvexLoss | None] = "squared"

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the squared error."""
        return keras.losses.MeanSquaredError(name="squared_error")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``error``, the mean absolute error."""
        return [keras.metrics.MeanAbsoluteError(name="error")]

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the numbers unchanged."""
        return {"value": tf.cast(logits, tf.float32)}


def regression(names: Sequence[str] | int = 1, *, dropout: float = 0.2, l2: float = 0.0) -> RegressionHead:
    """Create a head for one or more numbers per example, trained with the squared error.

    Args:
        names: Number of values, or their names.
        dropout: As in :func:`tfft.heads.classification`.
        l2: As in :func:`tfft.heads.classification`.

    Returns:
        A head with one unit per value.
    """
    if isinstance(names, int):
        return RegressionHead("regression", None, names, dropout, l2)
    named = as_names(names)
    return RegressionHead("regression", named, len(named), dropout, l2)
