"""The default head for object detection, light enough for CPUs: :func:`attach`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, Head
from tfft.tasks.object_detection.layers import DetectionLogits, TopDownSum

_DEPTH = 2  # convolutions of a tower
_FIRST_REACH = 3.0  # before softplus: a new box reaches about 3 cells to each side
_MOMENTUM = 0.9  # of BatchNorm: a small dataset has some fifty steps, and statistics with 0.99 would lag behind


def attach(head: Head, maps: Mapping[int, keras.KerasTensor], width: int) -> keras.KerasTensor:
    """Add a feature pyramid, towers and ``logits`` to feature maps.

    Each map gets ``width`` channels by a 1 x 1 convolution, and coarser maps are added to finer ones. Two towers of
    separable 3 x 3 convolutions follow, one for classes and one for boxes. All maps share their kernels, and each
    map has BatchNorm of its own (EfficientDet: Tan et al., CVPR 2020).

    Args:
        head: Head of the model.
        maps: Maps [B, h, w, channels] by stride, finest first.
        width: Channels of the pyramid and of the towers.

    Returns:
        float32 [B, P, C + 6], as from :class:`tfft.tasks.object_detection.layers.DetectionLogits`.
    """
    maps = _pyramid(maps, width)
    class_maps, box_maps = _tower("class", maps, width), _tower("box", maps, width)
    distances = keras.layers.Dense(
        4, "softplus", bias_initializer=keras.initializers.Constant(_FIRST_REACH), dtype="float32", name="distances"
    )
    # Large boxes need precise corners: half precision has steps of 1/256 above a half.
    reach = [distances(box_maps[stride]) for stride in maps]
    if head.dropout:
        drop = keras.layers.Dropout(head.dropout, name=DROPOUT_LAYER)
        class_maps = {stride: drop(value) for stride, value in class_maps.items()}
    return DetectionLogits(head, name=LOGITS_LAYER)(list(class_maps.values()), reach)


def _pyramid(maps: Mapping[int, keras.KerasTensor], width: int) -> dict[int, keras.KerasTensor]:
    """Return maps of one width, finest first, each with the coarser ones added."""
    found: dict[int, keras.KerasTensor] = {}
    coarser = None
    for stride, value in reversed(list(maps.items())):
        value = _block(f"lateral_{stride}", _convolution(f"lateral_{stride}", width, 1), value)
        if coarser is not None:
            value = TopDownSum(name=f"top_down_{stride}")(value, coarser)
            value = _block(f"smooth_{stride}", _convolution(f"smooth_{stride}", width), value)
        found[stride] = coarser = value
    return dict(sorted(found.items()))


def _tower(name: str, maps: Mapping[int, keras.KerasTensor], width: int) -> dict[int, keras.KerasTensor]:
    """Return maps behind convolutions that all of them share."""
    values = dict(maps)
    for depth in range(_DEPTH):
        shared = _convolution(f"{name}_{depth}", width)
        values = {stride: _block(f"{name}_{depth}_{stride}", shared, value) for stride, value in values.items()}
    return values


def _convolution(name: str, width: int, size: int = 3) -> Callable[[Any], Any]:
    """Return a convolution; a separable one trains about four times as fast on a CPU as a full 3 x 3."""
    kind = keras.layers.SeparableConv2D if size > 1 else keras.layers.Conv2D
    return kind(width, size, padding="same", use_bias=False, name=f"{name}_conv")


def _block(name: str, convolution: Callable[[Any], Any], value: keras.KerasTensor) -> keras.KerasTensor:
    """Return a map behind a convolution, BatchNorm and ReLU."""
    normal = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(convolution(value))
    return keras.layers.ReLU(name=f"{name}_relu")(normal)
