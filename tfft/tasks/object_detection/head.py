"""Head for object detection: a light feature pyramid and shared towers for classes and boxes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.errors import PlanError, unknown_name
from tfft.heads import RAW_SIGNATURE, Head, ModelFeatures, ServedModel, as_names
from tfft.tasks.object_detection import DETECTIONS, light, retinanet
from tfft.tasks.object_detection.geometry import EXTRA, Points, points_of
from tfft.tasks.object_detection.loss import DetectionLoss
from tfft.tasks.object_detection.metric import AveragePrecision


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of an architecture.

    Attributes:
        attach: Adds them to feature maps by stride, for a head and a width.
        loss: Returns their loss.
        width: Usual number of channels.
        width_step: Number that the channels are a multiple of.
    """

    attach: Callable[[Head, Mapping[int, keras.KerasTensor], int], keras.KerasTensor]
    loss: Callable[[], keras.losses.Loss]
    width: int
    width_step: int = 1


DEFAULT = "tfft"
LAYERS = {
    DEFAULT: Layers(light.attach, DetectionLoss, width=96),
    "retinanet": Layers(retinanet.attach, retinanet.RetinaNetLoss, width=256, width_step=32),  # as in its paper
}


@dataclasses.dataclass(frozen=True)
class ObjectDetectionHead(Head):
    """Class logits and a box for each cell of each feature map; labels are float [B, M, 7].

    A label has one row per object: class, top, left, bottom, right (normalized to the image), and height and width of
    the image in pixels. Class -1 is padding, ``-(2 + c)`` a crowd region of class c.

    Served: ``detection_boxes`` float32 [B, 100, 4] (top, left, bottom, right, normalized), ``detection_scores`` float32
    [B, 100], ``detection_classes`` int32 [B, 100], ``detection_labels`` string [B, 100], ``num_detections`` int32 [B].

    Attributes:
        width: Channels of the pyramid and of the towers.
        score_threshold: Minimum score of a detection.
        iou_threshold: IoU from which the weaker of two boxes of a class is suppressed.
        architecture: ``"tfft"``, or ``"retinanet"`` for the layers of KerasHub, see
            :mod:`tfft.tasks.object_detection.retinanet`.
    """

    dropout: float = 0.0
    width: int = LAYERS[DEFAULT].width
    score_threshold: float = 0.02
    iou_threshold: float = 0.6
    architecture: str = DEFAULT

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if self.loss_name != "cross_entropy":
            problems.append(f"a detector has one loss, received loss={self.loss_name!r}: leave it out")
        if self.label_smoothing:
            problems.append(f"a detector takes no label_smoothing, received {self.label_smoothing!r}: leave it out")
        if self.width < 1:
            problems.append(f"width must be at least 1, received {self.width!r}")
        if self.architecture not in LAYERS:
            problems.append(unknown_name("architecture", self.architecture, list(LAYERS)))
        elif self.width % (step := LAYERS[self.architecture].width_step):
            problems.append(f"width of a {self.architecture} must be a multiple of {step}, received {self.width!r}")
        for field in ("score_threshold", "iou_threshold"):
            if not 0 <= getattr(self, field) < 1:
                problems.append(f"{field} must be 0 or more and below 1, received {getattr(self, field)!r}")
        return problems

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the loss of the architecture, such as :class:`tfft.tasks.object_detection.loss.DetectionLoss`."""
        _refuse(soft)
        return LAYERS[self.architecture].loss()

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``average_precision`` at an IoU of 0.5."""
        _refuse(soft)
        return [AveragePrecision(self.units, self.score_threshold, self.iou_threshold, name="average_precision")]

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add the layers of the architecture to feature maps, up to ``logits``.

        Args:
            features: Maps [B, h, w, channels] by stride, with known channels.

        Returns:
            float32 [B, P, C + 6], as from :class:`tfft.tasks.object_detection.layers.DetectionLogits`; a RetinaNet has
            two more numbers at the end.

        Raises:
            PlanError: If the features are not maps by stride.
            DependencyError: If the architecture needs KerasHub, and it is missing.
        """
        return LAYERS[self.architecture].attach(self, ModelFeatures.of(features).maps, self.width)

    def served(self, model: keras.Model) -> ServedModel:
        """Return the model with :meth:`postprocess`, and with :meth:`raw_outputs` as the signature ``raw``."""
        return ServedModel(model, self.postprocess, {RAW_SIGNATURE: self.raw_outputs})

    def raw_outputs(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the boxes and scores of all cells without suppression, which LiteRT has no built-in operation for.

        Args:
            logits: Output of the model, float [B, P, C + 6].

        Returns:
            ``boxes`` float32 [B, P, 4] (top, left, bottom, right, normalized, not clipped) and ``scores`` float32
            [B, P, C].
        """
        points = self._points(logits)
        return {"boxes": points.boxes, "scores": tf.sigmoid(points.logits)}

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn a model's output into at most 100 detections per image, by non-maximum suppression in each class.

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


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError(
            "The labels of a detector are boxes, so soft=True (mixup, cutmix) does not apply. Leave it out."
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
        score_threshold: Minimum score of a detection, 0 or more and below 1. Average precision needs a low one; leave
            it, and choose a threshold where detections are used.
        iou_threshold: IoU from which the weaker of two boxes of one class is suppressed.
        architecture: ``"tfft"``, or ``"retinanet"``, which needs KerasHub. Defaults to ``"tfft"``.

    Returns:
        A head with one logit per class and a box for each cell of the backbone's feature maps.

    Example:
        >>> head = object_detection(["raccoon"])
        >>> model = tfft.build(tfft.load_backbone("efficientnet-lite0"), head, image_size=(288, 384))
    """
    names, architecture = as_names(class_names), architecture or DEFAULT
    usual = LAYERS.get(architecture, LAYERS[DEFAULT]).width
    return ObjectDetectionHead(
        "object_detection", names, len(names), dropout, l2, width=usual if width is None else width,
        score_threshold=score_threshold, iou_threshold=iou_threshold, architecture=architecture,
    )  # fmt: skip
