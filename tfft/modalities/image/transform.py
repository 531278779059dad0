"""Coordinates of an image after resizing, cropping and mirroring: :class:`PixelTransform`.

A label that is a place in the image (a point, a box, a mask) has to move with the pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from tfft.specs import InputSpec


class PixelTransform(NamedTuple):
    """Transform from coordinates in an image to coordinates in a view of it.

    Attributes:
        box: float32 [4]: top, left, bottom and right of the part that fills the view, in pixels of the image; beyond
            its edges if the view is padded.
        mirrored: bool: whether left and right are swapped.
        size: int32 [2]: rows and columns of the view.
    """

    box: tf.Tensor
    mirrored: tf.Tensor
    size: tf.Tensor

    def points(self, places: tf.Tensor) -> tf.Tensor:
        """Move points.

        Args:
            places: Points, float [..., 2]: row and column in pixels of the image, 0.5 for the middle of the first.

        Returns:
            float32 [..., 2] in pixels of the view, outside of it if the point was cut off.
        """
        size = tf.cast(self.size, tf.float32)
        moved = (tf.cast(places, tf.float32) - self.box[:2]) * (size / (self.box[2:] - self.box[:2]))
        rows, columns = moved[..., 0], moved[..., 1]
        return tf.stack([rows, tf.where(self.mirrored, size[1] - columns, columns)], axis=-1)

    def boxes(self, boxes: tf.Tensor) -> tf.Tensor:
        """Move boxes.

        Args:
            boxes: Boxes, float [..., 4]: top, left, bottom, right in pixels of the image.

        Returns:
            float32 [..., 4] in pixels of the view, not clipped to it.
        """
        corners = self.points(tf.reshape(boxes, tf.concat([tf.shape(boxes)[:-1], [2, 2]], axis=0)))
        return tf.concat([tf.reduce_min(corners, axis=-2), tf.reduce_max(corners, axis=-2)], axis=-1)

    def mask(self, mask: tf.Tensor, outside: int = 0) -> tf.Tensor:
        """Move a mask, by nearest-neighbour sampling.

        Args:
            mask: Mask [rows, columns] of the image.
            outside: Value outside of the image.

        Returns:
            The mask of the view, of the same type.
        """
        rows, columns = (self._sources(axis) for axis in (0, 1))
        columns = tf.where(self.mirrored, tf.reverse(columns, [0]), columns)
        height, width = tf.unstack(tf.shape(mask))
        moved = tf.gather(
            tf.gather(mask, tf.clip_by_value(rows, 0, height - 1)), tf.clip_by_value(columns, 0, width - 1), axis=1
        )
        inside = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))[None]
        return tf.where(inside, moved, tf.cast(outside, mask.dtype))

    def _sources(self, axis: int) -> tf.Tensor:
        """Return the source row (or column) in the image for each row (or column) of the view."""
        count, start, end = self.size[axis], self.box[axis], self.box[axis + 2]
        middles = (tf.range(tf.cast(count, tf.float32)) + 0.5) / tf.cast(count, tf.float32)
        return tf.cast(tf.floor(start + middles * (end - start)), tf.int32)


def fitting(size: tf.Tensor, spec: InputSpec) -> PixelTransform:
    """Return the transform of :func:`tfft.layers.preprocess.resize_pixels`.

    Args:
        size: float32 [2], rows and columns of the image.
        spec: Input spec, as in that function.
    """
    wanted = tf.constant(spec.image_size, tf.float32)
    box = tf.concat([[0.0, 0.0], size], axis=0)
    if spec.resize == "crop":
        part = tf.clip_by_value(tf.round(wanted * tf.reduce_min(size / wanted)), 1.0, size)
        start = tf.floor((size - part) / 2)
        box = tf.concat([start, start + part], axis=0)
    elif spec.resize == "pad":
        inner = tf.clip_by_value(tf.round(size * tf.reduce_min(wanted / size)), 1.0, wanted)
        scale = inner / size
        start = -tf.floor((wanted - inner) / 2) / scale
        box = tf.concat([start, start + wanted / scale], axis=0)
    return PixelTransform(box, tf.constant(False), tf.constant(spec.image_size, tf.int32))
