"""Assignment of a detector's cells to objects: :func:`assign`."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfft.tasks.object_detection.geometry import Points, centres_within, iou

CELLS = 10  # of one object, at most
ALPHA, BETA = 0.5, 4.0  # exponents of the score and of the IoU
LEAST_QUALITY = 0.1
_TINY = 1e-30


class Assignment(NamedTuple):
    """Targets of the cells of a batch.

    Attributes:
        quality: Target of the cell's own class, 0 to 1; 0 for cells without an object. float [B, P].
        classes: Class of the cell's object; 0 without one. int32 [B, P].
        boxes: Box of the cell's object; any box without one. float [B, P, 4].
        crowds: Whether the centre of a cell is in a crowd region of a class. bool [B, P, C].
    """

    quality: Any
    classes: Any
    boxes: Any
    crowds: Any


def assign(labels: Any, points: Points) -> Assignment:
    """Assign cells to objects by how well their predictions fit, task-aligned (Feng et al., "TOOD", ICCV 2021).

    The candidates of an object are the cells whose centre is in its box, or the nearest one if there is none. Their
    alignment is ``score ** 0.5 * IoU ** 4`` for the object's class and box; the 10 largest (and all that equal the
    tenth) belong to the object. A cell that belongs to several goes to the one with the largest IoU, and before that to
    one that has no other candidate. The quality of a cell is its alignment as a share of the object's largest, times
    the object's largest IoU.

    This differs from the paper in three ways: beta is 4 instead of 6, which is softer at the start; an object without a
    cell inside has the nearest; and the largest IoU counts as at least 0.1, so that no object is without weight.

    Args:
        labels: Objects, float [B, M, 7]: class, top, left, bottom, right, height, width. Class -1 is padding,
            ``-(2 + c)`` a crowd region of class c.
        points: Predictions for all cells.

    Returns:
        Targets without a gradient.
    """
    logits, boxes, centres = map(tf.stop_gradient, points)
    there, truth = labels[..., 0] >= 0.0, labels[..., 1:5]
    kinds = tf.cast(tf.maximum(labels[..., 0], 0.0), tf.int32)
    overlap = iou(truth[:, :, None], boxes[:, None])
    scores = tf.gather(tf.transpose(tf.sigmoid(logits), [0, 2, 1]), kinds, batch_dims=1)
    inside, nearest = _candidates(truth, centres)
    candidate = (inside | nearest) & there[..., None]
    alignment = tf.where(candidate, tf.maximum(scores**ALPHA * overlap**BETA, _TINY), 0.0)
    mine = _owned(alignment, candidate, overlap, nearest)
    alignment, overlap = tf.where(mine, alignment, 0.0), tf.where(mine, overlap, 0.0)
    best = tf.maximum(tf.reduce_max(overlap, axis=-1, keepdims=True), LEAST_QUALITY)
    share = tf.math.divide_no_nan(alignment, tf.reduce_max(alignment, axis=-1, keepdims=True))
    quality = tf.reduce_max(share * best, axis=1)
    owner = tf.argmax(tf.cast(mine, tf.int8), axis=1, output_type=tf.int32)
    classes = tf.where(quality > 0.0, tf.gather(kinds, owner, batch_dims=1), 0)
    crowds = in_crowds(labels, centres, tf.shape(logits)[-1])
    return Assignment(quality, classes, tf.gather(truth, owner, batch_dims=1), crowds)


def _candidates(truth: Any, centres: Any) -> tuple[Any, Any]:
    """Return the cells inside of each object, and the nearest cell of those that have none; both bool [B, M, P]."""
    inside = centres_within(centres, truth)
    middles = (truth[..., :2] + truth[..., 2:]) / 2.0
    distance = tf.reduce_sum((middles[:, :, None] - centres[:, None]) ** 2, axis=-1)
    first = tf.one_hot(tf.argmin(distance, axis=-1), tf.shape(distance)[-1], on_value=True, off_value=False)
    return inside, first & ~tf.reduce_any(inside, axis=-1, keepdims=True)


def _owned(alignment: Any, candidate: Any, overlap: Any, nearest: Any) -> Any:
    """Return which cell belongs to which object, bool [B, M, P], at most one object for each cell."""
    count = tf.minimum(CELLS, tf.shape(alignment)[-1])
    least = tf.math.top_k(alignment, count).values[..., -1:]
    taken = candidate & (alignment >= least)
    # An IoU is at most 1: an object with a single candidate comes before all others.
    claim = tf.where(taken, overlap + 2.0 * tf.cast(nearest, overlap.dtype), -1.0)
    first = tf.argmax(claim, axis=1, output_type=tf.int32)
    return taken & (tf.range(tf.shape(claim)[1])[None, :, None] == first[:, None])


def in_crowds(labels: Any, centres: Any, classes: Any) -> Any:
    """Return which cells have their centre in a crowd region of a class, bool [B, P, C]."""
    kinds = -2 - tf.cast(labels[..., 0], tf.int32)  # below 0 for objects and padding: no class
    inside = tf.cast(centres_within(centres, labels[..., 1:5]), tf.float32)
    return tf.einsum("bmp,bmc->bpc", inside, tf.one_hot(kinds, classes)) > 0.0
