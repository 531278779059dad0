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
        """Return embeddings of targets [B, L, width]; the decoder blocks know the positions."""
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

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        norm = None if self.norm is None else keras.saving.serialize_keras_object(self.norm)
        own = {"rotary_width": self.rotary_width, "rotary_base": self.rotary_base, "norm": norm}
        return {**super().get_config(), **own}
