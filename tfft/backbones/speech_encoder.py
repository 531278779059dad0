"""An encoder of speech with random weights, to train from scratch: :func:`speech_encoder`."""

from __future__ import annotations

import keras

from tfft.backbones.base import Backbone
from tfft.layers.speech_blocks import ConformerBlock, FrameConvolution

BANDS = 64  # mel bands of a frame


def speech_encoder(
    name: str = "speech-encoder-small",
    *,
    width: int = 144,
    blocks: int = 4,
    heads: int = 4,
    kernel_size: int = 15,
    dropout: float = 0.1,
) -> Backbone:
    """Create an encoder of log-mel frames with random weights.

    Two convolutions with stride 2 (``front1``, ``front2``) make one frame of four, and Conformer blocks (``block1``, …)
    follow: with the defaults 2 million weights. The sample rate is that of the recordings. Features are 0 for frames
    without audio, and a clip has the same features alone and in a padded batch.

    Args:
        name: Name of the backbone.
        width: Width of the features.
        blocks: Number of Conformer blocks.
        heads: Attention heads of a block.
        kernel_size: Frames under the convolution of a block, odd.
        dropout: Dropout rate within blocks.

    Returns:
        A backbone from frames [B, T, 64] to features [B, ceil(T / 4), width], which is not pretrained.

    Example:
        >>> backbone = speech_encoder(width=64, blocks=2)
        >>> model = tfft.build(backbone, tfft.heads.transcription("abc "), audio=tfft.AudioSpec(8000, 4.0))
    """
    inputs = keras.Input((None, BANDS), name="frames")
    x = inputs
    for number in (1, 2):
        x = FrameConvolution(width, name=f"front{number}")(x)
    for number in range(1, blocks + 1):
        x = ConformerBlock(width, heads, kernel_size, dropout=dropout, name=f"block{number}")(x)
    model = keras.Model(inputs, x, name=name.replace("-", "_"))
    return Backbone(name, model, name, notes=(f"{name} has random weights: all of it trains",), pretrained=False)
