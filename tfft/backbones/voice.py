"""An acoustic model with random weights, to train a voice from scratch: :func:`voice`."""

from __future__ import annotations

import keras

from tfft.backbones.base import Backbone
from tfft.layers.voice_blocks import (
    DurationPredictor,
    FrameBlock,
    FrameDense,
    LengthRegulator,
    SpeechBlock,
    SymbolEmbedding,
    SymbolMask,
)

MEL_BANDS = 80
SYMBOLS_LAYER = "symbol_table"


def voice(
    name: str = "voice-small",
    *,
    width: int = 192,
    encoder_blocks: int = 3,
    decoder_blocks: int = 3,
    heads: int = 2,
    dropout: float = 0.1,
    capacity: int = 255,
) -> Backbone:
    """Create an acoustic model with random weights: symbols and their durations in, log-mel frames out.

    FastSpeech 2 (Ren et al., "FastSpeech 2: Fast and high-quality end-to-end text to speech", ICLR 2021) in small. The
    blocks are ``symbol_table``, ``encoder1`` to ``encoder3``, ``duration_predictor``, ``decoder0`` to ``decoder3`` and
    ``mel``. Differences: pitch and energy are not predicted, a frame gets its place within its symbol instead of a
    position encoding, and the blocks behind the length regulator have no attention.

    Args:
        name: Name of the backbone.
        width: Width of the features.
        encoder_blocks: Number of blocks for symbols.
        decoder_blocks: Number of blocks for frames.
        heads: Attention heads of an encoder block.
        dropout: Dropout rate within blocks.
        capacity: Number of different symbols that fit.

    Returns:
        A backbone from ``symbols`` int32 [B, S] (0 for padding) and ``durations`` int32 [B, S] (below 0 to predict
        them) to float32 [B, T, 82]: 80 normalized log-mel bands, the predicted logarithm of the frames of a frame's
        symbol, and the weight 1 / duration, 0 behind the end. It is not pretrained.

    Example:
        >>> backbone = voice(width=64, encoder_blocks=1)
    """
    symbols = keras.Input((None,), dtype="int32", name="symbols")
    durations = keras.Input((None,), dtype="int32", name="durations")
    mask = SymbolMask(name="mask")(symbols)
    x = SymbolEmbedding(width, capacity, name=SYMBOLS_LAYER)(symbols)
    for number in range(1, encoder_blocks + 1):
        x = SpeechBlock(width, heads, kernel_size=3, dropout=dropout, name=f"encoder{number}")(x, mask)
    logs = DurationPredictor(width, dropout, name="duration_predictor")(x, mask)
    frames = LengthRegulator(name="regulator")(x, logs, mask, durations)
    small = keras.initializers.RandomNormal(stddev=0.01)  # the first frames are near the mean spectrum
    x = FrameDense(width, name="decoder0")(frames)
    for number in range(1, decoder_blocks + 1):
        x = FrameBlock(width, 0, dropout=dropout, name=f"decoder{number}")(x)
    output = FrameDense(MEL_BANDS, kernel_initializer=small, dtype="float32", name="mel")(x)
    model = keras.Model({"symbols": symbols, "durations": durations}, output, name=name.replace("-", "_"))
    return Backbone(name, model, name, notes=(f"{name} has random weights: all of it trains",), pretrained=False)


def symbol_table(model: keras.Model) -> SymbolEmbedding | None:
    """Return the table of a network that takes symbols and durations, as those of :func:`voice` do; else None."""
    return next((layer for layer in model.layers if isinstance(layer, SymbolEmbedding)), None)
