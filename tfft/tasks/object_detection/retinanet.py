"""RetinaNet on the feature maps of any backbone: :func:`attach`, :class:`RetinaNetLogits`, :class:`RetinaNetLoss`.

Implementation notes: feature pyramid and prediction heads are those of KerasHub. Its model, label encoder and anchor
generator take pixels of a fixed size; here, anchors are made from the sizes of the maps, so the head runs on features
that were computed once, and one model takes images of several sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tfft.errors import PlanError, require_platform

require_platform()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, Head, Logits  # noqa: E402
from tfft.layers.keras_hub_layers import RetinaNetPredictions, RetinaNetPyramid, require_keras_hub  # noqa: E402
from tfft.tasks.object_detection.assignment import in_crowds  # noqa: E402
from tfft.tasks.object_detection.geometry import EXTRA, iou  # noqa: E402
from tfft.tasks.object_detection.layers import PRIOR  # noqa: E402
from tfft.tasks.object_detection.loss import over_replicas  # noqa: E402

# Anchors of a cell, of 4 cells to a side: three sizes within an octave, three shapes (Lin et al., ICCV 2017).
_SIDE, _SCALES, _RATIOS = 4.0, (0.0, 1 / 3, 2 / 3), (0.5, 1.0, 2.0)
_ANCHORS = np.array(
    [
        (_SIDE * 2**scale * math.sqrt(ratio), _SIDE * 2**scale / math.sqrt(ratio))
        for ratio in _RATIOS
        for scale in _SCALES
    ],
    np.float32,
)  # height and width in cells
_SIZE = 2  # numbers of a point behind box and centre: height and width of its anchor
_LARGEST = math.log(1000 / 16)  # of the logarithm by which a box is larger than its anchor, as in Detectron
_POSITIVE, _NEGATIVE = 0.5, 0.4  # IoU
_ALPHA, _GAMMA = 0.25, 2.0


def attach(head: Head, maps: Mapping[int, keras.KerasTensor], width: int) -> keras.KerasTensor:
    """Add the layers of RetinaNet to feature maps.

    Args:
        head: Head of the model.
        maps: Maps [B, h, w, channels] at strides 8, 16 and 32.
        width: Channels of the pyramid and of the prediction heads.

    Returns:
        float32 [B, P, C + 8], as from :class:`RetinaNetLogits`.

    Raises:
        PlanError: If a map does not have twice the rows and columns of the next coarser one.
        DependencyError: If KerasHub is missing.
    """
    require_keras_hub("architecture='retinanet'")
    values = [maps[stride] for stride in sorted(maps)]
    sides = [tuple(value.shape[1:3]) for value in values]
    for fine, coarse in zip(sides, sides[1:], strict=False):
        if any(a is not None and b is not None and a != 2 * b for a, b in zip(fine, coarse, strict=True)):
            raise PlanError(
                f"Expected feature maps that each have twice the sides of the next, as RetinaNet adds them. Received: "
                f"{', '.join(f'{rows} x {columns}' for rows, columns in sides)} cells. Use an image_size in "
                "multiples of 32, such as (288, 384)."
            )
    levels = RetinaNetPyramid(width, name="pyramid")(values)
    if head.dropout:
        drop = keras.layers.Dropout(head.dropout, name=DROPOUT_LAYER)
        levels = [drop(level) for level in levels]
    anchors = len(_ANCHORS)
    classes = RetinaNetPredictions(anchors * head.units, width, prior=PRIOR, l2=head.l2, name="classes")
    boxes = RetinaNetPredictions(anchors * 4, width, dtype="float32", name="boxes")  # corners need precision
    return RetinaNetLogits(head, name=LOGITS_LAYER)([classes(one) for one in levels], [boxes(one) for one in levels])


@keras.saving.register_keras_serializable(package="tfft")
class RetinaNetLogits(Logits):
    """Last layer of a RetinaNet, without weights: class logits and decoded boxes of all anchors of all maps.

    A box is its anchor, moved by shares of the anchor's sides and enlarged by exponentials (Girshick et al., "R-CNN",
    CVPR 2014). Anchors lie around the centres of cells.

    Args:
        head: As for :class:`tfft.heads.Logits`.
        **kwargs: As for :class:`tfft.heads.Logits`.
    """

    def __init__(self, head: Head | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(head, **kwargs)
        self.input_spec = None  # Dense expects one tensor
        self.supports_jit = False  # the metric of the head suppresses boxes, for which XLA has no operation

    def build(self, class_maps_shape: Any, box_maps_shape: Any = None) -> None:
        """Create nothing: the weights are in the prediction heads."""
        self.built = True

    def call(self, class_maps: Sequence[Any], box_maps: Sequence[Any]) -> Any:  # type: ignore[override]
        """Return logits, boxes and anchors.

        Args:
            class_maps: Class logits of the anchors of each cell by level, each float [B, h, w, 9 * C].
            box_maps: Row, column, height and width relative to the anchor, each float [B, h, w, 9 * 4].

        Returns:
            float32 [B, P, C + 8]: class logits; box (top, left, bottom, right); centre (row, column) and size (height,
            width) of the anchor, all normalized to the image.
        """
        logits = tf.concat([_by_anchor(one, self.units) for one in class_maps], axis=1)
        places = tf.concat([_decoded(one) for one in box_maps], axis=1)
        return tf.concat([tf.cast(logits, tf.float32), places], axis=-1)

    def compute_output_shape(self, class_maps_shape: Any, box_maps_shape: Any = None) -> Any:
        """Return [B, P, C + 8]; P is None if a map has no fixed size."""
        sides = [tuple(shape)[1:3] for shape in class_maps_shape]
        fixed = not any(None in side for side in sides)
        points = len(_ANCHORS) * sum(rows * columns for rows, columns in sides) if fixed else None
        return (class_maps_shape[0][0], points, self.units + EXTRA + _SIZE)

    def save_own_variables(self, store: Any) -> None:
        """Save nothing, unlike a Dense layer."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing, unlike a Dense layer."""


@keras.saving.register_keras_serializable(package="tfft")
class RetinaNetLoss(keras.losses.Loss):
    """Focal loss of the classes and Huber loss of the boxes of a RetinaNet, per positive anchor of the batch.

    An anchor is positive for the object that it overlaps most, from an IoU of 0.5 on, and negative below 0.4; those
    between do not count (Lin et al., "Focal loss for dense object detection", ICCV 2017, alpha 0.25 and gamma 2). The
    anchor that overlaps an object most is positive too (Ren et al., "Faster R-CNN", 2015), so that objects smaller than
    every anchor are learned. In a crowd region, a negative anchor does not count for the region's class.

    Several replicas of ``tf.distribute`` and microbatches share the divisor as in
    :class:`tfft.tasks.object_detection.loss.DetectionLoss`.

    Args:
        **kwargs: ``name``, ``reduction``, ``dtype``.
    """

    def __init__(self, name: str = "retinanet", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image [B] for labels [B, M, 7] and an output [B, P, C + 8]."""
        labels, output = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        behind = EXTRA + _SIZE
        logits, boxes = output[..., :-behind], output[..., -behind:-4]
        centres, sizes = output[..., -4:-2], output[..., -2:]
        found = match(labels, centres, sizes)
        classes = tf.shape(logits)[-1]
        positive = tf.cast(found.positive, tf.float32)
        here = tf.one_hot(found.classes, classes) * positive[..., None]
        left_out = found.between[..., None] | (in_crowds(labels, centres, classes) & (here == 0.0))
        focal = tf.where(left_out, 0.0, _focal(here, logits))
        distance = _relative(boxes, centres, sizes) - _relative(found.boxes, centres, sizes)
        size = tf.abs(distance)
        huber = tf.where(size < 1.0, 0.5 * distance**2, size - 0.5)
        of_each = tf.reduce_sum(focal, axis=(1, 2)) + tf.reduce_sum(positive * tf.reduce_sum(huber, axis=-1), axis=1)
        pictures = tf.cast(tf.shape(labels)[0], tf.float32)
        pictures, total = over_replicas([pictures, tf.reduce_sum(positive)])
        return of_each * pictures / tf.maximum(total, 1.0)


class Matches(NamedTuple):
    """Objects of the anchors of a batch.

    Attributes:
        positive: Whether the anchor has an object, bool [B, P].
        between: Whether the anchor is neither positive nor negative, bool [B, P].
        classes: Class of its object; any without one. int32 [B, P].
        boxes: Box of its object; any without one. float [B, P, 4].
    """

    positive: Any
    between: Any
    classes: Any
    boxes: Any


def match(labels: Any, centres: Any, sizes: Any) -> Matches:
    """Match anchors with objects by their overlap, see :class:`RetinaNetLoss`.

    Args:
        labels: Objects, float [B, M, 7]; class below 0 for padding and crowd regions.
        centres: Centres of the anchors, float [B, P, 2], the same for all images.
        sizes: Heights and widths of the anchors, float [B, P, 2], the same for all images.
    """
    there, truth = labels[..., 0] >= 0.0, labels[..., 1:5]
    anchors = tf.concat([centres - sizes / 2.0, centres + sizes / 2.0], axis=-1)
    overlap = tf.where(there[..., None], iou(truth[:, :, None], anchors[:, None]), -1.0)
    best, owner = tf.reduce_max(overlap, axis=1), tf.argmax(overlap, axis=1, output_type=tf.int32)
    own = tf.one_hot(tf.argmax(overlap, axis=-1), tf.shape(overlap)[-1], on_value=True, off_value=False)
    own &= there[..., None]
    only = tf.reduce_any(own, axis=1)
    owner = tf.where(only, tf.argmax(tf.cast(own, tf.int8), axis=1, output_type=tf.int32), owner)
    positive = only | (best >= _POSITIVE)
    kinds = tf.cast(tf.maximum(labels[..., 0], 0.0), tf.int32)
    taken = tf.gather(kinds, owner, batch_dims=1), tf.gather(truth, owner, batch_dims=1)
    return Matches(positive, ~positive & (best >= _NEGATIVE), *taken)


def _focal(here: Any, logits: Any) -> Any:
    """Return the focal loss [B, P, C] of logits for targets of 0 and 1."""
    entropy = tf.nn.sigmoid_cross_entropy_with_logits(labels=here, logits=logits)
    wrong = tf.abs(here - tf.sigmoid(logits))
    return (_ALPHA * here + (1.0 - _ALPHA) * (1.0 - here)) * wrong**_GAMMA * entropy


def _relative(boxes: Any, centres: Any, sizes: Any) -> Any:
    """Return boxes [B, P, 4] relative to anchors: row, column in sides of the anchor, logarithms of the sides."""
    tiny = 1e-7
    middles, sides = (boxes[..., :2] + boxes[..., 2:]) / 2.0, boxes[..., 2:] - boxes[..., :2]
    return tf.concat([(middles - centres) / sizes, tf.math.log(tf.maximum(sides, tiny) / sizes)], axis=-1)


def _by_anchor(values: Any, count: int) -> Any:
    """Return a map [B, h, w, 9 * count] as [B, h * w * 9, count]."""
    shape = tf.shape(values)
    return tf.reshape(values, [shape[0], shape[1] * shape[2] * len(_ANCHORS), count])


def _decoded(moves: Any) -> Any:
    """Return boxes, centres and sizes of the anchors, float32 [B, h * w * 9, 8], from a map [B, h, w, 9 * 4]."""
    shape = tf.shape(moves)
    rows, columns = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    row, column = ((tf.range(side) + 0.5) / side for side in (rows, columns))
    centres = tf.repeat(tf.stack(tf.meshgrid(row, column, indexing="ij"), axis=-1)[:, :, None], len(_ANCHORS), axis=2)
    sizes = tf.broadcast_to(tf.constant(_ANCHORS) / tf.stack([rows, columns]), tf.shape(centres))
    centres, sizes = (tf.reshape(value, [1, -1, 2]) for value in (centres, sizes))
    moves = tf.cast(_by_anchor(moves, 4), tf.float32)
    middles = centres + moves[..., :2] * sizes
    halves = sizes * tf.exp(tf.minimum(moves[..., 2:], _LARGEST)) / 2.0
    anchors = tf.repeat(tf.concat([centres, sizes], axis=-1), shape[0], axis=0)
    return tf.concat([middles - halves, middles + halves, anchors], axis=-1)
