"""Waveforms from magnitudes without a trained vocoder: :func:`griffin_lim` and :class:`GriffinLim`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.layers.log_mel import frame_sizes
from tfft.specs import AudioSpec
from tfft.tasks.speech_synthesis.mel import fft_size, mel_to_linear

ROUNDS, MOMENTUM = 32, 0.99


def griffin_lim(magnitude: tf.Tensor, spec: AudioSpec, rounds: int = ROUNDS, momentum: float = MOMENTUM) -> tf.Tensor:
    """Return waveforms whose spectrograms are near some magnitudes.

    The fast Griffin-Lim algorithm (Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", 2013) in the form
    of librosa. Difference: the first phases are not random but those of steady tones at the frequencies of the bins,
    which makes the result a function of the magnitudes alone.

    Args:
        magnitude: float32 [B, T, 1 + fft / 2].
        spec: Frames.
        rounds: Number of iterations.
        momentum: Weight of the previous iteration, 0 for the algorithm of Griffin and Lim (1984).

    Returns:
        float32 [B, T step].
    """
    window, step = frame_sizes(spec)
    size, share = fft_size(spec), momentum / (1 + momentum)
    inverse_window = tf.signal.inverse_stft_window_fn(step)

    def wave_of(spectrum: tf.Tensor) -> tf.Tensor:
        return tf.signal.inverse_stft(spectrum, window, step, size, window_fn=inverse_window)

    def one_round(at: tf.Tensor, angles: tf.Tensor, previous: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rebuilt = tf.signal.stft(wave_of(scaled * angles), window, step, size)
        moved = rebuilt - share * previous
        return at + 1, moved / tf.cast(tf.abs(moved) + 1e-16, tf.complex64), rebuilt

    scaled = tf.cast(magnitude, tf.complex64)
    angles = tf.broadcast_to(first_angles(tf.shape(magnitude)[1], size, step), tf.shape(scaled))
    state = (tf.constant(0), angles, tf.zeros_like(scaled))
    shapes = (tf.TensorShape([]), scaled.shape, scaled.shape)
    state = tf.while_loop(lambda at, *_: at < rounds, one_round, state, shapes)
    before = (window - step) // 2
    return wave_of(scaled * state[1])[:, before : before + step * tf.shape(magnitude)[1]]


def first_angles(frames: tf.Tensor, size: int, step: int) -> tf.Tensor:
    """Return the phases of steady tones as unit numbers, complex64 [frames, 1 + size / 2].

    The tone of bin k advances by ``2 pi k step / size`` per frame; its first phase follows from the golden ratio, so
    that the tones of neighbouring bins do not add up to one pulse.
    """
    bins = tf.range(size // 2 + 1, dtype=tf.int64)
    turns = tf.cast(tf.range(tf.cast(frames, tf.int64))[:, None] * bins * step % size, tf.float32) / size
    start = np.modf(np.arange(size // 2 + 1) * 0.6180339887498949)[0].astype(np.float32)
    phase = 2 * np.pi * (turns + start)
    return tf.complex(tf.cos(phase), tf.sin(phase))


@keras.saving.register_keras_serializable(package="tfft")
class GriffinLim(keras.layers.Layer):
    """Turn log-mel frames into waveforms: the frequencies by least squares, the phases by :func:`griffin_lim`.

    A row gives the same waveform alone and in a batch of longer rows. The layer has no variables.

    Args:
        audio: Frames, or their ``to_dict()``.
        rounds: Number of iterations.
        momentum: As in :func:`griffin_lim`.
        **kwargs: As for any Keras layer.

    Call arguments:
        log_mel: float32 [B, T, bands].
        frames: Number of frames of each row, int32 [B]; what is behind them is ignored.

    Output shape:
        [B, T step], 0 behind the frames of a row.
    """

    def __init__(
        self, audio: AudioSpec | Mapping[str, Any], rounds: int = ROUNDS, momentum: float = MOMENTUM, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **{**kwargs, "dtype": kwargs.get("dtype") or "float32"})
        self.audio = AudioSpec.from_dict(audio) if isinstance(audio, Mapping) else audio
        self.rounds, self.momentum = rounds, momentum
        self.supports_jit = False  # not every device has a Fourier transform

    def call(self, log_mel: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Return waveforms."""
        step = frame_sizes(self.audio)[1]
        count = tf.shape(log_mel)[1]
        there = tf.sequence_mask(frames, count, tf.float32)[..., None]
        magnitude = mel_to_linear(log_mel, self.audio) * there
        # Frames of magnitude 0 add nothing, so what is behind a row changes none of its samples.
        waves = griffin_lim(magnitude, self.audio, self.rounds, self.momentum)
        return waves * tf.sequence_mask(frames * step, count * step, tf.float32)

    def compute_output_spec(self, log_mel: Any, frames: Any) -> keras.KerasTensor:
        """Return shape and type."""
        return keras.KerasTensor((log_mel.shape[0], None), "float32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"audio": self.audio.to_dict(), "rounds": self.rounds, "momentum": self.momentum}
        return {**super().get_config(), **own}
