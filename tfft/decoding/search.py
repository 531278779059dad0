"""Search for the best text of an encoder-decoder: :func:`beam_search`.

Implementation notes: one search serves both ways; greedy decoding is a beam of one. Everything is TensorFlow
operations, so an export decodes as the model does.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfft.decoding.steppers import Stepper
from tfft.layers.pair_tokenizer import PADDING

_NEVER = -1e9  # log-probability of what cannot follow
_CHARGE = 5.0  # of the length penalty, Wu et al. 2016


def length_penalty(count: Any, penalty: float) -> Any:
    """Return the divisor of a log-probability for hypotheses of some tokens, ((5 + n) / 6) ** a (Wu et al. 2016)."""
    return tf.pow((_CHARGE + tf.cast(count, tf.float32)) / (_CHARGE + 1.0), penalty)


def beam_search(
    stepper: Stepper,
    source: tf.Tensor,
    start: tuple[int, ...],
    end: int,
    most: int,
    *,
    beams: int = 1,
    penalty: float = 0.6,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the best hypothesis for each source.

    Hypotheses are ranked by log-probability over length penalty at each step, finished ones among the others, so a
    finished hypothesis leaves the beam only for better ones. The search ends when all of a beam are finished. Beam
    search as in Wu et al. (2016), without their coverage penalty.

    Args:
        stepper: Encoder-decoder.
        source: Input of the encoder, such as tokens, int32 [B, S], -1 for padding.
        start: Tokens that each target begins with.
        end: Token that ends a target.
        most: Most tokens of a target, with the end.
        beams: Hypotheses per source; 1 is greedy decoding.
        penalty: Exponent of the length penalty.

    Returns:
        Tokens int32 [B, T], without the start and with the end, -1 behind it; and log-probabilities float32 [B].
    """
    batch = tf.shape(source)[0]
    fixed, carried = stepper.begin(source, beams)
    first = tf.tile(tf.constant([start], tf.int32), [batch * beams, 1])
    prefix = len(start)
    for at in range(1, prefix):  # tokens that are given still have to pass through the decoder
        _, carried = stepper.step(fixed, carried, first[:, :at])
    begun = tf.tile(tf.constant([[0.0] + [_NEVER] * (beams - 1)]), [batch, 1])  # else all hypotheses would be the same
    counts, done = tf.zeros([batch, beams], tf.int32), tf.zeros([batch, beams], tf.bool)

    def again(tokens: Any, scores: Any, counts: Any, done: Any, *carried: Any) -> Any:
        return tf.logical_and(tf.shape(tokens)[1] < most + prefix, tf.logical_not(tf.reduce_all(done)))

    def step(tokens: Any, scores: Any, counts: Any, done: Any, *carried: Any) -> Any:
        given = tf.where(tokens < 0, end, tokens)  # behind an end; nothing of it is used
        logits, passed = stepper.step(fixed, list(carried), given)
        size = tf.shape(logits)[-1]
        each = tf.reshape(tf.nn.log_softmax(logits), [batch, beams, size])
        only_end = tf.where(tf.range(size) == end, 0.0, _NEVER)  # a finished hypothesis goes on as it is
        each = tf.where(done[..., None], only_end, each)
        total = scores[..., None] + each
        longer = counts + tf.cast(tf.logical_not(done), tf.int32)
        ranked = total / length_penalty(longer, penalty)[..., None]
        _, best = tf.math.top_k(tf.reshape(ranked, [batch, -1]), beams)
        parent, token = best // size, best % size
        scores = tf.gather(tf.reshape(total, [batch, -1]), best, batch_dims=1)
        was = tf.gather(done, parent, batch_dims=1)
        counts = tf.gather(longer, parent, batch_dims=1)
        rows = tf.reshape(tf.range(batch)[:, None] * beams + parent, [-1])
        shown = tf.reshape(tf.where(was, PADDING, token), [-1, 1])
        tokens = tf.concat([tf.gather(tokens, rows), tf.cast(shown, tf.int32)], axis=1)
        kept = passed if beams == 1 else [tf.gather(t, rows) for t in passed]
        return tokens, scores, counts, tf.logical_or(was, token == end), *kept

    state = (first, begun, counts, done, *carried)
    open_shape = tf.TensorShape([None, None])
    shapes = [open_shape, open_shape, open_shape, open_shape, *(_open(t) for t in carried)]
    tokens, scores, counts, *_ = tf.while_loop(again, step, state, shape_invariants=tuple(shapes))
    best = tf.argmax(scores / length_penalty(counts, penalty), axis=1, output_type=tf.int32)
    tokens = tf.gather(tf.reshape(tokens, [batch, beams, -1]), best, batch_dims=1)[:, prefix:]
    return tokens, tf.gather(scores, best, batch_dims=1)


def _open(tensor: tf.Tensor) -> tf.TensorShape:
    """Return the shape of keys and values that grow along their third axis."""
    return tf.TensorShape([None, tensor.shape[1], None, tensor.shape[3]])
