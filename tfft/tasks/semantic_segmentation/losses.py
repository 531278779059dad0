"""Loss and metrics of masks and logits: :class:`SegmentationLoss`, :class:`PixelMeanIoU`, :class:`PixelAccuracy`.

Implementation notes: pixels with the label 255 (void) count nowhere. Masks may be larger than the logits, which have a
stride of 4: of each cell the pixel in its middle is compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.losses import FocalCrossentropy
from tfft.tasks.semantic_segmentation import OUTSIDE, VOID

_SMOOTH = 1.0  # pixels added to both sides of the Dice ratio: a class of few pixels must not decide alone


def subsampled(labels: Any, logits: Any) -> tf.Tensor:
    """Return masks at the size of logits: of each cell the pixel in its middle.

    Args:
        labels: Masks [B, H, W], or [B, H, W, 1]; of any type; :data:`OUTSIDE` beyond the right and the lower edge of
            images that are smaller than others.
        logits: Logits [B, h, w, C].

    Returns:
        int32 [B, h, w].
    """
    labels = tf.cast(tf.reshape(labels, tf.shape(labels)[:3]), tf.int32)
    inside = tf.reduce_any(labels != OUTSIDE, axis=2), tf.reduce_any(labels != OUTSIDE, axis=1)
    for axis, there in enumerate(inside, 1):
        have, want = tf.reduce_sum(tf.cast(there, tf.int32), axis=1)[:, None], tf.shape(logits)[axis]
        middles = (tf.range(want) * 2 + 1) * have // (2 * want)
        labels = tf.gather(labels, middles, axis=axis, batch_dims=1)
    return tf.where(labels == OUTSIDE, VOID, labels)


@keras.saving.register_keras_serializable(package="tfft")
class SegmentationLoss(keras.losses.Loss):
    """Weighted cross-entropy of pixels plus one minus the soft Dice coefficient of the classes.

    For each image: the mean cross-entropy of its labelled pixels, weighted by class, plus
    ``1 - mean(2 * sum(p * t) / (sum(p) + sum(t)))`` over the classes that its mask shows, with probabilities p and
    one-hot labels t. Cross-entropy gives every pixel a gradient, and Dice makes small objects count (Milletari et al.,
    "V-Net", 2016; there with squares in the denominator). Both terms are computed image by image, so the loss of a
    batch is the mean over its images, whatever parts it is divided into; an image without labelled pixels has the
    loss 0.

    Args:
        class_weights: Weights of the classes in the cross-entropy; None for equal ones.
        gamma: 0 for cross-entropy, above for the focal loss, as in :class:`tfft.losses.FocalCrossentropy`.
        label_smoothing: As in :class:`tfft.losses.SparseCrossentropy`; of the cross-entropy only.
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> SegmentationLoss()(masks, logits)  # int [B, H, W] with 255 for no label, float [B, h, w, C]
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        gamma: float = 0.0,
        label_smoothing: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self._of_pixels = FocalCrossentropy(gamma, label_smoothing)
        self.gamma, self.label_smoothing = self._of_pixels.gamma, self._of_pixels.label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image, [B]."""
        logits = tf.cast(y_pred, tf.float32)
        labels = subsampled(y_true, logits)
        there = labels != VOID
        counted = tf.cast(there, tf.float32)
        safe = tf.where(there, labels, 0)
        return self._cross_entropy(safe, counted, logits) + _dice_loss(labels, counted, logits)

    def _cross_entropy(self, labels: tf.Tensor, counted: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        classes = logits.shape[-1]
        each = self._of_pixels.call(tf.reshape(labels, [-1]), tf.reshape(logits, [-1, classes]))
        weights = counted
        if self.class_weights is not None:
            weights *= tf.gather(tf.constant(self.class_weights, tf.float32), tf.minimum(labels, classes - 1))
        total = tf.reduce_sum(tf.reshape(each, tf.shape(labels)) * weights, axis=(1, 2))
        return tf.math.divide_no_nan(total, tf.reduce_sum(weights, axis=(1, 2)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"class_weights": self.class_weights, "gamma": self.gamma, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own}


def _dice_loss(labels: tf.Tensor, counted: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Return one minus the mean soft Dice coefficient of the classes in each image, [B]; 0 without any."""
    true = tf.one_hot(labels, logits.shape[-1])  # void has no class, so it is 0 everywhere
    found = tf.nn.softmax(logits) * counted[..., None]
    common, there = (tf.reduce_sum(values, axis=(1, 2)) for values in (found * true, true))
    dice = (2.0 * common + _SMOOTH) / (tf.reduce_sum(found, axis=(1, 2)) + there + _SMOOTH)
    shown = tf.cast(there > 0, tf.float32)
    return tf.math.divide_no_nan(tf.reduce_sum((1.0 - dice) * shown, axis=-1), tf.reduce_sum(shown, axis=-1))


@keras.saving.register_keras_serializable(package="tfft")
class PixelMeanIoU(keras.metrics.MeanIoU):
    """Mean intersection over union of the classes, at the size of the logits, without void pixels.

    Args:
        num_classes: Number of classes.
        **kwargs: ``name``, ``dtype``.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        own = {"ignore_class": VOID, "sparse_y_true": True, "sparse_y_pred": False, "axis": -1}
        kwargs.setdefault("dtype", "float64")  # counts stay exact, and sample weights may be fractions
        super().__init__(num_classes, **{**kwargs, **own})

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch: masks [B, H, W] and logits [B, h, w, C]; sample weights [B] count the pixels of an image."""
        labels = subsampled(y_true, y_pred)
        return super().update_state(labels, y_pred, _for_pixels(sample_weight, labels))


@keras.saving.register_keras_serializable(package="tfft")
class PixelAccuracy(keras.metrics.Mean):
    """Share of labelled pixels with the right class, at the size of the logits.

    Args:
        **kwargs: ``name``, ``dtype``.
    """

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch: masks [B, H, W] and logits [B, h, w, C]; sample weights [B] count the pixels of an image."""
        labels = subsampled(y_true, y_pred)
        weights = tf.cast(labels != VOID, self.dtype)
        if sample_weight is not None:
            weights *= tf.cast(_for_pixels(sample_weight, labels), self.dtype)
        right = labels == tf.argmax(y_pred, axis=-1, output_type=tf.int32)
        return super().update_state(tf.cast(right, self.dtype), sample_weight=weights)


def _for_pixels(sample_weight: Any, labels: tf.Tensor) -> Any:
    if sample_weight is None:
        return None
    each = tf.reshape(tf.cast(sample_weight, tf.float32), [-1, 1, 1])
    return tf.broadcast_to(each, tf.shape(labels))
