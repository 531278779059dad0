"""Batching for backbones that take one waveform at a time, such as YAMNet: :class:`EachWave`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfft")
class EachWave(keras.layers.Layer):
    """Run a model without a batch dimension on each waveform of a batch, one after the other.

    The model's layers are unchanged: its blocks can be frozen and trained individually.

    Args:
        network: Functional model from one waveform, float32 [samples], to features [width] or [time, width]; or its
            serialized form.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: float32 [B, samples].

    Output shape:
        [B, ...], the shape of the model's output behind the batch.
    """

    def __init__(self, network: keras.Model | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.network = keras.saving.deserialize_keras_object(network) if isinstance(network, Mapping) else network
        self.supports_jit = False  # framing operations are often missing in XLA

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build nothing: the network has its variables already."""
        self.built = True

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the features of each waveform."""
        output = self.network.output
        signature = tf.TensorSpec(output.shape, output.dtype)
        return tf.map_fn(lambda wave: self.network(wave, training=training), inputs, fn_output_signature=signature)

    def compute_output_spec(self, inputs: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
        """Return shape and type."""
        output = self.network.output
        return keras.KerasTensor((inputs.shape[0], *output.shape), output.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}
