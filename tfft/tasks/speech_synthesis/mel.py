"""Log-mel frames of waveforms, and back to magnitudes: :func:`log_mel_frames`, :func:`mel_to_linear`.

Implementation notes: :func:`tfft.layers.log_mel.log_mel` measures a clip of fixed length against its own maximum, for
images of it; a synthesizer needs levels that can be turned back into sound, and exactly one frame per step of
samples, so that durations in frames add up to the length of a clip. Both share the mel scale and
:class:`tfft.AudioSpec`.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import tensorflow as tf

from tfft.layers.log_mel import frame_sizes
from tfft.specs import AudioSpec

WINDOW, STEP, BANDS = 1024, 256, 80  # samples, samples, mel bands: usual for 16 to 24 kHz
LONGEST = 20.0  # seconds of a clip
FLOOR = 1e-5  # of a magnitude; below it there is only noise


def voice_spec(sample_rate: int) -> AudioSpec:
    """Return the frames of a voice: 80 mel bands, windows of 1024 samples every 256 samples.

    Args:
        sample_rate: Samples per second.

    Example:
        >>> frame_sizes(voice_spec(16000))
        (1024, 256)
    """
    return AudioSpec(sample_rate, LONGEST, WINDOW / sample_rate, STEP / sample_rate, BANDS, lowest=0.0)


def frame_count(samples: int, spec: AudioSpec) -> int:
    """Return the number of frames of a clip: one per step of samples, the last one may be incomplete."""
    return math.ceil(samples / frame_sizes(spec)[1])


def log_mel_frames(waves: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Return the natural logarithm of the magnitudes in mel bands.

    Frame t is centred at sample ``(t + 1/2) step``; samples outside of the clip are zeros.

    Args:
        waves: float32 [B, samples] in -1 to 1.
        spec: Frames, as from :func:`voice_spec`.

    Returns:
        float32 [B, ceil(samples / step), bands], at least log 1e-5.
    """
    window, step = frame_sizes(spec)
    samples = tf.shape(waves)[1]
    frames = -(-samples // step)
    before = (window - step) // 2
    after = (frames - 1) * step + window - before - samples
    padded = tf.pad(waves, [[0, 0], [before, tf.maximum(after, 0)]])
    magnitude = tf.abs(tf.signal.stft(padded, window, step, fft_size(spec)))
    return tf.math.log(tf.maximum(tf.matmul(magnitude, tf.constant(mel_matrix(spec))), FLOOR))


def mel_to_linear(log_mel: tf.Tensor, spec: AudioSpec) -> tf.Tensor:
    """Return magnitudes of the frequencies for log-mel frames: the least-squares solution, negative values as 0.

    Args:
        log_mel: float32 [B, T, bands].
        spec: Frames.

    Returns:
        float32 [B, T, 1 + fft / 2].
    """
    return tf.nn.relu(tf.matmul(tf.exp(log_mel), tf.constant(inverse_mel_matrix(spec))))


def fft_size(spec: AudioSpec) -> int:
    """Return the length of the Fourier transform: the next power of two of the window."""
    return int(2 ** math.ceil(math.log2(frame_sizes(spec)[0])))


@functools.lru_cache(8)
def mel_matrix(spec: AudioSpec) -> np.ndarray:
    """Return the weights of the frequencies in each band, float32 [1 + fft / 2, bands]."""
    high = spec.highest or spec.sample_rate / 2
    bins = fft_size(spec) // 2 + 1
    with tf.init_scope():
        weights = tf.signal.linear_to_mel_weight_matrix(spec.bands, bins, spec.sample_rate, spec.lowest, high)
        return np.asarray(weights)


@functools.lru_cache(8)
def inverse_mel_matrix(spec: AudioSpec) -> np.ndarray:
    """Return the pseudo-inverse of :func:`mel_matrix`, float32 [bands, 1 + fft / 2]."""
    return np.linalg.pinv(mel_matrix(spec).astype(np.float64), rcond=1e-3).astype(np.float32)
