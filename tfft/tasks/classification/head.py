"""Heads for one class out of several: with a logit for each, or with one logit for two."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import join_names
from tfft.heads import FOCAL_GAMMA, ConvexLoss, Head, as_names
from tfft.losses import FocalCrossentropy, SparseCrossentropy, soft_binary_accuracy


@dataclasses.dataclass(frozen=True)
class ThresholdHead(Head):
    """Base class of heads whose answer depends on thresholds of probabilities.

    Attributes:
        thresholds: Probability from which on a label is given, see :func:`tfft.choose_thresholds`: one for each logit,
            or, of two logits, that of the second class. Empty for 1/2, or the most probable class.
    """

    thresholds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(float(value) for value in self.thresholds))
        super().__post_init__()

    @property
    def threshold_count(self) -> int:
        """Number of thresholds that the head may have."""
        return self.units

    def with_thresholds(self, thresholds: Sequence[float]) -> ThresholdHead:
        """Return the head with other thresholds."""
        return dataclasses.replace(self, thresholds=tuple(thresholds))

    def decided(self, logits: Any) -> Any:
        """Return logits that are lowered by the thresholds."""
        if not self.thresholds:
            return logits
        chance = np.array(self.thresholds)
        offsets = np.log(chance) - np.log1p(-chance)
        return logits - np.append(np.zeros(self.units - len(offsets)), offsets).astype(np.float32)

    def problems(self) -> list[str]:
        """Return the problems of the fields."""
        problems, count = super().problems(), len(self.thresholds)
        if count not in (0, self.threshold_count):
            problems.append(f"thresholds must be {self.threshold_count} numbers or none, received {count}")
        if not all(0 < value < 1 for value in self.thresholds):
            problems.append(f"thresholds must be between 0 and 1, received {join_names(self.thresholds)}")
        return problems


@dataclasses.dataclass(frozen=True)
class ClassificationHead(ThresholdHead):
    """One logit for each class; the labels are integers [B], indices into ``class_names``.

    Served: ``probabilities`` float32 [B, classes], ``label`` tf.string [B], ``logits``.
    """

    least_names: ClassVar[int] = 2
    convex_loss: ClassVar[ConvexLoss | None] = "softmax"

    @property
    def threshold_count(self) -> int:
        """1 of two classes, the second one; none of more."""
        return 1 if self.units == 2 else 0

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the cross-entropy or the focal loss of a softmax."""
        if self.loss_name == "focal":
            return FocalCrossentropy(FOCAL_GAMMA, self.label_smoothing, name="focal")
        if not soft:
            return SparseCrossentropy(label_smoothing=self.label_smoothing, name="crossentropy")
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=self.label_smoothing, name="crossentropy"
        )

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``accuracy``."""
        kind = keras.metrics.CategoricalAccuracy if soft else keras.metrics.SparseCategoricalAccuracy
        return [kind(name="accuracy")]

    def example_scores(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
        """Return 1 for each example whose most probable class is right, else 0."""
        right = labels.argmax(axis=-1) if labels.ndim == 2 and labels.shape[-1] > 1 else labels.reshape(-1)
        return (self.decided(logits).argmax(axis=-1) == right).astype(np.float32)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn logits [B, classes] into probabilities and the name of the most probable class."""
        logits = tf.cast(logits, tf.float32)
        label = tf.gather(tf.constant(self.class_names, tf.string), tf.argmax(self.decided(logits), axis=-1))
        return {"probabilities": tf.nn.softmax(logits), "label": label, "logits": logits}


@dataclasses.dataclass(frozen=True)
class IndependentHead(ThresholdHead):
    """Base class of heads whose labels are each 0 or 1, or a share between, with a logit for each."""

    convex_loss: ClassVar[ConvexLoss | None] = "sigmoid"

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the cross-entropy or the focal loss of sigmoids, a mean over labels."""
        smoothing = self.label_smoothing
        if self.loss_name == "focal":
            return FocalCrossentropy(FOCAL_GAMMA, smoothing, True, name="focal")
        return keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=smoothing, name="crossentropy")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``accuracy``, the share of single labels that are right."""
        if soft:  # Keras would ask for a label that is exactly 0 or 1
            return [keras.metrics.MeanMetricWrapper(soft_binary_accuracy, name="accuracy")]
        return [keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]  # logit 0 is probability 1/2

    def example_scores(self, labels: np.ndarray, logits: np.ndarray) -> np.ndarray | None:
        """Return the share of the labels of each example that are right, [B]."""
        right = (self.decided(logits) > 0) == (labels.reshape(logits.shape) > 0.5)
        return right.reshape(len(right), -1).mean(axis=-1)


@dataclasses.dataclass(frozen=True)
class BinaryHead(IndependentHead):
    """One logit for two classes; the labels are 0 and 1.

    Served as :class:`ClassificationHead` is.
    """

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn logits [B, 1] into the probabilities of both classes and the name of the more probable one."""
        logits = tf.cast(logits, tf.float32)
        probabilities = tf.concat([tf.sigmoid(-logits), tf.sigmoid(logits)], axis=-1)
        label = tf.gather(tf.constant(self.class_names, tf.string), tf.cast(self.decided(logits)[:, 0] > 0.0, tf.int64))
        return {"probabilities": probabilities, "label": label, "logits": logits}

    def name_problems(self) -> list[str]:
        """Return what is wrong with the names of the two classes."""
        if self.class_names is not None and len(self.class_names) != 2:
            names = join_names(self.class_names)
            return [f"binary needs two class names, those of 0 and 1, or the name of 1; received {names}"]
        return super().name_problems()

    @staticmethod
    def units_for(class_names: tuple[str, ...]) -> int:
        """Return 1: one logit stands for both classes."""
        return 1


def classification(
    class_names: Sequence[str],
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> ClassificationHead:
    """Create a head for one of several classes per example; the labels are integers.

    Args:
        class_names: At least two names in the order of the labels; ``splits.class_names`` of loaded data.
        dropout: Dropout rate of the features, 0 or more and below 1.
        l2: L2 penalty of the kernel, 0 or more.
        label_smoothing: Share of the target spread over all classes, 0 or more and below 1.
        loss: ``"cross_entropy"``, or ``"focal"``, which gives less weight to easy examples; for imbalanced classes, see
            :class:`tfft.losses.FocalCrossentropy`.

    Returns:
        A head with one logit per class.

    Raises:
        PlanError: If arguments are invalid; the message lists all problems.

    Example:
        >>> head = classification(["ants", "bees"], l2=1e-4)
    """
    names = as_names(class_names)
    return ClassificationHead("classification", names, len(names), dropout, l2, label_smoothing, loss)


def binary(
    class_names: Sequence[str] | str,
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> BinaryHead:
    """Create a head for two classes with a single logit; the labels are 0 and 1.

    Args:
        class_names: Names of 0 and 1; or the name of 1 alone: ``"bee"`` gives ``"not bee"``, ``"bee"``.
        dropout: As in :func:`classification`.
        l2: As in :func:`classification`.
        label_smoothing: Share of the target moved towards 1/2.
        loss: As in :func:`classification`.

    Returns:
        A head with one logit.
    """
    names = (f"not {class_names}", class_names) if isinstance(class_names, str) else tuple(class_names)
    return BinaryHead("binary", names, 1, dropout, l2, label_smoothing, loss)
