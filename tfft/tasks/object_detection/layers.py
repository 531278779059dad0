"""Layers of a detector's head: :class:`TopDownSum` and :class:`DetectionLogits`.

Implementation notes: no layer knows the size of the images, so one model takes several. A position in a map is
normalized by the map's own number of rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.heads import Head, Logits  # noqa: E402
from tfft.tasks.object_detection.geometry import EXTRA  # noqa: E402

# Each class starts with this probability, so that the first steps are not spent on thousands of false alarms (Lin et
# al., "Focal loss for dense object detection", ICCV 2017).
PRIOR = 0.01


@keras.saving.register_keras_serializable(package="tfft")
class TopDownSum(keras.layers.Layer):
    """Sum of a feature map and a coarser one, which is enlarged to its rows and columns (nearest neighbour).

    The step from one level of a feature pyramid to the next finer one (Lin et al., "Feature pyramid networks", CVPR
    2017). Maps of any sizes fit, also where a side is odd.
    """

    def call(self, fine: Any, coarse: Any) -> Any:
        """Return the sum of maps [B, h, w, D] and [B, h', w', D], [B, h, w, D]."""
        larger = tf.image.resize(coarse, tf.shape(fine)[1:3], method="nearest")
        return fine + tf.ensure_shape(larger, fine.shape)

    def compute_output_shape(self, fine_shape: Any, coarse_shape: Any = None) -> Any:
        """Return the shape of the finer map."""
        return tuple(fine_shape)


@keras.saving.register_keras_serializable(package="tfft")
class DetectionLogits(Logits):
    """Last layer of a detector: class logits and decoded boxes of all cells of all maps.

    The class logits are a Dense layer that all maps share. A box reaches from the centre of its cell by the given
    numbers of cells to each side (Tian et al., "FCOS", ICCV 2019), so its unit is the stride of its map.

    Args:
        head: As for :class:`tfft.heads.Logits`.
        **kwargs: As for :class:`tfft.heads.Logits`.
    """

    def __init__(self, head: Head | Mapping[str, Any], **kwargs: Any) -> None:
        kwargs.setdefault("kernel_initializer", keras.initializers.RandomNormal(stddev=0.01))
        kwargs.setdefault("bias_initializer", keras.initializers.Constant(-math.log((1 - PRIOR) / PRIOR)))
        super().__init__(head, **kwargs)
        self.input_spec = None  # Dense expects one tensor
        self.supports_jit = False  # the metric of the head suppresses boxes, for which XLA has no operation

    def build(self, class_maps_shape: Any, distances_shape: Any = None) -> None:
        """Create the kernel for class features of a known width."""
        super().build(tuple(class_maps_shape[0]))
        self.input_spec = None

    def call(self, class_maps: Sequence[Any], distances: Sequence[Any]) -> Any:  # type: ignore[override]
        """Return logits, boxes and centres of all cells.

        Args:
            class_maps: Class features by stride, each float [B, h, w, D].
            distances: Distances from the centre of a cell to the top, left, bottom and right of its box in units of the
                map's cells, each float [B, h, w, 4], at least 0.

        Returns:
            float32 [B, P, C + 6]: class logits; boxes (top, left, bottom, right) and centres (row, column), normalized.
        """
        features = tf.concat([_flat(one) for one in class_maps], axis=1)
        places = tf.concat([_flat(decode(one)) for one in distances], axis=1)
        logits = super().call(features)
        return tf.concat([logits, tf.cast(places, logits.dtype)], axis=-1)

    def compute_output_shape(self, class_maps_shape: Any, distances_shape: Any = None) -> Any:
        """Return [B, P, C + 6]; P is None if a map has no fixed size."""
        sides = [tuple(shape)[1:3] for shape in class_maps_shape]
        fixed = not any(None in side for side in sides)
        cells = sum(rows * columns for rows, columns in sides) if fixed else None
        return (class_maps_shape[0][0], cells, self.units + EXTRA)


def decode(distances: Any) -> Any:
    """Return boxes and centres of the cells of a map.

    The cells of a map cover the image evenly, so a cell of a map with h rows is 1 / h of the image high; for sides
    that are multiples of the stride this is the stride exactly.

    Args:
        distances: From the centre to the top, left, bottom and right in cells, float [B, h, w, 4].

    Returns:
        float [B, h, w, 6]: top, left, bottom, right, row and column, normalized to the image.
    """
    shape = tf.shape(distances)
    rows, columns = tf.cast(shape[1], distances.dtype), tf.cast(shape[2], distances.dtype)
    row = (tf.range(rows, dtype=distances.dtype) + 0.5) / rows
    column = (tf.range(columns, dtype=distances.dtype) + 0.5) / columns
    centres = tf.broadcast_to(tf.stack(tf.meshgrid(row, column, indexing="ij"), axis=-1), [*tf.unstack(shape[:3]), 2])
    cell = tf.stack([1.0 / rows, 1.0 / columns])
    return tf.concat([centres - distances[..., :2] * cell, centres + distances[..., 2:] * cell, centres], axis=-1)


def _flat(value: Any) -> Any:
    """Return [B, h, w, D] as [B, h * w, D]."""
    shape = tf.shape(value)
    return tf.reshape(value, [shape[0], shape[1] * shape[2], value.shape[-1]])
