"""Loss of a detector: :class:`DetectionLoss`."""

from __future__ import annotations

from typing import Any

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.tasks.object_detection.assignment import assign  # noqa: E402
from tfft.tasks.object_detection.geometry import giou, points_of  # noqa: E402

BOX_WEIGHT = 2.0
NEGATIVE_WEIGHT, NEGATIVE_POWER = 0.75, 2.0


@keras.saving.register_keras_serializable(package="tfft")
class DetectionLoss(keras.losses.Loss):
    """Class and box loss of a detector, normalized by the quality of all assigned cells in the batch.

    The targets come from :func:`tfft.tasks.object_detection.assignment.assign`. The class loss is the cross-entropy to
    the quality of a cell, weighted by that quality, and by ``0.75 * p ** 2`` for a class that is not there (varifocal
    loss: Zhang et al., "VarifocalNet", CVPR 2021). The box loss is ``2 * quality * (1 - GIoU)``. In a crowd region, a
    cell without an object does not count for the region's class.

    The divisor is the sum of the qualities over the batch, at least 1, also where replicas of ``tf.distribute`` share
    it. So the mean over the images of a batch is the loss, and an image without objects adds its false alarms only.
    Microbatches (:func:`tfft.training.microbatched`) each have a divisor of their own, so their sum is close to the
    loss of the whole batch, but not equal to it.

    Args:
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> DetectionLoss()(labels, model(images))  # float [B, M, 7], float [B, P, C + 6]
    """

    def __init__(self, name: str = "detection", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image [B], scaled so that the mean over the batch is normalized as a whole."""
        labels, output = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        points = points_of(output)
        targets = assign(labels, points)
        here = tf.one_hot(targets.classes, tf.shape(points.logits)[-1]) * targets.quality[..., None]
        probability = tf.stop_gradient(tf.sigmoid(points.logits))
        absent = tf.where(targets.crowds, 0.0, NEGATIVE_WEIGHT * probability**NEGATIVE_POWER)
        weight = tf.where(here > 0.0, here, absent)
        entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=here, logits=points.logits)
        of_classes = tf.reduce_sum(weight * entropy, axis=(1, 2))
        of_boxes = tf.reduce_sum(targets.quality * (1.0 - giou(targets.boxes, points.boxes)), axis=1)
        pictures = tf.cast(tf.shape(labels)[0], tf.float32)
        pictures, total = over_replicas([pictures, tf.reduce_sum(targets.quality)])
        return (of_classes + BOX_WEIGHT * of_boxes) * pictures / tf.maximum(total, 1.0)


def over_replicas(values: list[Any]) -> list[Any]:
    """Return the sums of values over all replicas that share a batch; the values themselves without a strategy.

    Keras takes the mean over the replicas, each of which has a part of the batch: with a divisor of its own, a replica
    with few objects would count as much as one with many.
    """
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return values
    sums: list[Any] = replica.all_reduce(tf.distribute.ReduceOp.SUM, values)
    return sums
