"""The default decoder for semantic segmentation, light enough for CPUs: :func:`attach`."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, Head, Logits
from tfft.tasks.semantic_segmentation.layers import UpsampleLike

_MOMENTUM = 0.9  # of BatchNorm: few images make few steps, and a batch has thousands of cells


def attach(head: Head, maps: Mapping[int, keras.KerasTensor], width: int) -> keras.KerasTensor:
    """Add the decoder, ``dropout`` and ``logits`` to feature maps.

    The decoder is in the manner of LR-ASPP (Howard et al., "Searching for MobileNetV3", 2019): a 1 x 1 convolution
    brings the maps of all strides to one width; the coarsest is multiplied by a sigmoid gate that sees the whole
    image; then, from coarse to fine, a map is enlarged, added to the next finer one and passed through a separable
    3 x 3 convolution. LR-ASPP joins two strides and adds class scores; this decoder joins all of them as U-Net does
    (Ronneberger et al., 2015), which thin objects need.

    Args:
        head: Head of the model.
        maps: Maps [B, h, w, channels] by stride.
        width: Channels of the decoder.

    Returns:
        float32 logits of the size of the finest map.
    """
    sides = {stride: _lateral(maps[stride], width, stride) for stride in sorted(maps, reverse=True)}
    coarsest, *finer = sides
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True, name="gate_pool")(maps[coarsest])
    gate = keras.layers.Conv2D(width, 1, activation="sigmoid", name="gate")(pooled)
    x = keras.layers.Multiply(name="gated")([sides[coarsest], gate])
    for stride in finer:
        x = UpsampleLike(name=f"up_{stride}")(x, sides[stride])
        x = keras.layers.Add(name=f"add_{stride}")([x, sides[stride]])
        mix = keras.layers.SeparableConv2D(width, 3, padding="same", use_bias=False, name=f"mix_{stride}")
        x = _normalized(mix(x), f"mix_{stride}")
    x = keras.layers.Dropout(head.dropout, name=DROPOUT_LAYER)(x)
    return Logits(head, name=LOGITS_LAYER)(x)  # a Dense layer on the last axis: a 1 x 1 convolution


def _lateral(feature_map: keras.KerasTensor, width: int, stride: int) -> keras.KerasTensor:
    layer = keras.layers.Conv2D(width, 1, use_bias=False, name=f"lateral_{stride}")
    return _normalized(layer(feature_map), f"lateral_{stride}")


def _normalized(tensor: keras.KerasTensor, name: str) -> keras.KerasTensor:
    normal = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(tensor)
    return keras.layers.ReLU(name=f"{name}_relu")(normal)
