"""Loss and metrics of a voice: :class:`SpeechLoss`, :class:`MelCepstralDistortion`, :class:`DurationError`.

A target is float32 [B, T, bands + 3]: the log-mel frame, the logarithm of the frames of its symbol, the weight
1 / duration (0 behind the end), and the number of the symbol. A prediction is float32 [B, T, bands + 2], without the
symbol. Only the target says where frames are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

COEFFICIENTS = 13  # of the cepstrum, without the first one, which is the level


@keras.saving.register_keras_serializable(package="tfft")
class SpeechLoss(keras.losses.Loss):
    """Mean absolute error of the frames plus mean squared error of the logarithms of durations.

    The losses of FastSpeech 2 (Ren et al., 2021) without pitch and energy. Differences: the error of a band counts in
    units of its spread, and a clip counts once whatever its length, so that padding and the size of a batch change
    nothing.

    Args:
        spread: Standard deviation of each band; empty for 1.
        duration_weight: Weight of the second part.
        **kwargs: As for any Keras loss.
    """

    def __init__(self, spread: Sequence[float] = (), duration_weight: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**{"name": "speech_loss", **kwargs})
        self.spread, self.duration_weight = tuple(spread), duration_weight

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Return the loss of each clip, [B]."""
        y_true, y_pred = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        frames = tf.minimum(tf.shape(y_true)[1], tf.shape(y_pred)[1])
        y_true, y_pred = y_true[:, :frames], y_pred[:, :frames]
        weight = y_true[..., -2]
        there = tf.cast(weight > 0, tf.float32)
        error = tf.abs(y_true[..., :-3] - y_pred[..., :-2]) / tf.constant(self.spread or (1.0,), tf.float32)
        mel = tf.math.divide_no_nan(
            tf.reduce_sum(tf.reduce_mean(error, axis=-1) * there, axis=1), tf.reduce_sum(there, axis=1)
        )
        squares = (y_true[..., -3] - y_pred[..., -2]) ** 2
        logs = tf.math.divide_no_nan(tf.reduce_sum(squares * weight, axis=1), tf.reduce_sum(weight, axis=1))
        return mel + self.duration_weight * logs

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "spread": list(self.spread), "duration_weight": self.duration_weight}


@keras.saving.register_keras_serializable(package="tfft")
class MelCepstralDistortion(keras.metrics.Mean):
    """Mean distance of cepstra in decibels (Kubichek, 1993), over the frames of a clip and then over clips.

    The durations are those of the target. See :func:`cosine_transform`; analyses of other
    systems differ, so values compare only among models with the same frames.
    """

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch."""
        y_true, y_pred = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        difference = y_true[..., :-3] - y_pred[..., :-2]
        transform = tf.constant(cosine_transform(difference.shape[-1]))
        distance = 10 / math.log(10) * tf.sqrt(2 * tf.reduce_sum(tf.matmul(difference, transform) ** 2, axis=-1))
        there = tf.cast(y_true[..., -2] > 0, tf.float32)
        return super().update_state(
            tf.math.divide_no_nan(tf.reduce_sum(distance * there, axis=1), tf.reduce_sum(there, axis=1))
        )


@keras.saving.register_keras_serializable(package="tfft")
class DurationError(keras.metrics.Mean):
    """Mean absolute error of the predicted frames of a symbol, over all symbols."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch."""
        y_true, y_pred = tf.cast(y_true, tf.float32), tf.cast(y_pred, tf.float32)
        error = tf.abs(tf.exp(y_true[..., -3]) - tf.exp(tf.minimum(y_pred[..., -2], 9.0)))
        return super().update_state(error, y_true[..., -2])


def distortions(labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the mean mel cepstral distortion of each clip in decibels, float64 [B].

    Args:
        labels: Targets, float [B, T, bands + 3].
        logits: Predictions, float [B, T, bands + 2].
    """
    difference = labels[..., :-3].astype(np.float64) - logits[..., :-2]
    squares = (difference @ cosine_transform(difference.shape[-1]).astype(np.float64)) ** 2
    distance = 10 / math.log(10) * np.sqrt(2 * squares.sum(axis=-1))
    there = labels[..., -2] > 0
    return (distance * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def cosine_transform(bands: int) -> np.ndarray:
    """Return the map from log magnitudes to coefficients 1 to 13 of the cepstrum of the power, float32 [bands, 13].

    Coefficient k is the mean over bands of ``2 log |S| cos(pi k (band + 1/2) / bands)``, so that
    ``10 / log(10) sqrt(2 sum of squares)`` is the distance of two smoothed spectra in decibels.

    Args:
        bands: Number of mel bands.
    """
    place = (np.arange(bands) + 0.5) / bands
    waves = [2 / bands * np.cos(np.pi * k * place) for k in range(1, min(COEFFICIENTS, bands - 1) + 1)]
    return np.stack(waves, axis=1).astype(np.float32)
