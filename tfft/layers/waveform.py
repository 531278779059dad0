"""Layers around backbones for waveforms: :class:`EachWave`, which takes one at a time, and :class:`DropPadding`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfft.layers.log_mel import used_samples


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


@keras.saving.register_keras_serializable(package="tfft")
class DropPadding(keras.layers.Layer):
    """Set the features of frames without audio to 0, for backbones that know no padding.

    Trailing zeros of a waveform are padding. Of T frames for S samples, the first ``ceil(n T / S)`` belong to n samples
    of audio; at least one does.

    Call arguments:
        waves: float32 [B, S], with S the same for every batch.
        features: float [B, T, width].

    Output shape:
        That of the features.
    """

    def call(self, waves: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
        """Return the features of frames with audio, and 0 for the others."""
        samples, frames = (tf.cast(tf.shape(tensor)[1], tf.int64) for tensor in (waves, features))
        used = tf.cast(used_samples(waves), tf.int64)
        counts = tf.maximum(-(-used * frames // samples), 1)
        there = tf.range(frames) < counts[:, None]
        return tf.where(there[..., None], features, tf.zeros([], features.dtype))

    def compute_output_spec(self, waves: Any, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return shape and type."""
        return keras.KerasTensor(features.shape, features.dtype)
