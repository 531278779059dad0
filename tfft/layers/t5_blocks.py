"""Blocks of T5: :class:`T5Embeddings`, :class:`T5Encoder`, :class:`T5Decoder`.

Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer", JMLR 2020; version
1.1 with gated feed-forward layers and an output matrix of its own (Shazeer, "GLU variants improve transformer", 2020).
Positions are known by a bias of the attention scores, which depends on the distance of two tokens. Computed as in
``transformers``: no scale of the scores, no biases of dense layers, RMS normalization before each part.

Implementation notes: as in :mod:`tfft.layers.transformer_blocks`, each block takes and returns the whole state. That of
T5 also has the two tables of position biases, one for the encoder and one for the decoder: all blocks of a stack read
one table, so they are variables of the embeddings, and a frozen stack can be cut between its blocks.
"""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

T5State = tuple[Any, Any, Any, Any, Any, Any]

_HIDDEN = -1e9  # attention score of a place that may not be seen
_EXACT = 1e-6  # a distance at the edge of two buckets belongs to the farther one, whatever the rounding


def bucket_numbers(buckets: int, distance: int, two_sided: bool) -> np.ndarray:
    """Return the buckets of relative positions.

    Half of the buckets of a direction are for single distances, the others for ranges that grow logarithmically.

    Args:
        buckets: Number of buckets.
        distance: Distance from which all tokens share the last bucket.
        two_sided: Whether tokens behind the own one have buckets too, as in an encoder.

    Returns:
        int32 [2 * distance + 1], for the relative positions ``-distance`` (before the own token) to ``distance``.
    """
    place = np.arange(-distance, distance + 1)
    count = buckets // 2 if two_sided else buckets
    far = np.abs(place) if two_sided else np.maximum(-place, 0)
    exact = count // 2
    growth = np.log(np.maximum(far, 1) / exact) / np.log(distance / exact) * (count - exact)
    ranged = np.minimum(exact + np.floor(growth + _EXACT).astype(int), count - 1)
    found = np.where(far < exact, far, ranged)
    return (found + (count * (place > 0) if two_sided else 0)).astype(np.int32)


class _T5Block(keras.layers.Layer):
    """Common parts of the blocks."""

    two_sided = True

    def __init__(
        self, width: int, heads: int, head_width: int, inner: int, activation: str = "relu", gated: bool = False,
        dropout: float = 0.0, epsilon: float = 1e-6, distance: int = 128, last: bool = False, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.width, self.heads, self.head_width, self.inner, self.last = width, heads, head_width, inner, last
        self.activation, self.gated, self.distance = activation, gated, distance
        self.dropout_rate, self.epsilon = dropout, epsilon
        own = heads * head_width
        self.norm_self, self.norm_forward = self.norm("norm_self"), self.norm("norm_forward")
        self.norm_last = self.norm("norm_last") if last else None
        self.query, self.key, self.value = (self.dense(own, name) for name in ("query", "key", "value"))
        self.mix = self.dense(width, "mix")
        self.wide, self.narrow = self.dense(inner, "wide"), self.dense(width, "narrow")
        self.gate = self.dense(inner, "gate") if gated else None
        self.drop = keras.layers.Dropout(dropout, name="drop")

    def norm(self, name: str) -> keras.layers.Layer:
        """Return a new RMS normalization."""
        return keras.layers.RMSNormalization(epsilon=self.epsilon, name=name)

    def dense(self, units: int, name: str) -> keras.layers.Layer:
        """Return a new dense layer without a bias."""
        return keras.layers.Dense(units, use_bias=False, name=name)

    def build(self, *shapes: Any) -> None:
        """Create the variables."""
        shape = (None, None, self.width)
        parts = (self.norm_self, self.norm_forward, self.norm_last, self.query, self.key, self.value, self.wide)
        for layer in (*parts, self.gate):
            if layer is not None:
                layer.build(shape)
        self.mix.build((None, None, self.heads * self.head_width))
        self.narrow.build((None, None, self.inner))
        self.built = True

    def split(self, x: Any) -> Any:
        """Return [B, T, H * d] as [B, H, T, d]."""
        ops, shape = keras.ops, keras.ops.shape(x)
        return ops.transpose(ops.reshape(x, (shape[0], shape[1], self.heads, self.head_width)), (0, 2, 1, 3))

    def bias(self, table: Any, queries: Any, keys: Any) -> Any:
        """Return the position bias [1, H, T, S] of the last ``queries`` of ``keys`` places.

        Args:
            table: Biases of the buckets, [buckets, H].
            queries: Number of queries, int scalar.
            keys: Number of keys, int scalar.
        """
        ops = keras.ops
        buckets = bucket_numbers(table.shape[0], self.distance, self.two_sided)
        place = ops.arange(keys)[None] - (keys - queries + ops.arange(queries))[:, None]
        at = ops.take(buckets, ops.clip(place, -self.distance, self.distance) + self.distance, axis=0)
        return ops.transpose(ops.take(table, at, axis=0), (2, 0, 1))[None]

    def attend(self, query: Any, key: Any, value: Any, mask: Any, bias: Any, training: bool | None) -> Any:
        """Return attention [B, T, H * d] for [B, H, T, d], a mask that broadcasts to [B, H, T, S], and a bias."""
        ops = keras.ops
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        if bias is not None:
            scores = scores + ops.cast(bias, scores.dtype)
        if mask is not None:
            scores = ops.where(mask, scores, ops.cast(_HIDDEN, scores.dtype))
        weights = self.drop(tf.nn.softmax(scores), training=training)
        mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        shape = ops.shape(mixed)
        return ops.reshape(mixed, (shape[0], shape[1], self.heads * self.head_width))

    def forward(self, x: Any, training: bool | None) -> Any:
        """Return x after the feed-forward part, and after the last normalization if this is the last block."""
        normal = self.norm_forward(x)
        wide = self.wide(normal)
        # T5 1.1 has the tanh approximation of GELU.
        wide = keras.ops.relu(wide) if self.activation == "relu" else keras.ops.gelu(wide, approximate=True)
        if self.gate is not None:
            wide = wide * self.gate(normal)
        wide = self.drop(wide, training=training)
        x = x + self.drop(self.narrow(wide), training=training)
        return x if self.norm_last is None else self.drop(self.norm_last(x), training=training)

    def compute_output_spec(self, *state: Any, **kwargs: Any) -> T5State:
        """Return the specs of the state, which keeps its shapes."""
        source, mask, target, matrix, first, second = (keras.KerasTensor(t.shape, t.dtype) for t in state)
        return source, mask, target, matrix, first, second

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own: dict[str, Any] = {
            "width": self.width,
            "heads": self.heads,
            "head_width": self.head_width,
            "inner": self.inner,
        }
        own |= {"activation": self.activation, "gated": self.gated, "dropout": self.dropout_rate}
        own |= {"epsilon": self.epsilon, "distance": self.distance, "last": self.last}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class T5Encoder(_T5Block):
    """Self-attention over the source with position biases, and a feed-forward layer.

    Args:
        width: Width of the features.
        heads: Number of attention heads.
        head_width: Width of a head; the heads together may be wider or narrower than the features.
        inner: Width of the feed-forward layer.
        activation: ``"relu"`` or ``"gelu"``.
        gated: Whether a second dense layer gates the first.
        dropout: Dropout rate.
        epsilon: Constant of the normalization.
        distance: Distance from which all tokens share one bias.
        last: Whether a normalization follows, as after the last block.
        **kwargs: As for any Keras layer.
    """

    def call(
        self, source: Any, mask: Any, target: Any, matrix: Any, table: Any, other: Any, training: bool | None = None
    ) -> T5State:
        """Return the state with new features of the source."""
        return self.encode(source, mask, table, training), mask, target, matrix, table, other

    def encode(self, x: Any, mask: Any, table: Any, training: bool | None = False) -> Any:
        """Return features [B, S, width] for the present tokens of a mask, bool [B, S]."""
        normal, count = self.norm_self(x), keras.ops.shape(x)[1]
        query, key, value = (self.split(layer(normal)) for layer in (self.query, self.key, self.value))
        found = self.attend(query, key, value, mask[:, None, None, :], self.bias(table, count, count), training)
        return self.forward(x + self.drop(self.mix(found), training=training), training)


@keras.saving.register_keras_serializable(package="tfft")
class T5Decoder(_T5Block):
    """Causal self-attention with position biases, attention over the source without them, and a feed-forward layer.

    Args:
        width: As for :class:`T5Encoder`, like all that follow.
        heads: Number of attention heads.
        head_width: Width of a head.
        inner: Width of the feed-forward layer.
        activation: ``"relu"`` or ``"gelu"``.
        gated: Whether a second dense layer gates the first.
        dropout: Dropout rate.
        epsilon: Constant of the normalization.
        distance: Distance from which all tokens share one bias.
        last: Whether a normalization follows.
        **kwargs: As for any Keras layer.
    """

    two_sided = False

    def __init__(self, width: int, heads: int, head_width: int, inner: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(width, heads, head_width, inner, *args, **kwargs)
        own = heads * head_width
        self.norm_cross, self.mix_cross = self.norm("norm_cross"), self.dense(width, "mix_cross")
        self.ask, self.answer_key, self.answer_value = (
            self.dense(own, name) for name in ("ask", "answer_key", "answer_value")
        )

    def build(self, *shapes: Any) -> None:
        """Create the variables."""
        for layer in (self.norm_cross, self.ask, self.answer_key, self.answer_value):
            layer.build((None, None, self.width))
        self.mix_cross.build((None, None, self.heads * self.head_width))
        super().build(*shapes)

    def call(
        self, source: Any, mask: Any, target: Any, matrix: Any, other: Any, table: Any, training: bool | None = None
    ) -> T5State:
        """Return the state with new features of the target."""
        return source, mask, self.decode(source, mask, target, table, training), matrix, other, table

    def decode(self, source: Any, mask: Any, target: Any, table: Any, training: bool | None = False) -> Any:
        """Return features of the target [B, T, width]; each token sees those before it."""
        ops = keras.ops
        normal, count = self.norm_self(target), ops.shape(target)[1]
        place = ops.arange(count)
        seen = (place[:, None] >= place[None])[None, None]
        query, key, value = (self.split(layer(normal)) for layer in (self.query, self.key, self.value))
        found = self.attend(query, key, value, seen, self.bias(table, count, count), training)
        return self._rest(target, found, *self.source_keys(source), mask, training)

    def source_keys(self, source: Any) -> tuple[Any, Any]:
        """Return keys and values of the source, each [B, H, S, d]."""
        return self.split(self.answer_key(source)), self.split(self.answer_value(source))

    def step(
        self, x: Any, past: tuple[Any, Any], source: tuple[Any, Any], mask: Any, table: Any
    ) -> tuple[Any, tuple[Any, Any]]:
        """Return the features of one more token, and the keys and values up to it.

        Args:
            x: Embedding of the token, [B, 1, width].
            past: Keys and values of the tokens before it, each [B, H, t, d].
            source: Result of :meth:`source_keys`.
            mask: Present tokens of the source, bool [B, S].
            table: Position biases of the decoder, [buckets, H].
        """
        normal = self.norm_self(x)
        key = keras.ops.concatenate([past[0], self.split(self.key(normal))], axis=2)
        value = keras.ops.concatenate([past[1], self.split(self.value(normal))], axis=2)
        bias = self.bias(table, 1, keras.ops.shape(key)[2])
        found = self.attend(self.split(self.query(normal)), key, value, None, bias, False)
        return self._rest(x, found, *source, mask, False), (key, value)

    def _rest(self, x: Any, found: Any, key: Any, value: Any, mask: Any, training: bool | None) -> Any:
        x = x + self.drop(self.mix(found), training=training)
        query = self.split(self.ask(self.norm_cross(x)))
        seen = self.attend(query, key, value, mask[:, None, None, :], None, training)
        return self.forward(x + self.drop(self.mix_cross(seen), training=training), training)


@keras.saving.register_keras_serializable(package="tfft")
class T5Embeddings(keras.layers.Layer):
    """Embeddings of source and target, the output matrix, and the position biases of both stacks.

    Args:
        vocabulary_size: Number of tokens.
        width: Width of the embeddings.
        heads: Number of attention heads.
        buckets: Number of buckets of relative positions.
        tied: Whether the embeddings, divided by the root of their width, are the output matrix.
        dropout: Dropout rate of the embeddings.
        **kwargs: As for any Keras layer.
    """

    def __init__(
        self, vocabulary_size: int, width: int, heads: int, buckets: int = 32, tied: bool = True, dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.vocabulary_size, self.width, self.heads, self.buckets = vocabulary_size, width, heads, buckets
        self.tied, self.dropout_rate = tied, dropout
        self.drop = keras.layers.Dropout(dropout, name="drop")

    def build(self, *shapes: Any) -> None:
        """Create the matrices and the tables."""
        shape = (self.vocabulary_size, self.width)
        self.embeddings = self.add_weight(shape, keras.initializers.RandomNormal(stddev=1.0), name="embeddings")
        self.output_matrix = None
        if not self.tied:
            start = keras.initializers.RandomNormal(stddev=self.width**-0.5)
            self.output_matrix = self.add_weight(shape, start, name="output_matrix")
        self.encoder_bias, self.decoder_bias = (
            self.add_weight((self.buckets, self.heads), "zeros", name=name) for name in ("encoder_bias", "decoder_bias")
        )
        self.built = True

    @property
    def matrix(self) -> Any:
        """The matrix that gives the logits, [V, width]."""
        return self.embeddings * (1 / math.sqrt(self.width)) if self.output_matrix is None else self.output_matrix

    @property
    def tables(self) -> tuple[tuple[Any], tuple[Any]]:
        """The position biases [buckets, H] that encoder blocks and decoder blocks take besides their features."""
        return (self.encoder_bias.value,), (self.decoder_bias.value,)

    def call(self, source: Any, mask: Any, target: Any, training: bool | None = None) -> T5State:
        """Return the state: embeddings [B, S, width], the mask as bool, [B, T, width], the matrix, both tables."""
        cast, kind = keras.ops.cast, self.compute_dtype
        x, y = (self.drop(self.embed(ids), training=training) for ids in (source, target))
        tables = [cast(table, kind) for table in (self.encoder_bias, self.decoder_bias)]
        return x, cast(mask, "bool"), y, cast(self.matrix, kind), tables[0], tables[1]

    def embed(self, ids: Any, start: Any = 0) -> Any:
        """Return embeddings [B, T, width] of tokens [B, T], which do not depend on their places."""
        return keras.ops.cast(keras.ops.take(self.embeddings, ids, axis=0), self.compute_dtype)

    def enter(self, source: Any) -> tuple[Any, Any]:
        """Return embeddings of sources [B, S, -1 for padding], and which tokens are present, bool [B, S]."""
        return self.embed(keras.ops.maximum(source, 0)), source >= 0

    def compute_output_spec(self, source: Any, mask: Any, target: Any, training: bool | None = None) -> T5State:
        """Return the specs of the state."""
        kind, table = self.compute_dtype, (self.buckets, self.heads)
        return (
            keras.KerasTensor((*source.shape, self.width), kind), keras.KerasTensor(mask.shape, "bool"),
            keras.KerasTensor((*target.shape, self.width), kind),
            keras.KerasTensor((self.vocabulary_size, self.width), kind),
            keras.KerasTensor(table, kind), keras.KerasTensor(table, kind),
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own: dict[str, Any] = {"vocabulary_size": self.vocabulary_size, "width": self.width, "heads": self.heads}
        own |= {"buckets": self.buckets, "tied": self.tied, "dropout": self.dropout_rate}
        return {**super().get_config(), **own}
