"""Order of examples as a pure function of seed and epoch, for files, arrays and features.

Implementation notes: the order is computed without state, also for balanced classes and views, so a program that
resumes in the middle of an epoch sees the same examples as without the interruption.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, did_you_mean, join_names

SAMPLINGS = ("balanced",)

_STRETCH = 50  # batches per stretch that is sorted by length
_ROUNDS = 4  # of the cipher that shuffles the examples of a class, as in TensorFlow's index_shuffle


def rows(
    count: int,
    shuffle: bool,
    seed: int,
    epoch: tf.Variable | None,
    views: int | None = 1,
    classes: np.ndarray | None = None,
    lengths: np.ndarray | None = None,
    batch_size: int = 1,
) -> tf.data.Dataset:
    """Build a dataset of the rows of one epoch: positions of examples, plus ``view * count``.

    Args:
        count: Number of examples.
        shuffle: Whether each pass has another order.
        seed: Seed for the orders.
        epoch: An int variable with the epoch at the start of each pass; None counts the passes.
        views: Number of views. The n-th repeat of an example uses view n, or ``n % views``; None for no limit.
        classes: Integers [count] to draw all classes equally often; None shows each example once.
        lengths: Lengths of the examples, integers [count]. Examples of similar length are adjacent, so that batches
            need little padding: with ``shuffle`` within stretches of 50 batches, whose batches are shuffled; without it
            from the shortest to the longest. None ignores the length.
        batch_size: Batch size, used with ``lengths``.

    Returns:
        Dataset of int64 scalars, ``count`` of them.
    """
    if not shuffle and views == 1 and classes is None:
        if lengths is None:
            return tf.data.Dataset.range(count)
        return tf.data.Dataset.from_tensor_slices(np.argsort(lengths, kind="stable"))
    next_pass = pass_counter(epoch)
    with tf.device("CPU:0"):
        sizes = None if lengths is None else tf.constant(lengths, tf.int64)
    draw = _each_once(count) if classes is None else _balanced(np.asarray(classes), seed)

    @tf.autograph.experimental.do_not_convert  # nothing to convert, and looking for it takes time
    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        now = next_pass()
        positions, showing = draw(now)
        order = positions + count * (showing if views is None else showing % views)
        if shuffle:
            key = tf.stack([tf.constant(seed, tf.int64), now])
            order = tf.random.experimental.stateless_shuffle(order, seed=key)
            if sizes is not None:
                order = _by_length(order, tf.gather(sizes, order % count), batch_size, key)
        elif sizes is not None:
            order = tf.gather(order, tf.argsort(tf.gather(sizes, order % count), stable=True))
        return tf.data.Dataset.from_tensor_slices(order)

    return tf.data.Dataset.from_tensors(0).flat_map(one_pass)


def pass_counter(epoch: tf.Variable | None) -> Callable[[], tf.Tensor]:
    """Return a function that gives the number of a pass over a dataset, an int64 scalar; call it once in each pass.

    Args:
        epoch: Variable with the number; None counts the calls, from 0.
    """
    with tf.device("CPU:0"):
        passes = tf.Variable(0, dtype=tf.int64, trainable=False, name="passes") if epoch is None else epoch

    @tf.autograph.experimental.do_not_convert
    def next_pass() -> tf.Tensor:
        now = tf.cast(passes.read_value(), tf.int64)
        if epoch is None:
            with tf.control_dependencies([now]):
                passes.assign_add(1)
        return now

    return next_pass


def classes_to_balance(sampling: str | None, labels: np.ndarray) -> np.ndarray | None:
    """Return the labels if classes are to be balanced, or None.

    Args:
        sampling: ``"balanced"`` or None.
        labels: Labels of all examples.

    Raises:
        PlanError: For another word, with the nearest one, or if labels are not one class per example.
    """
    if sampling is None:
        return None
    if sampling not in SAMPLINGS:
        hint = did_you_mean(str(sampling), SAMPLINGS)
        raise PlanError(f"Expected sampling={join_names(SAMPLINGS)} or None. Received: {sampling!r}.{hint}")
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise PlanError(
            "sampling='balanced' expects integer labels [N], one class per example. "
            f"Received: {labels.dtype} {labels.shape}. Use sampling=None."
        )
    return labels


def _each_once(count: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    return lambda now: (tf.range(count, dtype=tf.int64), now)


def _by_length(order: tf.Tensor, sizes: tf.Tensor, batch_size: int, key: tf.Tensor) -> tf.Tensor:
    """Sort stretches of a shuffled order by length and shuffle the batches, except a smaller last one."""
    count = tf.size(order, tf.int64)
    stretch = tf.range(count) // (_STRETCH * batch_size)
    longest = tf.reduce_max(sizes) + 1
    order = tf.gather(order, tf.argsort(stretch * longest + sizes, stable=True))
    whole = count // batch_size
    batches = tf.random.experimental.stateless_shuffle(tf.range(whole), seed=key + [0, 1 << 40])
    places = tf.reshape(batches[:, None] * batch_size + tf.range(batch_size, dtype=tf.int64), [-1])
    return tf.gather(order, tf.concat([places, tf.range(whole * batch_size, count)], axis=0))


def _balanced(classes: np.ndarray, seed: int) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Draw the classes in turn, also across epochs, and the examples of each class in one permutation after the other,
    so that the numbers of repeats of two examples of a class differ by at most one.
    """
    _, own, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    count, kinds = len(classes), len(sizes)
    with tf.device("CPU:0"):
        by_class = tf.constant(np.argsort(own, kind="stable"), tf.int64)
        starts, sizes = (tf.constant(a, tf.int64) for a in (np.cumsum(sizes) - sizes, sizes))

    def draw(now: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        drawn = now * count + tf.range(count, dtype=tf.int64)  # since the first epoch
        kind, turn = drawn % kinds, drawn // kinds
        size = tf.gather(sizes, kind)
        showing, place = turn // size, turn % size
        keys = tf.stack([tf.fill([count], tf.constant(seed, tf.int64)), kind, showing], axis=1)
        place = tf.raw_ops.RandomIndexShuffle(index=place, seed=keys, max_index=size - 1, rounds=_ROUNDS)
        return tf.gather(by_class, tf.gather(starts, kind) + place), showing

    return draw
