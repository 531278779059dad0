"""Masks in the size of images from logits in the size of a model: :func:`mask_of`, :func:`masks_of`.

Implementation notes: the logits of one class at a time are enlarged, and the largest so far is kept. So memory does not
grow with the number of classes: an image of 12 megapixels with 150 classes would need 7 GB at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfft.modalities.image.transform import fitting
from tfft.specs import InputSpec
from tfft.tasks.semantic_segmentation import VOID


class _Places(NamedTuple):
    """Rows (or columns) of an image among those of a map: the two nearest ones, and the share of the second."""

    low: Any
    high: Any
    share: Any
    seen: Any  # whether the model has seen this row


@tf.autograph.experimental.do_not_convert
def mask_of(logits: Any, size: Any, spec: InputSpec) -> Any:
    """Return the most probable class of each pixel of an image.

    The logits are interpolated (bilinear, as ``tf.image.resize``) at the middle of each pixel, so what the model did to
    fit the image into its size is undone: stretching, cropping or padding.

    Args:
        logits: Logits of the model, float [h, w, C] with C known.
        size: Rows and columns of the image, int [2].
        spec: Size of the model and its way to fit images.

    Returns:
        uint8 [rows, columns]; :data:`VOID` for pixels that the model has not seen, since they were cropped.

    Example:
        >>> mask_of(model.predict(photo[None])[0], photo.shape[:2], spec).shape
        TensorShape([480, 640])
    """
    rows, columns = (_places(tf.cast(size, tf.int32), tf.shape(logits), spec, axis) for axis in (0, 1))
    maps = tf.transpose(tf.cast(logits, tf.float32), [2, 0, 1])

    def enlarged(at: Any) -> Any:
        one = maps[at]
        tall = _mixed(tf.gather(one, rows.low), tf.gather(one, rows.high), rows.share[:, None])
        return _mixed(tf.gather(tall, columns.low, axis=1), tf.gather(tall, columns.high, axis=1), columns.share)

    def step(at: Any, best: Any, mask: Any) -> tuple[Any, Any, Any]:
        found = enlarged(at)
        better = found > best
        return at + 1, tf.where(better, found, best), tf.where(better, tf.cast(at, tf.uint8), mask)

    first = enlarged(0)
    start = (tf.constant(1), first, tf.zeros_like(first, tf.uint8))
    classes = logits.shape[-1]
    _, _, mask = tf.while_loop(lambda at, *_: at < classes, step, start, parallel_iterations=1)
    seen = rows.seen[:, None] & columns.seen[None]
    return tf.where(seen, mask, tf.constant(VOID, tf.uint8))


@tf.autograph.experimental.do_not_convert
def masks_of(logits: Any, sizes: Any, spec: InputSpec) -> tuple[Any, Any]:
    """Return the masks of images of several sizes, and the share of the pixels that each class has.

    Args:
        logits: Logits of the model, float [B, h, w, C] with C known.
        sizes: Rows and columns of each image, int32 [B, 2].
        spec: As in :func:`mask_of`.

    Returns:
        uint8 [B, rows, columns] with the most rows and columns of all images, :data:`VOID` beyond an image; and
        float32 [B, C].
    """
    most, classes = tf.reduce_max(sizes, axis=0), logits.shape[-1]

    def one(values: tuple[Any, Any]) -> tuple[Any, Any]:
        mask = mask_of(*values, spec)
        counts = tf.math.bincount(tf.cast(tf.reshape(mask, [-1]), tf.int32), minlength=VOID + 1, maxlength=VOID + 1)
        shares = tf.cast(counts[:classes], tf.float32) / tf.cast(tf.maximum(tf.size(mask), 1), tf.float32)
        beyond = tf.stack([tf.zeros([2], tf.int32), most - tf.shape(mask)], axis=1)
        return tf.pad(mask, beyond, constant_values=VOID), shares

    signature = (tf.TensorSpec([None, None], tf.uint8), tf.TensorSpec([classes], tf.float32))
    masks, shares = tf.map_fn(one, (logits, sizes), fn_output_signature=signature, parallel_iterations=1)
    return masks, shares


def _places(size: Any, shape: Any, spec: InputSpec, axis: int) -> _Places:
    """Return where the middles of the rows (axis 0) or columns (1) of an image are in the maps."""
    box = fitting(tf.cast(size, tf.float32), spec).box
    start, end, cells = box[axis], box[axis + 2], tf.cast(shape[axis], tf.float32)
    share = (tf.range(tf.cast(size[axis], tf.float32)) + 0.5 - start) / (end - start)
    place = tf.clip_by_value(share * cells - 0.5, 0.0, cells - 1)
    low = tf.floor(place)
    high = tf.minimum(low + 1, cells - 1)
    return _Places(tf.cast(low, tf.int32), tf.cast(high, tf.int32), place - low, (share >= 0) & (share <= 1))


def _mixed(low: Any, high: Any, share: Any) -> Any:
    return low + (high - low) * share
