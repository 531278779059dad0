"""Batches for training a decoder on the true preceding tokens: :func:`teacher_forced`."""

from __future__ import annotations

import tensorflow as tf

from tfft.layers.pair_tokenizer import PADDING


def teacher_forced(texts: tf.Tensor, given: int = 1) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the inputs and the labels of a decoder: each token, and the one that follows it.

    Args:
        texts: Tokens with the start and the end, int32 [B, T]; below 0 behind them.
        given: Number of tokens that every text begins with, of which none is learned.

    Returns:
        Inputs int32 [B, T - 1], -1 for padding, and labels int32 [B, T - 1], below 0 for padding.
    """
    labels = texts[:, 1:]
    # The last token of a text has no next one; with the others of its row gone, it is padding.
    inputs = tf.where(labels >= 0, texts[:, :-1], PADDING)
    if given > 1:
        labels = tf.concat([tf.fill([tf.shape(labels)[0], given - 1], PADDING), labels[:, given - 1 :]], axis=1)
    return inputs, labels
