"""Boxes as tensors: parts of a model's output, overlap of boxes, cells within boxes.

A box is (top, left, bottom, right), normalized to the image: 0 to 1 from its top left to its bottom right corner.
IoU and GIoU do not change when an axis is scaled, so normalized boxes serve as well as pixels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

EXTRA = 6  # numbers of a point behind its class logits: its box and the centre of its cell
_TINY = 1e-12  # far below the area of a box of one pixel, so that it changes no overlap


class Points(NamedTuple):
    """Output of a detector by its parts.

    Attributes:
        logits: Class logits, float [B, P, C].
        boxes: Predicted boxes, float [B, P, 4].
        centres: Row and column of the centre of each cell, normalized, float [B, P, 2].
    """

    logits: Any
    boxes: Any
    centres: Any


def points_of(output: Any) -> Points:
    """Split a model's output [B, P, C + 6] into class logits, boxes and centres of cells."""
    return Points(output[..., :-EXTRA], output[..., -EXTRA:-2], output[..., -2:])


def areas(boxes: Any) -> Any:
    """Return the areas [...] of boxes [..., 4]; 0 for a box whose corners are in the wrong order."""
    return tf.maximum(boxes[..., 2] - boxes[..., 0], 0.0) * tf.maximum(boxes[..., 3] - boxes[..., 1], 0.0)


def intersections(a: Any, b: Any) -> Any:
    """Return the areas that boxes share; the shapes [..., 4] are broadcast."""
    corners = [tf.maximum(a[..., :2], b[..., :2]), tf.minimum(a[..., 2:], b[..., 2:])]
    return areas(tf.concat(corners, axis=-1))


def iou(a: Any, b: Any) -> Any:
    """Return the intersection over union of boxes; the shapes [..., 4] are broadcast."""
    shared = intersections(a, b)
    return shared / (areas(a) + areas(b) - shared + _TINY)


def giou(a: Any, b: Any) -> Any:
    """Return the generalized IoU of boxes, -1 to 1; the shapes [..., 4] are broadcast.

    That is the IoU minus the share of the smallest common hull that neither box covers, so boxes that do not touch have
    a slope too (Rezatofighi et al., "Generalized intersection over union", CVPR 2019).
    """
    shared = intersections(a, b)
    union = areas(a) + areas(b) - shared
    hull = areas(tf.concat([tf.minimum(a[..., :2], b[..., :2]), tf.maximum(a[..., 2:], b[..., 2:])], axis=-1))
    return shared / (union + _TINY) - (hull - union) / (hull + _TINY)


def centres_within(centres: Any, boxes: Any) -> Any:
    """Return which centres lie inside which boxes.

    Args:
        centres: Rows and columns, float [B, P, 2].
        boxes: Boxes, float [B, M, 4].

    Returns:
        bool [B, M, P].
    """
    low = centres[:, None] - boxes[:, :, None, :2]
    high = boxes[:, :, None, 2:] - centres[:, None]
    return tf.reduce_min(tf.concat([low, high], axis=-1), axis=-1) > 0.0
