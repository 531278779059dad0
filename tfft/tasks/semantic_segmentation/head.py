"""Head for semantic segmentation: a light decoder with a loss of pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, unknown_name
from tfft.heads import FOCAL_GAMMA, RAW_SIGNATURE, Head, ModelFeatures, ServedModel, as_names
from tfft.layers.preprocess import preprocess_of
from tfft.tasks.semantic_segmentation import STRIDE, VOID, deeplab, light
from tfft.tasks.semantic_segmentation.enlarge import masks_of
from tfft.tasks.semantic_segmentation.losses import PixelAccuracy, PixelMeanIoU, SegmentationLoss

_RARE = 1.1  # constant of the ENet weights: a class without pixels weighs 10.5, one with all of them 1.35


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of an architecture.

    Attributes:
        attach: Adds them to feature maps by stride, for a head and a width.
        width: Usual number of channels.
    """

    attach: Callable[[Head, Mapping[int, keras.KerasTensor], int], keras.KerasTensor]
    width: int


DEFAULT = "tfft"
LAYERS = {
    DEFAULT: Layers(light.attach, width=96),
    "deeplab_v3": Layers(deeplab.attach, width=256),  # as in its paper
}


@dataclasses.dataclass(frozen=True)
class SemanticSegmentationHead(Head):
    """One logit per class and cell of 4 x 4 pixels; labels are masks [B, H, W], 255 for pixels without a label.

    Served: ``mask`` uint8 [B, H, W], the most probable class of each pixel of the image as it was given; in a batch
    of files 255 beyond the edges of the smaller ones; ``size`` int32 [B, 2], rows and columns of each image;
    ``probabilities`` float32 [B, h, w, C]; ``shares`` float32 [B, C], the share of the pixels that each class has.

    Attributes:
        width: Channels of the decoder.
        class_weights: Weights of the classes in the cross-entropy; None for equal ones.
        architecture: ``"tfft"``, or ``"deeplab_v3"`` with layers of KerasHub, see
            :mod:`tfft.tasks.semantic_segmentation.deeplab`.
    """

    least_names: ClassVar[int] = 2

    width: int = LAYERS[DEFAULT].width
    class_weights: tuple[float, ...] | None = None
    architecture: str = DEFAULT

    def __post_init__(self) -> None:
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(float(weight) for weight in self.class_weights))
        super().__post_init__()

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if self.units > VOID:
            problems.append(f"at most {VOID} classes fit into a mask of bytes, received {self.units}")
        if not (isinstance(self.width, int) and self.width >= 1):
            problems.append(f"width must be an integer of at least 1, received {self.width!r}")
        if self.architecture not in LAYERS:
            problems.append(unknown_name("architecture", self.architecture, list(LAYERS)))
        weights = self.class_weights
        if weights is not None and (len(weights) != self.units or not all(0 < w < math.inf for w in weights)):
            problems.append(f"class_weights must be {self.units} numbers above 0, received {list(weights)}")
        return problems

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON."""
        weights = self.class_weights
        return {**super().to_dict(), "class_weights": None if weights is None else list(weights)}

    def fitted_to(self, labels: Any) -> SemanticSegmentationHead:
        """Return the head with class weights from the pixels of training masks; given ones are kept.

        The weight of a class with the share p of all labelled pixels is ``1 / ln(1.1 + p)`` (Paszke et al., "ENet",
        2016, with 1.02 instead of 1.1: weights of 1.4 to 10.5 here, of 1.4 to 50 there).

        Args:
            labels: Labels of :class:`tfft.tasks.semantic_segmentation.data.MaskedImages`, int32 [N, 1 + classes], or
                masks, int [N, H, W].

        Example:
            >>> head = tfft.heads.semantic_segmentation(splits.class_names).fitted_to(splits.train.labels)
        """
        if self.class_weights is not None:
            return self
        counts = self.pixels_of(np.asarray(labels))
        shares = counts / max(counts.sum(), 1)
        return dataclasses.replace(self, class_weights=tuple((1 / np.log(_RARE + shares)).tolist()))

    def pixels_of(self, labels: np.ndarray) -> np.ndarray:
        """Return the number of labelled pixels of each class, float64 [C], for labels as in :meth:`fitted_to`."""
        if labels.ndim == 2 and labels.shape[1] == 1 + self.units:
            return labels[:, 1:].sum(axis=0, dtype=np.float64)
        if labels.ndim != 3:
            raise PlanError(
                f"Expected masks [N, H, W] or the labels of masked images [N, {1 + self.units}] for {self.units} "
                f"classes. Received: labels {labels.shape}."
            )
        return np.bincount(labels[labels != VOID], minlength=self.units)[: self.units].astype(np.float64)

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return weighted cross-entropy (or the focal loss) plus the Dice loss."""
        _refuse(soft)
        gamma = FOCAL_GAMMA if self.loss_name == "focal" else 0.0
        return SegmentationLoss(self.class_weights, gamma, self.label_smoothing, name="segmentation")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``mean_iou`` and ``accuracy`` of pixels, both at the size of the logits."""
        _refuse(soft)
        return [PixelMeanIoU(self.units, name="mean_iou"), PixelAccuracy(name="accuracy")]

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add the decoder of the architecture, ``dropout`` and ``logits`` to maps by stride.

        Args:
            features: Maps [B, h, w, channels] by stride, at least one, the finest with stride 4.

        Returns:
            float32 logits [B, H / 4, W / 4, classes].

        Raises:
            PlanError: If the features are not maps by stride.
            DependencyError: If the architecture needs KerasHub, and it is missing.
        """
        return LAYERS[self.architecture].attach(self, ModelFeatures.of(features).maps, self.width)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn logits into masks at four times their size, probabilities, and the share of each class.

        Exports serve masks of the size of the images, see :meth:`served`.
        """
        logits = tf.cast(logits, tf.float32)
        large = tf.image.resize(logits, tf.shape(logits)[1:3] * STRIDE, "bilinear")
        mask = tf.argmax(large, axis=-1, output_type=tf.int32)
        shares = [tf.reduce_mean(tf.cast(mask == c, tf.float32), axis=(1, 2)) for c in range(self.units)]
        return {
            "mask": tf.cast(mask, tf.uint8),
            "probabilities": tf.nn.softmax(logits),
            "shares": tf.stack(shares, axis=-1),
        }

    def served(self, model: keras.Model) -> ServedModel:
        """Return the model with masks of the size of each image, probabilities, and the share of each class.

        The signature ``raw`` has masks of the model's size, as small runtimes need them.
        """
        layer = preprocess_of(model)
        if layer is None:
            return ServedModel(model, self.postprocess)

        def sized(logits: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = tf.cast(logits, tf.float32)
            masks, shares = masks_of(logits, sizes, layer.spec)
            return {"mask": masks, "size": sizes, "probabilities": tf.nn.softmax(logits), "shares": shares}

        return ServedModel(model, self.postprocess, {RAW_SIGNATURE: self.postprocess}, sized)


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError("The labels of pixels are integers, so soft=True does not apply. Leave it out.")


def semantic_segmentation(
    class_names: Sequence[str],
    *,
    width: int | None = None,
    class_weights: Sequence[float] | None = None,
    dropout: float = 0.1,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
    architecture: str | None = None,
) -> SemanticSegmentationHead:
    """Create a head for one of several classes per pixel.

    Call :meth:`SemanticSegmentationHead.fitted_to` with the training labels, as :func:`tfft.finetune` does, so that
    rare classes weigh more in the cross-entropy.

    Args:
        class_names: Class names in the order of the values in the masks.
        width: Channels of the decoder. Defaults to 96, about 110,000 parameters on EfficientNet-Lite0; for
            ``"deeplab_v3"`` to 256, about 3 million.
        class_weights: Weights of the classes in the cross-entropy. Defaults to equal ones.
        dropout: Dropout rate in front of the last layer.
        l2: As in :func:`tfft.heads.classification`.
        label_smoothing: As in :func:`tfft.heads.classification`; of the cross-entropy only.
        loss: ``"cross_entropy"`` or ``"focal"``; the Dice loss is added to either.
        architecture: ``"tfft"``, or ``"deeplab_v3"``, which needs KerasHub. Defaults to ``"tfft"``.

    Returns:
        A head with one logit per class and cell of 4 x 4 pixels.

    Example:
        >>> head = semantic_segmentation(["background", "vessel"])
        >>> model = tfft.build(tfft.load_backbone("efficientnet-lite0"), head, image_size=(352, 480))
    """
    names, architecture = as_names(class_names), architecture or DEFAULT
    width = LAYERS.get(architecture, LAYERS[DEFAULT]).width if width is None else width
    weights = None if class_weights is None else tuple(class_weights)
    return SemanticSegmentationHead(
        "semantic_segmentation", names, len(names), dropout, l2, label_smoothing, loss, width, weights, architecture
    )
