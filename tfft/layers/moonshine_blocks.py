"""Encoder of Moonshine as a chain: :class:`MoonshineFront`, :class:`MoonshineEncoder`, :class:`MoonshineEnd`.

Jeffries et al., "Moonshine: speech recognition for live transcription and voice commands", 2024. The layers hold those
of KerasHub and pass on features and which frames are present. Difference: the normalization behind
the first convolution takes its mean over the frames of audio, where KerasHub's takes it over the padding too; so a clip
has the same features alone and in a padded batch.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.layers.held import HeldLayer, deserialized
from tfft.layers.log_mel import used_samples

_CONVOLUTIONS = ("conv1", "conv2", "conv3")
_LEAST = 895  # samples of one frame: (3 - 1) * 2 + 1 of 3, of 7 every 3, of 127 every 64
_EPSILON = 1e-5
SpeechState = tuple[Any, Any]


@keras.saving.register_keras_serializable(package="tfft")
class MoonshineFront(keras.layers.Layer):
    """Three convolutions from waveforms to frames, 41.7 per second.

    Args:
        conv1: First convolution of KerasHub's backbone.
        group_norm: Normalization of its output.
        conv2: Second convolution.
        conv3: Third convolution.
        **kwargs: As for any Keras layer.

    Call arguments:
        waves: float32 [B, samples]; trailing zeros are padding.

    Returns:
        Features [B, T, width] and bool [B, T].
    """

    def __init__(self, conv1: Any, group_norm: Any, conv2: Any, conv3: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.conv1, self.conv2, self.conv3 = map(deserialized, (conv1, conv2, conv3))
        self.group_norm = deserialized(group_norm)
        self.supports_jit = False

    def build(self, *shapes: Any) -> None:
        """Create the variables, unless the layers have theirs."""
        width = 1
        for layer in (self.conv1, self.group_norm, self.conv2, self.conv3):
            if not layer.built:
                layer.build((None, None, width))
            width = getattr(layer, "filters", width)
        self.built = True

    def frames_of(self, samples: Any) -> Any:
        """Return the number of frames of some samples, at least 1; for an int, an array or a tensor."""
        least = tf.maximum(samples, _LEAST) if tf.is_tensor(samples) else np.maximum(samples, _LEAST)
        return ((((least - 127) // 64 + 1) - 7) // 3 + 1 - 3) // 2 + 1

    def call(self, waves: Any) -> SpeechState:
        """Return features and presence."""
        waves = tf.pad(waves, [[0, 0], [0, tf.maximum(_LEAST - tf.shape(waves)[1], 0)]])
        used = tf.maximum(used_samples(waves), _LEAST)
        x = tf.tanh(self.conv1(tf.cast(waves, self.compute_dtype)[..., None]))
        x = self._normal(x, (used - 127) // 64 + 1)
        x = keras.ops.gelu(self.conv2(x), approximate=False)
        x = keras.ops.gelu(self.conv3(x), approximate=False)
        there = tf.range(tf.shape(x)[1]) < self.frames_of(used)[:, None]
        return x, there

    def enter(self, waves: Any) -> SpeechState:
        """Return features and presence; see :func:`tfft.decoding.stepper_of`."""
        return self.call(waves)

    def _normal(self, x: Any, frames: Any) -> Any:
        """Normalize over all features of the present frames."""
        there = tf.cast(tf.range(tf.shape(x)[1]) < frames[:, None], tf.float32)[..., None]
        values = tf.cast(x, tf.float32)
        count = tf.reduce_sum(there, axis=[1, 2], keepdims=True) * values.shape[-1]
        mean = tf.reduce_sum(values * there, axis=[1, 2], keepdims=True) / count
        spread = tf.reduce_sum(there * (values - mean) ** 2, axis=[1, 2], keepdims=True) / count
        normal = (values - mean) * tf.math.rsqrt(spread + _EPSILON)
        return tf.cast(normal * self.group_norm.gamma + self.group_norm.beta, x.dtype)

    def compute_output_spec(self, waves: Any) -> SpeechState:
        """Return the specs of the state."""
        return (
            keras.KerasTensor((waves.shape[0], None, self.conv3.filters), self.compute_dtype),
            keras.KerasTensor((waves.shape[0], None), "bool"),
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        parts = (*_CONVOLUTIONS, "group_norm")
        own = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in parts}
        return {**super().get_config(), **own}


def rotary_angles(count: Any, width: int, base: float, dtype: Any, start: Any = 0) -> Any:
    """Return the angles of rotary positions, [count, width], as the attention of KerasHub's Moonshine takes them.

    Args:
        count: Number of positions.
        width: Features of a head that positions rotate, even.
        base: Base of their wavelengths.
        dtype: Type of the result.
        start: First position.
    """
    half = width // 2
    rates = base ** (-tf.range(half, dtype=tf.float32) / half)
    angles = tf.cast(start + tf.range(count), tf.float32)[:, None] * rates
    return tf.cast(tf.repeat(angles, 2, axis=1), dtype)


@keras.saving.register_keras_serializable(package="tfft")
class MoonshineEncoder(HeldLayer):
    """Encoder block of KerasHub, with the rotary positions of its frames.

    Args:
        layer: MoonshineEncoderBlock of KerasHub.
        rotary_width: Features of a head that positions rotate, even.
        rotary_base: Base of their wavelengths.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, layer: Any, rotary_width: int, rotary_base: float, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.rotary_width, self.rotary_base = rotary_width, rotary_base

    def call(self, x: Any, there: Any, training: bool | None = None) -> SpeechState:
        """Return the state with new features."""
        return self.encode(x, there, training), there

    def encode(self, x: Any, there: Any, training: bool | None = False) -> Any:
        """Return features [B, T, width] for the present frames, bool [B, T]."""
        angles = rotary_angles(tf.shape(x)[1], self.rotary_width, self.rotary_base, x.dtype)
        return self.layer(x, angles, attention_mask=there, training=training)

    def compute_output_spec(self, x: Any, there: Any, **kwargs: Any) -> SpeechState:
        """Return the specs of the state, which keeps its shapes."""
        return keras.KerasTensor(x.shape, x.dtype), keras.KerasTensor(there.shape, there.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "rotary_width": self.rotary_width, "rotary_base": self.rotary_base}


@keras.saving.register_keras_serializable(package="tfft")
class MoonshineEnd(HeldLayer):
    """Last normalization of the encoder; frames without audio become 0.

    Args:
        layer: LayerNormalization of KerasHub's backbone.
        **kwargs: As for any Keras layer.
    """

    def call(self, x: Any, there: Any) -> Any:
        """Return features [B, T, width]."""
        return self.encode(x, there)

    def encode(self, x: Any, there: Any) -> Any:
        """Return features [B, T, width]."""
        return keras.ops.where(there[..., None], self.layer(x), 0.0)

    def compute_output_spec(self, x: Any, there: Any) -> Any:
        """Return the spec of the features."""
        return keras.KerasTensor(x.shape, self.compute_dtype)
