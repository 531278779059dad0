"""Waveform preprocessing for backbones: :class:`LogMel`, :class:`MelFrames` and :class:`Clip`.

All consist of TensorFlow ops only, so training, prediction and the exported model compute the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError, PlanError, raise_problems
from tfft.layers.preprocess import check_spec, scale_pixels
from tfft.layers.raw_input import RawInput
from tfft.specs import AudioSpec, InputSpec

_LEAST_FRAMES = 5  # two are left of them at a fourth of the rate: Keras warns of attention to a single one
_QUIETEST = 1e-10  # of the power; below it there is only rounding


class _WaveInput(RawInput):
    """Common parts of the layers that take waveforms; they compute in float32.

    Args:
        audio: Audio settings, or their ``to_dict()``.
        **kwargs: As for any Keras layer.
    """

    audio: AudioSpec

    def __init__(self, audio: AudioSpec | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(autocast=False, **{**kwargs, "dtype": kwargs.get("dtype") or "float32"})
        self.audio = AudioSpec.from_dict(audio) if isinstance(audio, Mapping) else audio
        check_audio(self.audio)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "audio": self.audio.to_dict()}


@keras.saving.register_keras_serializable(package="tfft")
class LogMel(_WaveInput):
    """Convert waveforms to log-mel spectrogram images: time from left to right, low frequencies at the bottom.

    The power of short Hann windows is summed in bands of equal width on the mel scale (Stevens, Volkmann and Newman,
    1937; in the form of HTK), converted to decibels below the maximum of the clip, and drawn in grayscale. So overall
    loudness has no effect. The layer has no variables and computes in float32.

    Args:
        audio: Audio settings, or their ``to_dict()``.
        image: Input spec of the backbone, or its ``to_dict()``; ``resize`` has no effect, since the whole image is
            stretched.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: float32 [B, samples] in -1 to 1 at ``audio.sample_rate``, of any length: longer clips are cut off,
            shorter ones padded with silence.

    Output shape:
        [B, image.height, image.width, image.channels].

    Example:
        >>> LogMel(AudioSpec(16000, 1.0), InputSpec(224, 224))(waves).shape
        TensorShape([8, 224, 224, 3])
    """

    def __init__(
        self, audio: AudioSpec | Mapping[str, Any], image: InputSpec | Mapping[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(audio, **kwargs)
        self.supports_jit = False  # not every device has a Fourier transform
        self.image = InputSpec.from_dict(image) if isinstance(image, Mapping) else image
        check_spec(self.image)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return spectrogram images, scaled for the backbone."""
        spectrum = log_mel(tf.cast(inputs, tf.float32), self.audio)
        pixels = tf.reverse(tf.transpose(spectrum, [0, 2, 1]), axis=[1])[..., None] * 255.0
        # Not rounded to grey levels, as photos are: a difference in the last bit could become a whole level.
        pixels = tf.image.resize(pixels, self.image.image_size, self.image.interpolation, antialias=True)
        pixels = tf.repeat(tf.clip_by_value(pixels, 0.0, 255.0), self.image.channels, axis=-1)
        return tf.cast(scale_pixels(pixels, self.image), self.compute_dtype)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Return shape and type."""
        _check_waves(inputs)
        shape = (inputs.shape[0], *self.image.image_size, self.image.channels)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "image": self.image.to_dict()}


def log_mel(waves: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Return the log-mel spectrogram, 0 to 1, float32 [B, frames, bands].

    Args:
        waves: Waveforms, float32 [B, samples].
        spec: Audio settings.
    """
    decibels = mel_decibels(fit(waves, spec), spec)
    below = decibels - tf.reduce_max(decibels, axis=[1, 2], keepdims=True)
    return tf.maximum(below / spec.range + 1.0, 0.0)


def frame_sizes(spec: AudioSpec) -> tuple[int, int]:
    """Return the lengths of a window and of a step in samples."""
    return round(spec.window * spec.sample_rate), round(spec.step * spec.sample_rate)


def mel_decibels(waves: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Return the power in mel bands of all windows that lie within waveforms, in decibels, float32 [B, frames, bands].

    Args:
        waves: Waveforms, float32 [B, samples], of any length.
        spec: Audio settings; the clip length has no effect.
    """
    window, step = frame_sizes(spec)
    power = tf.abs(tf.signal.stft(waves, window, step, pad_end=False)) ** 2
    bins = power.shape[-1]
    to_mel = tf.signal.linear_to_mel_weight_matrix(
        spec.bands, bins, spec.sample_rate, spec.lowest, spec.highest or spec.sample_rate / 2
    )
    return tf.math.log(tf.maximum(tf.matmul(power, to_mel), _QUIETEST)) * (10.0 / tf.math.log(10.0))


@keras.saving.register_keras_serializable(package="tfft")
class Clip(_WaveInput):
    """Fit waveforms of any length to one length, for backbones that take waveforms; see :func:`fit`.

    Args:
        audio: Audio settings, or their ``to_dict()``; only rate and length are used.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: float32 [B, samples].

    Output shape:
        [B, audio.samples].
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Cut off or pad with silence."""
        return fit(tf.cast(inputs, self.compute_dtype), self.audio)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Return shape and type."""
        _check_waves(inputs)
        return keras.KerasTensor((inputs.shape[0], self.audio.samples), self.compute_dtype)


@keras.saving.register_keras_serializable(package="tfft")
class MelFrames(_WaveInput):
    """Convert waveforms to log-mel frames of their own length, for encoders of speech.

    The mel bands are those of :class:`LogMel`, in decibels below the maximum of the clip, from -1 (at or below
    ``audio.range`` decibels) to 1 (the maximum). Trailing zeros of a waveform are padding: frames that reach into them
    are all 0, which no frame of audio is, and change nothing else. So a clip gives the same frames alone and in a
    padded batch. The layer has no variables and computes in float32.

    Args:
        audio: Audio settings, or their ``to_dict()``; the clip length has no effect.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: float32 [B, samples] in -1 to 1 at ``audio.sample_rate``.

    Output shape:
        [B, frames, audio.bands]; at least five frames, of which the first is always present.

    Example:
        >>> MelFrames(AudioSpec(16000, 1.0))(waves).shape
        TensorShape([8, 98, 64])
    """

    def __init__(self, audio: AudioSpec | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(audio, **kwargs)
        self.supports_jit = False  # not every device has a Fourier transform

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return frames, 0 where there is no audio."""
        waves, spec = tf.cast(inputs, tf.float32), self.audio
        window, step = frame_sizes(spec)
        least = window + (_LEAST_FRAMES - 1) * step
        waves = tf.pad(waves, [[0, 0], [0, tf.maximum(least - tf.shape(waves)[1], 0)]])
        decibels = mel_decibels(waves, spec)
        counts = frame_count(used_samples(waves), window, step)
        there = (tf.range(tf.shape(decibels)[1]) < counts[:, None])[..., None]
        loudest = tf.reduce_max(tf.where(there, decibels, -1e9), axis=[1, 2], keepdims=True)
        level = tf.maximum((decibels - loudest) / spec.range + 1.0, 0.0)
        return tf.where(there, 2.0 * level - 1.0, 0.0)

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """Return shape and type."""
        _check_waves(inputs)
        return keras.KerasTensor((inputs.shape[0], None, self.audio.bands), self.compute_dtype)


def used_samples(waves: tf.Tensor) -> tf.Tensor:
    """Return the number of samples without trailing zeros, int32 [B], for waveforms [B, samples]."""
    at = tf.where(waves != 0.0, tf.range(1, tf.shape(waves)[1] + 1), 0)
    return tf.reduce_max(at, axis=1)


def frame_count(samples: Any, window: int, step: int) -> Any:
    """Return how many windows lie within some samples, at least 1; for an int, an array or a tensor."""
    count = (samples - window) // step + 1
    return tf.maximum(count, 1) if tf.is_tensor(samples) else np.maximum(count, 1)


def fit(waves: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Cut waveforms off at the end, or pad them with silence: [B, spec.samples]."""
    fitted = waves[:, : spec.samples]
    fitted = tf.pad(fitted, [[0, 0], [0, spec.samples - tf.shape(fitted)[1]]])
    return tf.ensure_shape(fitted, [None, spec.samples])


def audio_of(model: keras.Model) -> AudioSpec | None:
    """Return the audio settings of a model, or None if it takes no waveforms."""
    return next((layer.audio for layer in model.layers if isinstance(layer, (LogMel, Clip, MelFrames))), None)


def _check_waves(inputs: Any) -> None:
    if len(inputs.shape) != 2:
        raise DataError(
            f"Expected waves [batch, samples], the mean of all channels, received the shape {tuple(inputs.shape)}. "
            "For one waveform, pass wave[None]."
        )


def check_audio(spec: AudioSpec) -> None:
    """Raise PlanError with all invalid values in a spec."""
    problems = []
    if spec.sample_rate < 1000:
        problems.append(f"sample_rate must be at least 1000 Hz, received {spec.sample_rate!r}")
    if not 0 < spec.step <= spec.window <= spec.seconds:
        problems.append(
            "step, window and seconds are in seconds, each at most the next, "
            f"received {spec.step!r}, {spec.window!r} and {spec.seconds!r}"
        )
    high = spec.highest or spec.sample_rate / 2
    if not 0 <= spec.lowest < high <= spec.sample_rate / 2:
        problems.append(
            f"lowest and highest are in Hz, up to half of the sample rate ({spec.sample_rate / 2:g}), received "
            f"{spec.lowest!r} and {spec.highest!r}"
        )
    if spec.bands < 8 or spec.range <= 0:
        problems.append(f"bands must be at least 8 and range above 0, received {spec.bands!r} and {spec.range!r}")
    raise_problems(PlanError, "The audio settings cannot be used", problems)
