"""Loss of transcription: :class:`CtcLoss`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfft.tasks.transcription.decoding import characters_of, frames_of, is_there


@keras.saving.register_keras_serializable(package="tfft")
class CtcLoss(keras.losses.Loss):
    """Connectionist temporal classification: minus the log probability of a transcript, per character.

    Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data with recurrent neural
    networks", 2006. The probability of a transcript is the sum over all its alignments with the frames. Differences:
    the loss of a clip is divided by the number of its characters, so that long clips do not outweigh short ones, and a
    clip with too few frames for its transcript has the loss 0. Frames without audio do not count. Computed in float32
    by the kernel of ``tf.nn.ctc_loss`` for sparse labels, which runs on the CPU.

    Args:
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> CtcLoss()(labels, logits)  # int [B, L], below 0 for padding; float [B, T, C + 1], the blank last
    """

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each clip, [B]."""
        logits = tf.cast(y_pred, tf.float32)
        blank, frames = logits.shape[-1] - 1, frames_of(logits)
        shown = tf.where(is_there(logits, frames)[..., None], logits, 0.0)
        texts = characters_of(y_true, blank, strange=False)
        lengths = tf.cast(texts.row_lengths(), tf.int32)
        fits = (lengths > 0) & (least_frames(texts) <= frames)
        # The kernel refuses transcripts that are empty or too long: they get one character, and another loss below.
        padded = tf.pad(texts.to_tensor(), [[0, 0], [0, 1]])
        rows = tf.RaggedTensor.from_tensor(padded, lengths=tf.where(fits, lengths, 1))
        loss = tf.nn.ctc_loss(
            rows.to_sparse(), shown, label_length=None, logit_length=tf.maximum(frames, 1), logits_time_major=False,
            blank_index=blank,
        )  # fmt: skip
        silent = -tf.reduce_sum(
            tf.where(is_there(logits, frames), tf.nn.log_softmax(shown)[..., blank], 0.0), axis=1
        )  # of an empty transcript
        loss = tf.where(fits, loss, tf.where(lengths > 0, 0.0, silent))
        return loss / tf.cast(tf.maximum(lengths, 1), tf.float32)


def least_frames(texts: tf.RaggedTensor) -> tf.Tensor:
    """Return the least number of frames for each text, int32 [B]: its characters, and one between two equal ones."""
    equal = tf.cast(texts[:, 1:] == texts[:, :-1], tf.int32)
    return tf.cast(texts.row_lengths(), tf.int32) + tf.reduce_sum(equal, axis=1)
