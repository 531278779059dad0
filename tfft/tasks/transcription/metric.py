"""Metric that selects the best epoch of a transcription: :class:`CharacterErrorRate`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfft.tasks.transcription.decoding import characters_of, greedy


@keras.saving.register_keras_serializable(package="tfft")
class CharacterErrorRate(keras.metrics.Metric):
    """Edits that turn greedily decoded text into the transcripts, divided by the characters of the transcripts.

    A character outside of the alphabet counts as an error.

    Args:
        **kwargs: ``name``, ``dtype``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.edits = self.add_variable((), "zeros", dtype="float32", name="edits")
        self.characters = self.add_variable((), "zeros", dtype="float32", name="characters")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: labels [B, L], below 0 for padding, and logits [B, T, C + 1]."""
        logits = tf.cast(y_pred, tf.float32)
        written, _ = greedy(logits)
        truth = characters_of(y_true, logits.shape[-1] - 1, strange=True)
        edits = tf.edit_distance(written.to_sparse(), truth.to_sparse(), normalize=False)
        lengths = tf.cast(truth.row_lengths(), tf.float32)
        if sample_weight is not None:
            weights = tf.reshape(tf.cast(sample_weight, tf.float32), [-1])
            edits, lengths = edits * weights, lengths * weights
        self.edits.assign_add(tf.reduce_sum(edits))
        self.characters.assign_add(tf.reduce_sum(lengths))

    def result(self) -> Any:
        """Return the rate; 0 for transcripts without characters."""
        return tf.math.divide_no_nan(tf.convert_to_tensor(self.edits), tf.convert_to_tensor(self.characters))
