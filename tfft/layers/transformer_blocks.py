"""Blocks of an encoder-decoder transformer: :class:`TokenEmbeddings`, :class:`EncoderBlock`, :class:`DecoderBlock`,
:class:`TiedLogits`.

Vaswani et al., "Attention is all you need", 2017. Differences: layer normalization comes before each part (pre-norm,
Xiong et al., "On layer normalization in the transformer architecture", 2020), and one matrix embeds source and target
and gives the logits (Press & Wolf, "Using the output embedding to improve language models", 2017).

Implementation notes: each block takes and returns the whole state ``(source, source mask, target, matrix)``, so the
network is a chain that can be cut and frozen behind any block. For decoding one token at a time, the decoder has
methods of its own, which use the same variables.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

State = tuple[Any, Any, Any, Any]

_EPSILON = 1e-6
_HIDDEN = -1e9  # attention score of a place that may not be seen; finite, so a row of padding has no NaN


def positions(start: Any, count: Any, width: int, dtype: str) -> Any:
    """Return sinusoidal position encodings.

    Args:
        start: First position, int scalar.
        count: Number of positions, int scalar.
        width: Width of the encodings, even.
        dtype: Type of the result.

    Returns:
        [count, width]: sines in the first half, cosines in the second.
    """
    ops = keras.ops
    place = ops.cast(start + ops.arange(count), "float32")[:, None]
    rate = ops.exp(ops.arange(0, width, 2, dtype="float32") * (-math.log(10_000.0) / width))[None]
    return ops.cast(ops.concatenate([ops.sin(place * rate), ops.cos(place * rate)], axis=-1), dtype)


def attend(query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Return dot-product attention.

    Args:
        query: [B, H, T, d].
        key: [B, H, S, d].
        value: [B, H, S, d].
        mask: bool, broadcast to [B, H, T, S]: which places may be seen; None for all.

    Returns:
        [B, T, H * d].
    """
    ops = keras.ops
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / math.sqrt(query.shape[-1])
    if mask is not None:
        scores = ops.where(mask, scores, ops.cast(_HIDDEN, scores.dtype))
    mixed = ops.transpose(ops.matmul(tf.nn.softmax(scores), value), (0, 2, 1, 3))
    shape = ops.shape(mixed)
    return ops.reshape(mixed, (shape[0], shape[1], query.shape[1] * query.shape[-1]))


def specs_of(source: Any, mask: Any, target: Any, matrix: Any) -> State:
    """Return the specs of a state with the same shapes."""
    first, second, third, last = (keras.KerasTensor(t.shape, t.dtype) for t in (source, mask, target, matrix))
    return first, second, third, last


class _Block(keras.layers.Layer):
    """Common parts of the blocks."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float, last: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.heads, self.inner, self.dropout_rate, self.last = width, heads, inner, dropout, last
        layers = keras.layers
        self.norm_self = layers.LayerNormalization(epsilon=_EPSILON, name="norm_self")
        self.norm_forward = layers.LayerNormalization(epsilon=_EPSILON, name="norm_forward")
        self.norm_last = layers.LayerNormalization(epsilon=_EPSILON, name="norm_last") if last else None
        self.project = layers.Dense(3 * width, name="project")  # query, key and value in one product
        self.mix = layers.Dense(width, name="mix")
        self.wide = layers.Dense(inner, "relu", name="wide")
        self.narrow = layers.Dense(width, name="narrow")
        self.drop = layers.Dropout(dropout, name="drop")

    def build(self, *shapes: Any) -> None:
        """Create the variables."""
        shape = (None, None, self.width)
        for layer in (self.norm_self, self.norm_forward, self.project, self.mix, self.wide):
            layer.build(shape)
        self.narrow.build((None, None, self.inner))
        if self.norm_last is not None:
            self.norm_last.build(shape)
        self.built = True

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    def split(self, x: Any, parts: int) -> list[Any]:
        """Return [B, T, parts * width] as a list of [B, H, T, d]."""
        ops, shape = keras.ops, keras.ops.shape(x)
        x = ops.reshape(x, (shape[0], shape[1], parts, self.heads, self.head_width))
        x = ops.transpose(x, (2, 0, 3, 1, 4))
        return [x[at] for at in range(parts)]

    def forward(self, x: Any, training: bool | None) -> Any:
        """Return x after the feed-forward part, and after the last normalization if this is the last block."""
        x = x + self.drop(self.narrow(self.wide(self.norm_forward(x))), training=training)
        return x if self.norm_last is None else self.norm_last(x)

    def compute_output_spec(self, source: Any, mask: Any, target: Any, matrix: Any, **kwargs: Any) -> State:
        """Return the specs of the state, which keeps its shapes."""
        return specs_of(source, mask, target, matrix)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"width": self.width, "heads": self.heads, "inner": self.inner, "dropout": self.dropout_rate}
        return {**super().get_config(), **own, "last": self.last}


@keras.saving.register_keras_serializable(package="tfft")
class EncoderBlock(_Block):
    """Self-attention over the source and a feed-forward layer.

    Args:
        width: Width of the features.
        heads: Number of attention heads; divides the width.
        inner: Width of the feed-forward layer.
        dropout: Dropout rate of both parts.
        last: Whether a layer normalization follows, as after the last block.
        **kwargs: As for any Keras layer.
    """

    def call(self, source: Any, mask: Any, target: Any, matrix: Any, training: bool | None = None) -> State:
        """Return the state with new features of the source."""
        return self.encode(source, mask, training), mask, target, matrix

    def encode(self, x: Any, mask: Any, training: bool | None = False) -> Any:
        """Return features [B, S, width] for the present tokens of a mask, bool [B, S]."""
        query, key, value = self.split(self.project(self.norm_self(x)), 3)
        found = attend(query, key, value, mask[:, None, None, :])
        return self.forward(x + self.drop(self.mix(found), training=training), training)


@keras.saving.register_keras_serializable(package="tfft")
class DecoderBlock(_Block):
    """Causal self-attention over the target, attention over the source and a feed-forward layer.

    Args:
        width: Width of the features.
        heads: Number of attention heads; divides the width.
        inner: Width of the feed-forward layer.
        dropout: Dropout rate of all parts.
        last: Whether a layer normalization follows, as after the last block.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, last: bool, **kwargs: Any) -> None:
        super().__init__(width, heads, inner, dropout, last, **kwargs)
        layers = keras.layers
        self.norm_cross = layers.LayerNormalization(epsilon=_EPSILON, name="norm_cross")
        self.ask = layers.Dense(width, name="ask")
        self.answer = layers.Dense(2 * width, name="answer")  # key and value of the source
        self.mix_cross = layers.Dense(width, name="mix_cross")

    def build(self, *shapes: Any) -> None:
        """Create the variables."""
        shape = (None, None, self.width)
        for layer in (self.norm_cross, self.ask, self.answer, self.mix_cross):
            layer.build(shape)
        super().build(*shapes)

    def call(self, source: Any, mask: Any, target: Any, matrix: Any, training: bool | None = None) -> State:
        """Return the state with new features of the target."""
        return source, mask, self.decode(source, mask, target, training), matrix

    def decode(self, source: Any, mask: Any, target: Any, training: bool | None = False) -> Any:
        """Return features of the target [B, T, width]; each token sees those before it."""
        ops = keras.ops
        place = ops.arange(ops.shape(target)[1])
        query, key, value = self.split(self.project(self.norm_self(target)), 3)
        found = attend(query, key, value, (place[:, None] >= place[None])[None, None])
        return self._rest(target, found, *self.source_keys(source), mask, training)

    def source_keys(self, source: Any) -> tuple[Any, Any]:
        """Return keys and values of the source, each [B, H, S, d]."""
        key, value = self.split(self.answer(source), 2)
        return key, value

    def step(self, x: Any, past: tuple[Any, Any], source: tuple[Any, Any], mask: Any) -> tuple[Any, tuple[Any, Any]]:
        """Return the features of one more token, and the keys and values up to it.

        Args:
            x: Embedding of the token, [B, 1, width].
            past: Keys and values of the tokens before it, each [B, H, t, d].
            source: Result of :meth:`source_keys`.
            mask: Present tokens of the source, bool [B, S].
        """
        query, key, value = self.split(self.project(self.norm_self(x)), 3)
        key = keras.ops.concatenate([past[0], key], axis=2)
        value = keras.ops.concatenate([past[1], value], axis=2)
        return self._rest(x, attend(query, key, value, None), *source, mask, False), (key, value)

    def _rest(self, x: Any, found: Any, key: Any, value: Any, mask: Any, training: bool | None) -> Any:
        x = x + self.drop(self.mix(found), training=training)
        [query] = self.split(self.ask(self.norm_cross(x)), 1)
        seen = attend(query, key, value, mask[:, None, None, :])
        return self.forward(x + self.drop(self.mix_cross(seen), training=training), training)


@keras.saving.register_keras_serializable(package="tfft")
class TokenEmbeddings(keras.layers.Layer):
    """Embeddings of source and target with sinusoidal positions, and the matrix behind them.

    Args:
        vocabulary_size: Number of tokens.
        width: Width of the embeddings.
        dropout: Dropout rate of the embeddings.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, vocabulary_size: int, width: int, dropout: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size, self.width, self.dropout_rate = vocabulary_size, width, dropout
        self.drop = keras.layers.Dropout(dropout, name="drop")

    def build(self, *shapes: Any) -> None:
        """Create the matrix, with a standard deviation of 1 / sqrt(width)."""
        start = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        self.matrix = self.add_weight((self.vocabulary_size, self.width), start, name="matrix")
        self.built = True

    def call(self, source: Any, mask: Any, target: Any, training: bool | None = None) -> State:
        """Return the state: embeddings [B, S, width], the mask as bool, [B, T, width], the matrix [V, width]."""
        there = keras.ops.cast(mask, "bool")
        embedded = [self.drop(self.embed(ids), training=training) for ids in (source, target)]
        return embedded[0], there, embedded[1], keras.ops.cast(self.matrix, self.compute_dtype)

    def embed(self, ids: Any, start: Any = 0) -> Any:
        """Return embeddings [B, T, width] of tokens [B, T], the first of them at a position."""
        ops = keras.ops
        found = ops.cast(ops.take(self.matrix, ids, axis=0), self.compute_dtype) * math.sqrt(self.width)
        return found + positions(start, ops.shape(ids)[1], self.width, self.compute_dtype)

    def embed_source(self, ids: Any) -> Any:
        """Return embeddings of sources [B, S, width]."""
        return self.embed(ids)

    def enter(self, source: Any) -> tuple[Any, Any]:
        """Return embeddings of sources [B, S, -1 for padding], and which tokens are present, bool [B, S]."""
        return self.embed_source(keras.ops.maximum(source, 0)), source >= 0

    def embed_target(self, ids: Any) -> Any:
        """Return embeddings of targets [B, T, width]."""
        return self.embed(ids)

    def compute_output_spec(self, source: Any, mask: Any, target: Any, training: bool | None = None) -> State:
        """Return the specs of the state."""
        return (
            keras.KerasTensor((*source.shape, self.width), self.compute_dtype),
            keras.KerasTensor(mask.shape, "bool"),
            keras.KerasTensor((*target.shape, self.width), self.compute_dtype),
            keras.KerasTensor((self.vocabulary_size, self.width), self.compute_dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"vocabulary_size": self.vocabulary_size, "width": self.width, "dropout": self.dropout_rate}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class TiedLogits(keras.layers.Layer):
    """Logits of the next token: the product with the matrix of the embeddings.

    Args:
        **kwargs: As for any Keras layer.
    """

    def call(self, source: Any, mask: Any, target: Any, matrix: Any) -> Any:
        """Return logits [B, T, V]."""
        return keras.ops.matmul(target, keras.ops.transpose(matrix))

    def build(self, *shapes: Any) -> None:
        """Create nothing: the variables are those of the embeddings."""
        self.built = True

    def compute_output_spec(self, source: Any, mask: Any, target: Any, matrix: Any) -> Any:
        """Return the spec of the logits."""
        return keras.KerasTensor((*target.shape[:-1], matrix.shape[0]), self.compute_dtype)
