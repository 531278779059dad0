"""One more token from an encoder-decoder: :class:`CachedStepper`, :class:`PrefixStepper`, :func:`stepper_of`.

A stepper encodes sources once and then gives the logits of the next token for rows of tokens. What it carries from step
to step are tensors whose first axis is the row, so that a beam search can reorder them.
"""

from __future__ import annotations

from typing import Any, Protocol

import keras
import tensorflow as tf

from tfft.backbones.base import find_backbone


class Stepper(Protocol):
    """Encoder-decoder, one token at a time."""

    def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
        """Encode sources.

        Args:
            source: Input of the encoder, [B, ...], such as tokens, int32 [B, S], -1 for padding.
            rows: Rows for each source, as in a beam.

        Returns:
            What all steps read, and what they pass on.
        """

    def step(self, fixed: Any, carried: list[tf.Tensor], tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Return float32 logits of the next token [N, V], and what the next step gets.

        Args:
            fixed: First result of :meth:`begin`.
            carried: Second result of :meth:`begin`, or of the step before.
            tokens: All tokens of each row so far, int32 [N, t].
        """


class _EncoderDecoder:
    """Network whose first block has a method ``enter``, and whose further encoder blocks have a method ``encode``."""

    def __init__(self, network: keras.Model) -> None:
        layers = network.layers
        self.entry: Any = next(layer for layer in layers if hasattr(layer, "enter"))
        self.encoders: list[Any] = [layer for layer in layers if hasattr(layer, "encode")]

    def encoded(self, source: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the outputs of the encoder [B, S, width], and which places are present, bool [B, S]."""
        x, there = self.entry.enter(source)
        shared, _ = getattr(self.entry, "tables", ((), ()))
        for block in self.encoders:
            x = block.encode(x, there, *shared)
        return x, there


class CachedStepper(_EncoderDecoder):
    """Steps that keep the keys and values of earlier tokens, of decoder blocks with a method ``step``.

    Those are the blocks of :func:`tfft.backbones.transformer.transformer`, of T5 and of Moonshine.

    Args:
        network: Model of the backbone.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(network)
        self.embeddings: Any = next(layer for layer in network.layers if hasattr(layer, "embed"))
        self.decoders: list[Any] = [layer for layer in network.layers if hasattr(layer, "step")]

    def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
        """Encode sources and compute their keys and values for each decoder block."""
        x, there = self.encoded(source)
        keys = [[tf.repeat(t, rows, axis=0) for t in block.source_keys(x)] for block in self.decoders]
        count = tf.shape(source)[0] * rows
        block = self.decoders[0]
        empty = tf.zeros([count, block.heads, 0, block.head_width], x.dtype)
        return (tf.repeat(there, rows, axis=0), keys), [empty] * (2 * len(self.decoders))

    def step(self, fixed: Any, carried: list[tf.Tensor], tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Run the decoder on the last token."""
        there, keys = fixed
        x = self.embeddings.embed(tokens[:, -1:], tf.shape(tokens)[1] - 1)
        found: list[tf.Tensor] = []
        _, shared = getattr(self.entry, "tables", ((), ()))
        for at, block in enumerate(self.decoders):
            x, (key, value) = block.step(x, (carried[2 * at], carried[2 * at + 1]), tuple(keys[at]), there, *shared)
            found += [key, value]
        return next_logits(self.embeddings, x), found


class PrefixStepper(_EncoderDecoder):
    """Steps of any encoder-decoder of such blocks, which run the decoder on all tokens so far.

    It encodes once. The cost of a step grows with the length of the text, so that of a text grows with its square.

    Args:
        network: Model of the backbone: embeddings, encoder blocks and decoder blocks.
    """

    def __init__(self, network: keras.Model) -> None:
        super().__init__(network)
        self.embeddings: Any = next(layer for layer in network.layers if hasattr(layer, "embed_target"))
        self.decoders: list[Any] = [layer for layer in network.layers if hasattr(layer, "decode")]

    def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
        """Encode sources."""
        x, there = self.encoded(source)
        return (tf.repeat(x, rows, axis=0), tf.repeat(there, rows, axis=0)), []

    def step(self, fixed: Any, carried: list[tf.Tensor], tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Run the decoder on all tokens."""
        memory, there = fixed
        y = self.embeddings.embed_target(tokens)
        for block in self.decoders:
            y = block.decode(memory, there, y)
        return next_logits(self.embeddings, y), carried


def next_logits(embeddings: Any, features: tf.Tensor) -> tf.Tensor:
    """Return float32 logits [N, V] of the token behind the last one, for features [N, t, width]."""
    matrix = tf.cast(tf.convert_to_tensor(embeddings.matrix), features.dtype)
    return tf.cast(tf.matmul(features[:, -1], matrix, transpose_b=True), tf.float32)


def stepper_of(model: keras.Model) -> Stepper:
    """Return the stepper for the encoder-decoder in a model."""
    network = find_backbone(model)
    cached = any(hasattr(layer, "step") for layer in network.layers)
    return CachedStepper(network) if cached else PrefixStepper(network)
