"""Head for object detection: a light feature pyramid and shared towers for classes and boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.errors import PlanError, unknown_name
from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, RAW_SIGNATURE, Head, ModelFeatures, ServedModel, as_names
from tfft.layers.keras_hub_layers import require_keras_hub
from tfft.tasks.object_detection import ARCHITECTURES, DETECTIONS, RETINANET
from tfft.tasks.object_detection.geometry import EXTRA, Points, points_of
from tfft.tasks.object_detection.layers import DetectionLogits, TopDownSum
from tfft.tasks.object_detection.loss import DetectionLoss
from tfft.tasks.object_detection.metric import AveragePrecision
from tfft.tasks.object_detection.retinanet import RetinaNetLoss
from tfft.tasks.object_detection.retinanet import attach as attach_retinanet

WIDTH, RETINANET_WIDTH = 96, 256  # channels; RetinaNet has those of its paper
_DEPTH = 2  # convolutions of a tower
_FIRST_REACH = 3.0  # before softplus: a new box reaches about 3 cells to each side
_MOMENTUM = 0.9  # of BatchNorm: a small dataset has some fifty steps, and statistics with 0.99 would lag behind


@dataclasses.dataclass(frozen=True)
class ObjectDetectionHead(Head):
    """Class logits and a box for each cell of each feature map; labels are float [B, M, 7].

    A label has one row per object: class, top, left, bottom, right (normalised to the picture), and height and width of
    the picture in pixels. Class -1 is padding, ``-(2 + c)`` a crowd region of class c.

    Served: ``detection_boxes`` float32 [B, 100, 4] (top, left, bottom, right, normalised), ``detection_scores`` float32
    [B, 100], ``detection_classes`` int32 [B, 100], ``detection_labels`` string [B, 100], ``num_detections`` int32 [B].

    Attributes:
        width: Channels of the pyramid and of the towers.
        score_threshold: Least score of a detection.
        iou_threshold: IoU from which the weaker of two boxes of a class is suppressed.
        architecture: ``"tfft"``, or ``"retinanet"`` for the layers of KerasHub, see
            :mod:`tfft.tasks.object_detection.retinanet`.
    """

    dropout: float = 0.0
    width: int = WIDTH
    score_threshold: float = 0.02
    iou_threshold: float = 0.6
    architecture: str = ARCHITECTURES[0]

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if self.loss_name != "cross_entropy":
            problems.append(f"a detector has one loss, received loss={self.loss_name!r}: leave it out")
        if self.label_smoothing:
            problems.append(f"a detector takes no label_smoothing, received {self.label_smoothing!r}: leave it out")
        if self.width < 1:
            problems.append(f"width must be at least 1, received {self.width!r}")
        if self.architecture not in ARCHITECTURES:
            problems.append(unknown_name("architecture", self.architecture, ARCHITECTURES))
        if self.architecture == RETINANET and self.width % 32:
            problems.append(f"width of a RetinaNet must be a multiple of 32, received {self.width!r}")
        for field in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, field) < 1:
                problems.append(f"{field} must be 0 or more and below 1, received {getattr(self, field)!r}")
        return problems

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return :class:`tfft.tasks.object_detection.loss.DetectionLoss`, or that of the architecture."""
        _refuse(soft)
        return RetinaNetLoss() if self.architecture == RETINANET else DetectionLoss()

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``average_precision`` at an IoU of 0.5."""
        _refuse(soft)
        return [AveragePrecision(self.units, self.score_threshold, self.iou_threshold, name="average_precision")]

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add a feature pyramid, towers and ``logits`` to feature maps.

        Each map gets ``width`` channels by a 1 x 1 convolution, and coarser maps are added to finer ones. Two towers of
        separable 3 x 3 convolutions follow, one for classes and one for boxes. All maps share their kernels, and each
        map has BatchNorm of its own (EfficientDet: Tan et al., CVPR 2020).

        Args:
            features: Maps [B, h, w, channels] by stride, with known channels.

        Returns:
            float32 [B, P, C + 6], as from :class:`tfft.tasks.object_detection.layers.DetectionLogits`; a RetinaNet has
            two more numbers at the end.

        Raises:
            PlanError: If the features are not maps by stride.
            DependencyError: If the architecture needs KerasHub, and it is missing.
        """
        values = ModelFeatures.of(features).values
        if not isinstance(values, Mapping):
            raise PlanError(
                "Expected feature maps by stride, ModelFeatures({8: ..., 16: ..., 32: ...}). Received: one tensor "
                f"{tuple(values.shape)}. tfft.build(backbone, head) makes them."
            )
        if self.architecture == RETINANET:
            require_keras_hub("architecture='retinanet'")
            return attach_retinanet(self, values, self.width)
        maps = self._pyramid(dict(sorted(values.items())))
        class_maps, box_maps = self._tower("class", maps), self._tower("box", maps)
        distances = keras.layers.Dense(
            4, "softplus", bias_initializer=keras.initializers.Constant(_FIRST_REACH), dtype="float32", name="distances"
        )
        # Large boxes need precise corners: half precision has steps of 1/256 above a half.
        reach = [distances(box_maps[stride]) for stride in maps]
        if self.dropout:
            drop = keras.layers.Dropout(self.dropout, name=DROPOUT_LAYER)
            class_maps = {stride: drop(value) for stride, value in class_maps.items()}
        return DetectionLogits(self, name=LOGITS_LAYER)(list(class_maps.values()), reach)

    def _pyramid(self, maps: Mapping[int, keras.KerasTensor]) -> dict[int, keras.KerasTensor]:
        """Return maps of one width, finest first, each with the coarser ones added."""
        found: dict[int, keras.KerasTensor] = {}
        coarser = None
        for stride, value in reversed(list(maps.items())):
            value = _block(f"lateral_{stride}", self._convolution(f"lateral_{stride}", 1), value)
            if coarser is not None:
                value = TopDownSum(name=f"top_down_{stride}")(value, coarser)
                value = _block(f"smooth_{stride}", self._convolution(f"smooth_{stride}"), value)
            found[stride] = coarser = value
        return dict(sorted(found.items()))

    def _tower(self, name: str, maps: Mapping[int, keras.KerasTensor]) -> dict[int, keras.KerasTensor]:
        """Return maps behind convolutions that all of them share."""
        values = dict(maps)
        for depth in range(_DEPTH):
            shared = self._convolution(f"{name}_{depth}")
            values = {stride: _block(f"{name}_{depth}_{stride}", shared, value) for stride, value in values.items()}
        return values

    def _convolution(self, name: str, size: int = 3) -> Callable[[Any], Any]:
        """Return a convolution; a separable one trains about four times as fast on a CPU as a full 3 x 3."""
        kind = keras.layers.SeparableConv2D if size > 1 else keras.layers.Conv2D
        return kind(self.width, size, padding="same", use_bias=False, name=f"{name}_conv")

    def served(self, model: keras.Model) -> ServedModel:
        """Return the model with :meth:`postprocess`, and with :meth:`raw_outputs` as the signature ``raw``."""
        return ServedModel(model, self.postprocess, {RAW_SIGNATURE: self.raw_outputs})

    def raw_outputs(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the boxes and scores of all cells without suppression, which LiteRT has no built-in operation for.

        Args:
            logits: Output of the model, float [B, P, C + 6].

        Returns:
            ``boxes`` float32 [B, P, 4] (top, left, bottom, right, normalised, not clipped) and ``scores`` float32
            [B, P, C].
        """
        points = self._points(logits)
        return {"boxes": points.boxes, "scores": tf.sigmoid(points.logits)}

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn a model's output into at most 100 detections per picture, by non-maximum suppression in each class.

        Args:
            logits: Output of the model, float [B, P, C + 6].

        Returns:
            Outputs by name, see the class; zeros and ``""`` beyond ``num_detections``.
        """
        points = self._points(logits)
        found = tf.image.combined_non_max_suppression(
            points.boxes[:, :, None], tf.sigmoid(points.logits), DETECTIONS, DETECTIONS, self.iou_threshold,
            self.score_threshold, clip_boxes=True,
        )  # fmt: skip
        classes = tf.cast(found.nmsed_classes, tf.int32)
        there = tf.range(DETECTIONS) < found.valid_detections[:, None]
        names = tf.gather(tf.constant(self.class_names, tf.string), classes)
        return {
            "detection_boxes": found.nmsed_boxes,
            "detection_scores": found.nmsed_scores,
            "detection_classes": classes,
            "detection_labels": tf.where(there, names, ""),
            "num_detections": found.valid_detections,
        }

    def _points(self, output: Any) -> Points:
        """Return the parts of a model's output that all architectures have."""
        return points_of(tf.cast(output[..., : self.units + EXTRA], tf.float32))


def _block(name: str, convolution: Callable[[Any], Any], value: keras.KerasTensor) -> keras.KerasTensor:
    """Return a map behind a convolution, BatchNorm and ReLU."""
    normal = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(convolution(value))
    return keras.layers.ReLU(name=f"{name}_relu")(normal)


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError(
            "The labels of a detector are boxes, so soft=True (mixup, cutmix) has no meaning for them. Leave it out."
        )


def object_detection(
    class_names: Sequence[str],
    *,
    width: int | None = None,
    dropout: float = 0.0,
    l2: float = 0.0,
    score_threshold: float = 0.02,
    iou_threshold: float = 0.6,
    architecture: str | None = None,
) -> ObjectDetectionHead:
    """Create a head that finds objects of several classes and their boxes in images.

    Args:
        class_names: Names in the order of the labels' classes.
        width: Channels of the feature pyramid and of the towers. Defaults to 96, about 0.1 million weights; for
            ``"retinanet"`` to 256, about 8 million.
        dropout: Dropout rate of the class features.
        l2: L2 penalty of the class logits' kernel.
        score_threshold: Least score of a detection, 0 or more and below 1. Average precision needs low ones; leave it,
            and choose a threshold where detections are used.
        iou_threshold: IoU from which the weaker of two boxes of one class is suppressed.
        architecture: ``"tfft"``, or ``"retinanet"``, which needs KerasHub. Defaults to ``"tfft"``.

    Returns:
        A head with one logit per class and a box for each cell of the backbone's feature maps.

    Example:
        >>> head = object_detection(["raccoon"])
        >>> model = tfft.build(tfft.load_backbone("efficientnet-lite0"), head, image_size=(288, 384))
    """
    names, architecture = as_names(class_names), architecture or ARCHITECTURES[0]
    usual = RETINANET_WIDTH if architecture == RETINANET else WIDTH
    return ObjectDetectionHead(
        "object_detection", names, len(names), dropout, l2, width=usual if width is None else width,
        score_threshold=score_threshold, iou_threshold=iou_threshold, architecture=architecture,
    )  # fmt: skip
