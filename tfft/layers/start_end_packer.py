"""Token inputs of a decoder: :class:`StartEndPieces`."""

from __future__ import annotations

from typing import Any

import keras

from tfft.errors import BackboneError


@keras.saving.register_keras_serializable(package="tfft")
class StartEndPieces(keras.layers.Layer):
    """Pack the tokens of a text for a decoder: start token, tokens, padding.

    Args:
        tokenizer: Tokenizer of KerasHub.
        sequence_length: Length to which every text is padded or cut.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, tokenizer: Any, sequence_length: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        layer = isinstance(tokenizer, keras.layers.Layer)
        self.tokenizer = tokenizer if layer else keras.saving.deserialize_keras_object(tokenizer)
        self.sequence_length = int(sequence_length)

    def build(self, texts_shape: Any) -> None:
        """Build nothing: the tokenizer is ready once its vocabulary is loaded."""

    def call(self, texts: Any) -> dict[str, Any]:
        """Return ``token_ids`` and ``padding_mask``, [B, sequence_length]."""
        import tensorflow as tf

        if isinstance(texts, tuple):
            raise BackboneError("A decoder takes one text, not a pair. Join the two into one.")
        tokens = self.tokenizer(texts)
        if not isinstance(tokens, tf.RaggedTensor):
            tokens = tf.RaggedTensor.from_tensor(tokens)
        tokens = tf.cast(tokens, tf.int32)[:, : self.sequence_length - 1]
        first = tf.fill([tokens.nrows(), 1], tf.constant(self.tokenizer.start_token_id, tf.int32))
        tokens = tf.concat([first, tokens], axis=1)
        shape = [None, self.sequence_length]
        ids = tokens.to_tensor(self.tokenizer.pad_token_id or 0, shape=shape)
        return {"token_ids": ids, "padding_mask": tf.ones_like(tokens).to_tensor(0, shape=shape)}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values; the vocabulary is stored separately."""
        own = {"tokenizer": keras.saving.serialize_keras_object(self.tokenizer)}
        return {**super().get_config(), **own, "sequence_length": self.sequence_length}
