"""Decoder of DeepLabV3+ on the feature maps of any backbone: :func:`attach`.

Implementation notes: the atrous pooling is that of KerasHub, and so are the order and the widths of the other layers.
KerasHub's models take pixels, and enlarge 256 channels to the size of the image; here, logits have a stride of 4 and
are enlarged afterwards, as for every head of the task.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras

from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, Head, Logits
from tfft.layers.keras_hub_layers import AtrousPooling, require_keras_hub
from tfft.tasks.semantic_segmentation.layers import UpsampleLike

# The paper has rates of 6, 12 and 18 at a stride of 16, and twice as many at 8: at 32, half of them.
RATES = (3, 6, 9)
_FINE_WIDTH = 48  # channels of the finest map: more would outweigh the pooled ones (Chen et al., ECCV 2018)
_MOMENTUM = 0.9  # of BatchNorm, as for the other head


def attach(head: Head, maps: Mapping[int, keras.KerasTensor], width: int) -> keras.KerasTensor:
    """Add the decoder, ``dropout`` and ``logits`` to feature maps.

    Args:
        head: Head of the model.
        maps: Maps [B, h, w, channels] by stride; the finest and the coarsest are used.
        width: Channels of the atrous pooling and of the joined map.

    Returns:
        float32 logits of the size of the finest map.

    Raises:
        DependencyError: If KerasHub is missing.
    """
    require_keras_hub("architecture='deeplab_v3'")
    fine, coarse = maps[min(maps)], maps[max(maps)]
    low = _block(fine, _FINE_WIDTH, "fine")
    x = AtrousPooling(width, RATES, _MOMENTUM, name="atrous_pooling")(coarse)
    x = UpsampleLike(name="up")(x, low)
    x = _block(keras.layers.Concatenate(name="joined")([x, low]), width, "decoder")
    x = keras.layers.Dropout(head.dropout, name=DROPOUT_LAYER)(x)
    return Logits(head, name=LOGITS_LAYER)(x)


def _block(tensor: keras.KerasTensor, width: int, name: str) -> keras.KerasTensor:
    """Return a map behind a 1 x 1 convolution, BatchNorm and ReLU."""
    x = keras.layers.Conv2D(width, 1, use_bias=False, name=name)(tensor)
    x = keras.layers.BatchNormalization(momentum=_MOMENTUM, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
