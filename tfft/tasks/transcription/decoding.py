"""Frames and characters: which frames are present, and how logits become characters, in TensorFlow operations."""

from __future__ import annotations

import tensorflow as tf

from tfft.losses import ABSENT


def frames_of(logits: tf.Tensor) -> tf.Tensor:
    """Return the number of frames with audio, int32 [B], for logits [B, T, C + 1]: those up to the last present one."""
    there = tf.reduce_max(logits, axis=-1) > ABSENT / 2
    return tf.reduce_max(tf.where(there, tf.range(1, tf.shape(logits)[1] + 1), 0), axis=1)


def is_there(logits: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
    """Return bool [B, T]: True for frames with audio."""
    return tf.range(tf.shape(logits)[1]) < frames[:, None]


def greedy(logits: tf.Tensor) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Decode the most probable character of each frame: repeats become one, then blanks are dropped.

    Args:
        logits: Logits, float32 [B, T, C + 1]; the last class is the blank.

    Returns:
        Numbers of characters, int32 [B, any], and the log probability of the frames' classes, float32 [B].
    """
    frames = frames_of(logits)
    there = is_there(logits, frames)
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    before = tf.pad(best[:, :-1], [[0, 0], [1, 0]], constant_values=-1)
    new = there & (best != before) & (best != tf.shape(logits)[-1] - 1)
    likely = tf.reduce_max(tf.nn.log_softmax(logits), axis=-1)
    return tf.ragged.boolean_mask(best, new), tf.reduce_sum(tf.where(there, likely, 0.0), axis=1)


def beam(logits: tf.Tensor, width: int) -> tuple[tf.RaggedTensor, tf.Tensor]:
    """Decode by beam search over texts, which sums all alignments of a text (Graves, 2012, section 7.5.3).

    Args:
        logits: As for :func:`greedy`.
        width: Number of texts that are kept after each frame.

    Returns:
        Numbers of characters, int32 [B, any], and the log probability of the text, float32 [B].
    """
    frames = frames_of(logits)
    shown = tf.where(is_there(logits, frames)[..., None], logits, 0.0)
    [found], likely = tf.nn.ctc_beam_search_decoder(tf.transpose(shown, [1, 0, 2]), frames, width, top_paths=1)
    rows = tf.RaggedTensor.from_sparse(tf.cast(found, tf.int32))
    return rows, likely[:, 0]


def characters_of(labels: tf.Tensor, blank: tf.Tensor | int, *, strange: bool) -> tf.RaggedTensor:
    """Return the numbers of characters in labels [B, L], int32 [B, any], without padding and other marks.

    Args:
        labels: Labels, int; below 0 for anything that is not a character, ``blank`` for a character outside of the
            alphabet.
        blank: Number of the blank.
        strange: Whether characters outside of the alphabet stay.
    """
    labels = tf.cast(labels, tf.int32)
    return tf.ragged.boolean_mask(labels, (labels >= 0) & (labels < blank + int(strange)))
