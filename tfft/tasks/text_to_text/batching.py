"""Batches of pairs with a similar number of tokens: :func:`token_batches`."""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from tfft.arrays.ragged import Ragged
from tfft.data.batches import BatchOptions
from tfft.data.sampling import pass_counter
from tfft.decoding import teacher_forced
from tfft.layers.pair_tokenizer import PADDING, SOURCE, TARGET, PairTokenizer

MEMORY = "memory"  # outputs of the encoder
_STEP = 4  # tokens; pairs whose lengths are equal in these steps are shuffled among themselves


@dataclasses.dataclass(frozen=True, eq=False)
class TokenPairs:
    """Tokens of all pairs.

    Attributes:
        source: int32 arrays of tokens, with those around a text.
        target: int32 arrays of tokens, with those around a text.
    """

    source: list[np.ndarray]
    target: list[np.ndarray]

    @classmethod
    def of(cls, sources: list[np.ndarray], targets: list[np.ndarray], tokenizer: PairTokenizer) -> TokenPairs:
        """Add the tokens around texts."""
        first, last = np.array(tokenizer.source_start, np.int32), np.array(tokenizer.source_end, np.int32)
        return cls(
            [np.concatenate([first, ids, last]) for ids in sources],
            [tokenizer.framed(ids) for ids in targets],
        )

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of the longer text of each pair, int64 [N]."""
        return np.array([max(len(a), len(b)) for a, b in zip(self.source, self.target, strict=True)], np.int64)

    def take(self, positions: np.ndarray) -> TokenPairs:
        """Return the pairs at some positions."""
        return TokenPairs([self.source[i] for i in positions], [self.target[i] for i in positions])


def cuts(lengths: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where batches begin among the pairs in the order of length, and the lengths in steps of 4 tokens.

    A batch has at most ``batch_size`` times the mean length in tokens, padding included, so batches of short pairs
    have more pairs than those of long ones. The cuts depend on the lengths alone: every epoch has as many batches.

    Args:
        lengths: Tokens of each pair, int [N].
        batch_size: Pairs of the mean length in a batch.

    Returns:
        Starts of the batches with the end behind the last, int64 [K + 1]; and rounded lengths, int64 [N].
    """
    rounded = -(-lengths // _STEP) * _STEP
    most = batch_size * float(rounded.mean())
    starts, begun = [0], 0
    for at, length in enumerate(np.sort(rounded)):
        if at > begun and length * (at - begun + 1) > most:
            starts.append(at)
            begun = at
    return np.array([*starts, len(lengths)], np.int64), rounded


def token_batches(
    pairs: TokenPairs, tokenizer: PairTokenizer, options: BatchOptions, memory: Ragged | None = None
) -> tf.data.Dataset:
    """Return batches of ({"source": int32 [B, S], "target": int32 [B, T]}, labels int32 [B, T]), -1 for padding.

    A label is the token behind each token of the target. The order is a pure function of seed and epoch: pairs of equal
    length (in steps of 4 tokens) are shuffled among themselves, and so are the batches.

    Args:
        pairs: Tokens of all pairs.
        tokenizer: Tokenizer of the model.
        options: Batch size in pairs of the mean length, and order.
        memory: Outputs of a frozen encoder for each source, which the batches then have too, as float32 [B, S, width];
            None for none.
    """
    starts, rounded = cuts(pairs.lengths, options.batch_size)
    count, batches = len(rounded), len(starts) - 1
    with tf.device("CPU:0"):
        source, target = (tf.RaggedTensor.from_row_lengths(
            np.concatenate(part) if part else np.zeros(0, np.int32), [len(ids) for ids in part]
        ) for part in (pairs.source, pairs.target))  # fmt: skip
        sizes, edges = tf.constant(rounded), tf.constant(starts)
    next_pass = pass_counter(options.epoch)

    def order(_: tf.Tensor) -> tf.data.Dataset:
        now = next_pass()
        rows, turn = tf.range(count, dtype=tf.int64), tf.range(batches)
        if options.shuffle:
            key = tf.stack([tf.constant(options.seed, tf.int64), now])
            rows = tf.random.experimental.stateless_shuffle(rows, seed=key)
            turn = tf.random.experimental.stateless_shuffle(turn, seed=key + [0, 1 << 40])
        rows = tf.gather(rows, tf.argsort(tf.gather(sizes, rows), stable=True))
        return tf.data.Dataset.from_tensor_slices(turn).map(lambda at: rows[edges[at] : edges[at + 1]])

    def fetch(rows: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        inputs, labels = teacher_forced(tf.gather(target, rows).to_tensor(PADDING), len(tokenizer.start))
        found = {SOURCE: tf.gather(source, rows).to_tensor(PADDING), TARGET: inputs}
        if memory is not None:
            encoded = tf.numpy_function(memory.rows, [rows], tf.float32)
            encoded.set_shape([None, *memory.shape[1:]])
            found[MEMORY] = encoded
        return found, labels

    dataset = tf.data.Dataset.from_tensors(0).flat_map(order)
    dataset = dataset.map(fetch, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return dataset.apply(tf.data.experimental.assert_cardinality(batches)).prefetch(tf.data.AUTOTUNE)
