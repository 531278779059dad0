"""Head for any number of labels per example, with one logit per label."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from tfft.heads import as_names
from tfft.tasks.classification.head import IndependentHead


@dataclasses.dataclass(frozen=True)
class MultilabelHead(IndependentHead):
    """One logit for each label; the targets are float [B, n] of 0 and 1.

    Served: ``probabilities`` float32 [B, n], ``labels_above_threshold`` bool [B, n], ``logits``.
    """

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn logits [B, n] into probabilities and the labels above their thresholds, 1/2 unless chosen otherwise."""
        logits = tf.cast(logits, tf.float32)
        above = self.decided(logits) > 0.0
        return {"probabilities": tf.sigmoid(logits), "labels_above_threshold": above, "logits": logits}


def multilabel(
    class_names: Sequence[str],
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> MultilabelHead:
    """Create a head for any number of labels per example; the targets are rows of 0 and 1.

    Args:
        class_names: Names in the order of the columns.
        dropout: As in :func:`tfft.heads.classification`.
        l2: As in :func:`tfft.heads.classification`.
        label_smoothing: Share of each target moved towards 1/2.
        loss: As in :func:`tfft.heads.classification`.

    Returns:
        A head with one logit per label.
    """
    names = as_names(class_names)
    return MultilabelHead("multilabel", names, len(names), dropout, l2, label_smoothing, loss)
