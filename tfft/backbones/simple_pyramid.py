"""Feature maps of several strides from one: :func:`simple_pyramid`.

A plain Vision Transformer has one stride. A few new layers make the others of its last map, for detectors and
segmenters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import keras

_FEWEST = 8  # channels of an enlarged map


@dataclasses.dataclass(frozen=True, eq=False)
class SingleMap:
    """The last output of a backbone all of whose features have one stride.

    Attributes:
        block: Name of the block.
        stride: Pixels of the image per cell, along each side.
        shape: Height, width and channels of the map.
        tokens: Number of tokens in front of those of the map, such as a class token.
        tensor: Symbolic output: a map [B, height, width, channels], or tokens [B, tokens + height * width, channels].
    """

    block: str
    stride: int
    shape: tuple[int, int, int]
    tokens: int
    tensor: keras.KerasTensor


def simple_pyramid(
    features: keras.KerasTensor, single: SingleMap, strides: Sequence[int]
) -> dict[int, keras.KerasTensor]:
    """Return feature maps of several strides from the last map of a Vision Transformer.

    A finer map comes from transposed convolutions with kernels and strides of 2, each of which halves the channels
    (down to 8), with LayerNorm and GELU between them; a coarser one from max pooling (Li et al., "Exploring plain
    vision transformer backbones for object detection", ECCV 2022). The 1 x 1 and 3 x 3 convolutions that follow there
    belong to the heads here.

    Args:
        features: Output of the backbone for the same images: ``single.tensor``, or that of a model from it.
        single: Its stride and shape.
        strides: Strides in pixels, powers of two.

    Returns:
        Symbolic maps by stride. Their layers, whose names begin with ``pyramid``, are new and trainable.

    Example:
        >>> maps = simple_pyramid(single.tensor, single, (8, 16, 32))
    """
    if len(features.shape) == 3:
        if single.tokens:
            features = keras.layers.Cropping1D((single.tokens, 0), name="pyramid_patches")(features)
        features = keras.layers.Reshape(single.shape, name="pyramid_map")(features)
    return {stride: _resized(features, single.stride, stride) for stride in strides}


def _resized(value: keras.KerasTensor, have: int, want: int) -> keras.KerasTensor:
    """Return a map at another stride."""
    for step in range(round(math.log2(have / want))):  # finer
        name = f"pyramid_{want}_{step}"
        if step:
            value = keras.layers.LayerNormalization(name=f"{name}_norm")(value)
            value = keras.layers.Activation("gelu", name=f"{name}_gelu")(value)
        width = max(_FEWEST, value.shape[-1] // 2)
        value = keras.layers.Conv2DTranspose(width, 2, 2, name=f"{name}_up")(value)
    for step in range(round(math.log2(want / have))):
        value = keras.layers.MaxPooling2D(2, 2, "same", name=f"pyramid_{want}_{step}_pool")(value)
    return value
