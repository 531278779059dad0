"""Decoder of Moonshine as a chain: :class:`MoonshineEmbeddings`, :class:`MoonshineDecoder`.

It follows the encoder of :mod:`tfft.layers.moonshine_blocks`. KerasHub's decoder blocks all read the end of the
encoder, so its graph cannot be cut between them. These layers hold those of KerasHub and pass on the whole state, as in
:mod:`tfft.layers.transformer_blocks`.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfft.layers.held import HeldBlock, HeldLayer, deserialized
from tfft.layers.moonshine_blocks import rotary_angles
from tfft.layers.speech_blocks import present_frames
from tfft.layers.transformer_blocks import State


@keras.saving.register_keras_serializable(package="tfft")
class MoonshineEmbeddings(HeldLayer):
    """Embeddings of the target, and the matrix behind them, next to the outputs of the encoder.

    Args:
        layer: ReversibleEmbedding of KerasHub's backbone.
        dropout: Dropout rate of the embeddings.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, layer: Any, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.dropout_rate = dropout
        self.drop = keras.layers.Dropout(dropout, name="drop")

    def build(self, *shapes: Any) -> None:
        """Create the variables, unless the layer has its own."""
        super().build((None, None))

    @property
    def matrix(self) -> Any:
        """The matrix of the embeddings, [V, width]."""
        return self.layer.embeddings

    def call(self, features: Any, target: Any, training: bool | None = None) -> State:
        """Return the state: features [B, T, width], present frames, embeddings [B, L, width], the matrix [V, width].

        Args:
            features: Outputs of the encoder [B, T, width], 0 for frames without audio.
            target: Tokens, int32 [B, L].
            training: As for any Keras layer.
        """
        y = self.drop(self.embed_target(target), training=training)
        return features, present_frames(features), y, keras.ops.cast(self.matrix, y.dtype)

    def embed_target(self, ids: Any) -> Any:
        """Return embeddings of targets [B, L, width]."""
        return self.embed(ids)

    def embed(self, ids: Any, start: Any = 0) -> Any:
        """Return embeddings [B, L, width] of tokens [B, L]; the decoder blocks know the positions."""
        return self.layer(ids)

    def compute_output_spec(self, features: Any, target: Any, training: bool | None = None) -> State:
        """Return the specs of the state."""
        width = self.layer.output_dim
        return (
            keras.KerasTensor(features.shape, self.compute_dtype),
            keras.KerasTensor(features.shape[:2], "bool"),
            keras.KerasTensor((*target.shape, width), self.compute_dtype),
            keras.KerasTensor((self.layer.input_dim, width), self.compute_dtype),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "dropout": self.dropout_rate}


@keras.saving.register_keras_serializable(package="tfft")
class MoonshineDecoder(HeldBlock):
    """Decoder block of KerasHub, with the rotary positions of its tokens.

    Args:
        layer: MoonshineDecoderBlock of KerasHub.
        rotary_width: Features of a head that positions rotate, even.
        rotary_base: Base of their wavelengths.
        norm: Layer normalization behind the last block; None behind the others.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, layer: Any, rotary_width: int, rotary_base: float, norm: Any = None, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.rotary_width, self.rotary_base = rotary_width, rotary_base
        self.norm = deserialized(norm)
        self.supports_jit = False  # batches have many shapes, and XLA would compile each

    def build(self, *shapes: Any) -> None:
        """Create the variables, unless the layers have theirs."""
        if not self.layer.built:
            self.layer.build(decoder_sequence_shape=shapes[2], encoder_sequence_shape=shapes[0])
        if self.norm is not None and not self.norm.built:
            self.norm.build(shapes[2])
        self.built = True

    def call(self, source: Any, mask: Any, target: Any, matrix: Any, training: bool | None = None) -> State:
        """Return the state with new features of the target."""
        return source, mask, self.decode(source, mask, target, training), matrix

    def decode(self, source: Any, mask: Any, target: Any, training: bool | None = False) -> Any:
        """Return features of the target [B, L, width]; each token sees those before it, so padding needs no mask."""
        angles = rotary_angles(tf.shape(target)[1], self.rotary_width, self.rotary_base, target.dtype)
        found = self.layer(target, source, angles, encoder_padding_mask=mask, training=training)
        return found if self.norm is None else self.norm(found)

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.layer.num_heads

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.layer.head_dim

    def source_keys(self, source: Any) -> tuple[Any, Any]:
        """Return keys and values of the source, each [B, H, S, d]."""
        attention = self.layer.cross_attention
        key, value = (_by_head(dense(source)) for dense in (attention.key_dense, attention.value_dense))
        return key, value

    def step(self, x: Any, past: tuple[Any, Any], source: tuple[Any, Any], mask: Any) -> tuple[Any, tuple[Any, Any]]:
        """Return the features of one more token, and the keys and values up to it.

        Args:
            x: Embedding of the token, [B, 1, width].
            past: Keys and values of the tokens before it, each [B, H, t, d].
            source: Result of :meth:`source_keys`.
            mask: Present frames of the source, bool [B, S].
        """
        place = tf.shape(past[0])[2]
        room = tf.pad(tf.stack(past, axis=1), [[0, 0], [0, 0], [0, 0], [0, 1], [0, 0]])
        found, kept = self.layer(
            x, x, rotary_angles(1, self.rotary_width, self.rotary_base, x.dtype, place), encoder_padding_mask=mask,
            self_attention_cache=_by_place(room), self_attention_cache_update_index=place,
            cross_attention_cache=_by_place(tf.stack(source, axis=1)), training=False,
        )  # fmt: skip
        key, value = (_by_head(kept[:, at]) for at in range(2))
        return found if self.norm is None else self.norm(found), (key, value)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        norm = None if self.norm is None else keras.saving.serialize_keras_object(self.norm)
        own = {"rotary_width": self.rotary_width, "rotary_base": self.rotary_base, "norm": norm}
        return {**super().get_config(), **own}


def _by_head(values: Any) -> Any:
    """Return [B, L, H, d] as [B, H, L, d]."""
    return tf.transpose(values, [0, 2, 1, 3])


def _by_place(pair: Any) -> Any:
    """Return keys and values [B, 2, H, L, d] as KerasHub keeps them, [B, 2, L, H, d]."""
    return tf.transpose(pair, [0, 1, 3, 2, 4])
