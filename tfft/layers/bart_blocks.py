"""Blocks of KerasHub's BART as a chain: :class:`BartEmbeddings`, :class:`BartEncoder`, :class:`BartDecoder`.

Lewis et al., "BART: Denoising sequence-to-sequence pre-training", 2020. KerasHub's decoder layers all read
the end of the encoder, so its graph cannot be cut between them. These layers hold those of KerasHub and pass on the
whole state, as in :mod:`tfft.layers.transformer_blocks`.
"""

from __future__ import annotations

from typing import Any

import keras

from tfft.layers.held import HeldBlock, deserialized
from tfft.layers.transformer_blocks import State

_PARTS = ("tokens", "encoder_positions", "decoder_positions", "encoder_norm", "decoder_norm")


@keras.saving.register_keras_serializable(package="tfft")
class BartEmbeddings(keras.layers.Layer):
    """Embeddings of source and target with learned positions, and the matrix behind them.

    Args:
        tokens: ReversibleEmbedding of KerasHub.
        encoder_positions: PositionEmbedding for the source.
        decoder_positions: PositionEmbedding for the target.
        encoder_norm: Layer normalization of the source.
        decoder_norm: Layer normalization of the target.
        dropout: Dropout rate of the embeddings.
        **kwargs: As for any Keras layer.
    """

    def __init__(
        self, tokens: Any, encoder_positions: Any, decoder_positions: Any, encoder_norm: Any, decoder_norm: Any,
        dropout: float = 0.0, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.tokens = deserialized(tokens)
        self.encoder_norm, self.decoder_norm = map(deserialized, (encoder_norm, decoder_norm))
        self.encoder_positions, self.decoder_positions = map(deserialized, (encoder_positions, decoder_positions))
        self.dropout_rate = dropout
        self.drop = keras.layers.Dropout(dropout, name="drop")

    def build(self, *shapes: Any) -> None:
        """Create the variables, unless the layers have theirs."""
        if not self.tokens.built:
            self.tokens.build((None, None))
        shape = (None, None, self.tokens.output_dim)
        for part in (self.encoder_positions, self.decoder_positions, self.encoder_norm, self.decoder_norm):
            if not part.built:
                part.build(shape)
        self.built = True

    @property
    def matrix(self) -> Any:
        """The matrix of the embeddings, [V, width]."""
        return self.tokens.embeddings

    def call(self, source: Any, mask: Any, target: Any, training: bool | None = None) -> State:
        """Return the state: embeddings [B, S, width], the mask as bool, [B, T, width], the matrix [V, width]."""
        there = keras.ops.cast(mask, "bool")
        x, y = self.embed_source(source), self.embed_target(target)
        return (
            self.drop(x, training=training),
            there,
            self.drop(y, training=training),
            keras.ops.cast(self.matrix, y.dtype),
        )

    def embed_source(self, ids: Any) -> Any:
        """Return embeddings of sources [B, S, width]."""
        x = self.tokens(ids)
        return self.encoder_norm(x + self.encoder_positions(x))

    def enter(self, source: Any) -> tuple[Any, Any]:
        """Return embeddings of sources [B, S, -1 for padding], and which tokens are present, bool [B, S]."""
        return self.embed_source(keras.ops.maximum(source, 0)), source >= 0

    def embed_target(self, ids: Any) -> Any:
        """Return embeddings of targets [B, T, width]."""
        x = self.tokens(ids)
        return self.decoder_norm(x + self.decoder_positions(x))

    def compute_output_spec(self, source: Any, mask: Any, target: Any, training: bool | None = None) -> State:
        """Return the specs of the state."""
        width = self.tokens.output_dim
        return (
            keras.KerasTensor((*source.shape, width), self.compute_dtype), keras.KerasTensor(mask.shape, "bool"),
            keras.KerasTensor((*target.shape, width), self.compute_dtype),
            keras.KerasTensor((self.tokens.input_dim, width), self.compute_dtype),
        )  # fmt: skip

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in _PARTS}
        return {**super().get_config(), **own, "dropout": self.dropout_rate}


@keras.saving.register_keras_serializable(package="tfft")
class BartEncoder(HeldBlock):
    """Encoder layer of KerasHub.

    Args:
        layer: TransformerEncoder of KerasHub.
        **kwargs: As for any Keras layer.
    """

    def call(self, source: Any, mask: Any, target: Any, matrix: Any, training: bool | None = None) -> State:
        """Return the state with new features of the source."""
        return self.encode(source, mask, training), mask, target, matrix

    def encode(self, x: Any, mask: Any, training: bool | None = False) -> Any:
        """Return features [B, S, width] for the present tokens of a mask, bool [B, S]."""
        return self.layer(x, padding_mask=mask, training=training)


@keras.saving.register_keras_serializable(package="tfft")
class BartDecoder(HeldBlock):
    """Decoder layer of KerasHub.

    Args:
        layer: TransformerDecoder of KerasHub.
        **kwargs: As for any Keras layer.
    """

    def build(self, *shapes: Any) -> None:
        """Create the variables, unless the layer has its own."""
        if not self.layer.built:
            self.layer.build(decoder_sequence_shape=shapes[2], encoder_sequence_shape=shapes[0])
        self.built = True

    def call(self, source: Any, mask: Any, target: Any, matrix: Any, training: bool | None = None) -> State:
        """Return the state with new features of the target."""
        return source, mask, self.decode(source, mask, target, training), matrix

    def decode(self, source: Any, mask: Any, target: Any, training: bool | None = False) -> Any:
        """Return features of the target [B, T, width]; each token sees those before it, so padding needs no mask."""
        return self.layer(target, encoder_sequence=source, encoder_padding_mask=mask, training=training)
