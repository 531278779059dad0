"""One more token from an encoder-decoder: :class:`CachedStepper`, :class:`PrefixStepper`.

A stepper encodes sources once and then gives the logits of the next token for rows of tokens. What it carries from step
to step are tensors whose first axis is the row, so that a beam search can reorder them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import keras
import tensorflow as tf

from tfft.backbones.base import find_backbone
from tfft.errors import BackboneError, join_names
from tfft.keras_compat import producer
from tfft.layers.transformer_blocks import DecoderBlock, EncoderBlock, TokenEmbeddings

_ENCODERS = re.compile(r"(transformer_)?encoder_(layer_)?(\d+)$|transformer_encoder_layer_(\d+)$")


class Stepper(Protocol):
    """Encoder-decoder, one token at a time."""

    def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
        """Encode sources.

        Args:
            source: Tokens, int32 [B, S], -1 for padding.
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


class CachedStepper:
    """Steps of :func:`tfft.backbones.transformer.transformer` that keep the keys and values of earlier tokens.

    Args:
        network: Model of the backbone.
    """

    def __init__(self, network: keras.Model) -> None:
        layers = network.layers
        self.embeddings = next(layer for layer in layers if isinstance(layer, TokenEmbeddings))
        self.encoders = [layer for layer in layers if isinstance(layer, EncoderBlock)]
        self.decoders = [layer for layer in layers if isinstance(layer, DecoderBlock)]

    def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
        """Encode sources and compute their keys and values for each decoder block."""
        there = source >= 0
        x = self.embeddings.embed(tf.maximum(source, 0))
        for block in self.encoders:
            x = block.encode(x, there)
        keys = [[tf.repeat(t, rows, axis=0) for t in block.source_keys(x)] for block in self.decoders]
        count = tf.shape(source)[0] * rows
        block = self.decoders[0]
        empty = tf.zeros([count, block.heads, 0, block.width // block.heads], x.dtype)
        return (tf.repeat(there, rows, axis=0), keys), [empty] * (2 * len(self.decoders))

    def step(self, fixed: Any, carried: list[tf.Tensor], tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Run the decoder on the last token."""
        there, keys = fixed
        x = self.embeddings.embed(tokens[:, -1:], tf.shape(tokens)[1] - 1)
        found: list[tf.Tensor] = []
        for at, block in enumerate(self.decoders):
            x, (key, value) = block.step(x, (carried[2 * at], carried[2 * at + 1]), tuple(keys[at]), there)
            found += [key, value]
        matrix = tf.cast(tf.convert_to_tensor(self.embeddings.matrix), x.dtype)
        return tf.cast(tf.matmul(x[:, 0], matrix, transpose_b=True), tf.float32), found


class PrefixStepper:
    """Steps of any encoder-decoder, which runs its decoder on all tokens so far.

    It encodes once. A step costs as much as the text is long, so long texts take a time that grows with the square.

    Args:
        network: Functional model with the inputs of KerasHub's encoder-decoders and logits as its output.
    """

    def __init__(self, network: keras.Model) -> None:
        memory = _encoded(network)
        inputs = dict(network.input)
        encoder = {name: inputs[name] for name in ("encoder_token_ids", "encoder_padding_mask")}
        self.encoder = keras.Model(encoder, memory)
        rest = [memory, *(inputs[n] for n in ("encoder_padding_mask", "decoder_token_ids", "decoder_padding_mask"))]
        self.decoder = keras.Model(rest, network.output)

    def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
        """Encode sources."""
        there = tf.cast(source >= 0, tf.int32)
        given = {"encoder_token_ids": tf.maximum(source, 0), "encoder_padding_mask": there}
        memory = self.encoder(given, training=False)
        return (tf.repeat(memory, rows, axis=0), tf.repeat(there, rows, axis=0)), []

    def step(self, fixed: Any, carried: list[tf.Tensor], tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Run the decoder on all tokens."""
        memory, there = fixed
        logits = self.decoder([memory, there, tokens, tf.ones_like(tokens)], training=False)
        return tf.cast(logits[:, -1], tf.float32), carried


def stepper_of(model: keras.Model) -> Stepper:
    """Return the stepper for the encoder-decoder in a model."""
    network = find_backbone(model)
    return CachedStepper(network) if any(isinstance(la, DecoderBlock) for la in network.layers) else PrefixStepper(network)


def recomputing(model: keras.Model) -> Stepper:
    """Return a stepper without a cache that runs the whole model, as an oracle for tests."""
    network = find_backbone(model)

    class Recomputing:
        def begin(self, source: tf.Tensor, rows: int) -> tuple[Any, list[tf.Tensor]]:
            return tf.repeat(source, rows, axis=0), []

        def step(self, fixed: Any, carried: list[tf.Tensor], tokens: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            given = {"encoder_token_ids": tf.maximum(fixed, 0), "encoder_padding_mask": tf.cast(fixed >= 0, tf.int32)}
            given |= {"decoder_token_ids": tokens, "decoder_padding_mask": tf.ones_like(tokens)}
            wanted = {name: given[name] for name in network.input}
            return tf.cast(network(wanted, training=False)[:, -1], tf.float32), carried

    return Recomputing()


def _encoded(network: keras.Model) -> keras.KerasTensor:
    """Return the output of the encoder: the only features that depend on the source and that the decoder reads."""
    after = _reached(network, "decoder_token_ids")
    inside = [op for op in network.operations if op.name not in after]
    read = {
        id(tensor): tensor
        for op in network.operations
        if op.name in after
        for node in op._inbound_nodes
        for tensor in node.input_tensors
        if producer(tensor).name not in after and len(tensor.shape) == 3
    }
    names = {op.name for op in inside}
    found = [tensor for tensor in read.values() if producer(tensor).name in names]
    if len(found) != 1:
        raise BackboneError(
            f"Expected an encoder-decoder whose decoder reads one output of the encoder. Received: {network.name}, "
            f"whose decoder reads {join_names([producer(t).name for t in found]) or 'none'}."
        )
    return found[0]


def _reached(network: keras.Model, name: str) -> set[str]:
    """Return the names of the operations that depend on an input."""
    reached = {producer(network.input[name]).name}
    for op in network.operations:
        nodes: Sequence[Any] = op._inbound_nodes
        if any(producer(t).name in reached for node in nodes for t in node.input_tensors):
            reached.add(op.name)
    return reached
