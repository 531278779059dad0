"""Contrastive training on pairs of examples: batches from :func:`pairs`, and the loss :class:`PairCosine`.

For few labelled examples (Tunstall et al., "Efficient few-shot learning without prompts", 2022: SetFit). A handful of
examples gives hundreds of pairs, and a network trained to recognize pairs of one class learns features that a linear
head separates. Plain Keras is enough: compile a network from inputs to features with the loss and fit it on the
batches. A run does this with ``Phase(contrastive_repeats=40)`` or with the plan :func:`tfft.plans.setfit`.

Implementation notes: seed and epoch determine the batches. There is no network with two branches: every example of a
batch is computed once and compared with all others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from tfft.errors import DataError, PlanError, join_names, raise_problems, require_platform

require_platform()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import ops  # noqa: E402

SHOWN, SIZE, MOST = 40, 32, 64  # repeats of an example, examples per batch, maximum examples per class

_ROUNDS = 4  # of the cipher that shuffles the examples of a class, as in TensorFlow's index_shuffle
_DOMAIN = 0x70616972  # separates these random numbers from others with the same seed
_LEAST = 1e-24  # squared norm below which features count as zero


@keras.saving.register_keras_serializable(package="tfft")
class PairCosine(keras.losses.Loss):
    """Loss with a target cosine of 1 for two examples of one class, and of 0 for two of different classes.

    The squared error of the cosine, as in ``CosineSimilarityLoss`` of Sentence Transformers, which SetFit uses. Every
    example of a batch is paired with all others, never with itself: its loss is half the mean over examples of its
    class plus half the mean over those of other classes, so both kinds of pairs have the same weight. Labels are
    integers [B], features [B, width]. All-zero features have the cosine 0 and no gradient.

    Args:
        name: Name of the loss.
        **kwargs: As for any Keras loss.

    Example:
        >>> encoder, _ = tfft.features.split_head(model)
        >>> encoder.compile("adam", loss=PairCosine())
        >>> encoder.fit(pairs(texts, labels))
    """

    def __init__(self, name: str = "pair_cosine", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, [B]."""
        classes = ops.reshape(y_true, (-1,))
        # Not ops.normalize, whose gradient at zero is NaN; not rsqrt, which some processors only approximate.
        unit = y_pred / ops.sqrt(ops.maximum(ops.sum(ops.square(y_pred), axis=-1, keepdims=True), _LEAST))
        alike = ops.cast(ops.equal(classes[:, None], classes[None, :]), unit.dtype)
        errors = ops.square(ops.matmul(unit, ops.transpose(unit)) - alike)
        kinds = (alike - ops.eye(ops.shape(unit)[0], dtype=unit.dtype), 1 - alike)
        means = [ops.sum(errors * kind, axis=1) / ops.maximum(ops.sum(kind, axis=1), 1) for kind in kinds]
        return (means[0] + means[1]) / 2


def pairs(
    inputs: Any,
    labels: Any,
    *,
    shown: int = SHOWN,
    size: int = SIZE,
    most: int | None = MOST,
    seed: int = 0,
    epoch: tf.Variable | None = None,
) -> tf.data.Dataset:
    """Create batches for :class:`PairCosine`, with equal numbers of distinct examples per class.

    The examples of a class are shuffled and used in turn, also across epochs; a remainder too small for a batch waits
    for the next shuffle. A batch has at least two examples of each of its classes; if there are too many classes for
    that, they take turns as well. A class with fewer examples than its share contributes all of them. Seed and epoch
    alone determine the batches.

    Args:
        inputs: Array or tensor [N, ...], or a dict, list or tuple of those; texts are strings [N].
        labels: Integers [N], the class of each example.
        shown: Mean number of repeats of an example per epoch. 40 makes 40 steps of 16 examples.
        size: Maximum batch size; B examples give B * (B - 1) / 2 pairs.
        most: Maximum number of examples per class, drawn with the seed; None for all of them.
        seed: Seed for the batches.
        epoch: An int variable that holds the epoch at the start of each pass; None counts the passes.

    Returns:
        Dataset of (inputs [B, ...], labels [B]).

    Raises:
        PlanError: If a number is out of range.
        DataError: If inputs and labels have different lengths, or there are no two examples of one class or no two
            classes.

    Example:
        >>> train = tfft.contrastive.pairs(np.array(["good", "great", "bad", "poor"], object), [1, 1, 0, 0])
        >>> len(train), next(iter(train))[1].numpy()
        (40, array([0, 1, 0, 1]))
    """
    leaves, labels = _checked(inputs, labels, shown, size, most)
    if most is not None:
        kept = _some_of_each(labels, most, seed)
        leaves, labels = [tf.gather(leaf, kept) for leaf in leaves], labels[kept]

    def fetch(rows: tf.Tensor) -> Any:
        return tf.nest.pack_sequence_as(inputs, [tf.gather(leaf, rows) for leaf in leaves])

    return fetched_pairs(fetch, labels, shown=shown, size=size, seed=seed, epoch=epoch)


def fetched_pairs(
    fetch: Callable[[tf.Tensor], Any],
    labels: np.ndarray[Any, Any],
    *,
    shown: int,
    size: int,
    seed: int,
    epoch: tf.Variable | None,
) -> tf.data.Dataset:
    """Implement :func:`pairs` for examples that are fetched by position.

    Args:
        fetch: Function from int64 rows [b] to the inputs of the network, as TensorFlow operations.
        labels: Integers [N], the classes of the rows.
        shown: As in :func:`pairs`, like all that follow.
        size: Maximum batch size.
        seed: Seed for the batches.
        epoch: As in :func:`pairs`; None counts the passes.
    """
    from tfft.data.sampling import pass_counter  # importing Keras imports this module, also on behalf of that one

    draw, steps = _drawing(labels, shown, size, seed)
    next_pass = pass_counter(epoch)
    with tf.device("CPU:0"):
        targets = tf.constant(labels)

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(draw(next_pass()))

    def take(rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
        rows = tf.unique(rows).y  # a small class was drawn completely, more than once
        return fetch(rows), tf.gather(targets, rows)

    found = tf.data.Dataset.from_tensors(0).flat_map(one_pass)
    found = found.map(take, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # flat_map has no length, and Keras needs one to find the end of an epoch
    return found.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def check_classes(counts: Any, names: Any = None) -> None:
    """Check that the examples form pairs.

    Args:
        counts: Number of examples per class.
        names: Class names, for the message; None for their numbers.

    Raises:
        DataError: If fewer than two classes have examples, or none has two.
    """
    counts = np.asarray(counts)
    names = [str(i) for i in range(len(counts))] if names is None else list(names)
    present = [name for name, count in zip(names, counts, strict=True) if count]
    if len(present) < 2:
        raise DataError(
            f"Expected examples of at least two classes for pairs. Received: {int(counts.sum())} examples of "
            f"{join_names(present) or 'none'}."
        )
    if counts.max() < 2:
        raise DataError(
            f"Expected a class with at least two examples for pairs. Received: {len(present)} classes with one example "
            "each. Add examples, or keep the features fixed with plan='few_shot'."
        )


def _checked(
    inputs: Any, labels: Any, shown: int, size: int, most: int | None
) -> tuple[list[tf.Tensor], np.ndarray[Any, Any]]:
    problems = []
    for name, value, least in (("shown", shown, 1), ("size", size, 4), ("most", most, 2)):
        if not (_whole(value, least) or (value is None and name == "most")):
            problems.append(f"{name}: Expected an integer of at least {least}. Received: {value!r}")
    raise_problems(PlanError, "These settings of pairs cannot be used", problems)
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            f"Expected integer labels [N] for pairs, one class per example. Received: {labels.dtype} {labels.shape}."
        )
    with tf.device("CPU:0"):
        leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(inputs)]
    lengths = [int(leaf.shape[0]) if leaf.shape.rank else 0 for leaf in leaves]
    if any(length != len(labels) for length in lengths):
        raise DataError(f"Expected one label per example. Received: inputs of {lengths} and {len(labels)} labels.")
    check_classes(*_counts(labels))
    return leaves, labels


def _counts(labels: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[str]]:
    values, counts = np.unique(labels, return_counts=True)
    return counts, [str(value) for value in values]


def _some_of_each(labels: np.ndarray[Any, Any], most: int, seed: int) -> np.ndarray[Any, Any]:
    """Return the positions of at most ``most`` examples per class, drawn with the seed, in their order."""
    order = np.random.default_rng([_DOMAIN, seed]).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == value][:most] for value in np.unique(labels)]))


def _drawing(
    labels: np.ndarray[Any, Any], shown: int, size: int, seed: int
) -> tuple[Callable[[tf.Tensor], tf.Tensor], int]:
    """Return a function from the epoch to the rows of its batches, int64 [steps, width], and the number of steps."""
    _, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    classes = len(sizes)
    at_once = min(classes, size // 2)  # classes per batch
    each = min(size // at_once, int(sizes.max()))  # examples per class
    steps = math.ceil(len(labels) * shown / (at_once * each))
    with tf.device("CPU:0"):
        by_class = tf.constant(np.argsort(own, kind="stable"), tf.int64)
        starts, sizes = (tf.constant(a, tf.int64) for a in (np.cumsum(sizes) - sizes, sizes))

    def draw(now: tf.Tensor) -> tf.Tensor:
        step = now * steps + tf.range(steps, dtype=tf.int64)  # since the first epoch
        turn = step[:, None] * at_once + tf.range(at_once, dtype=tf.int64)  # of classes
        visit, place = turn // classes, turn % classes
        kind = place if at_once == classes else _shuffled(place, tf.fill([], classes), [seed, classes, visit])
        # Examples [steps, each, at_once]: consecutive parts of one shuffle, never across its end.
        visit, kind = (tf.repeat(part[:, None], each, axis=1) for part in (visit, kind))
        count = tf.gather(sizes, kind)
        parts = tf.maximum(count // each, 1)
        drawn = visit % parts * each + tf.range(each, dtype=tf.int64)[:, None]
        # Neighbours are of different classes, so that half a batch also has some of each.
        position = _shuffled(drawn % count, count, [seed, kind, visit // parts])
        return tf.reshape(tf.gather(by_class, tf.gather(starts, kind) + position), [steps, each * at_once])

    return draw, steps


def _shuffled(place: tf.Tensor, count: tf.Tensor, key: Sequence[Any]) -> tf.Tensor:
    """Return the position of each index in a shuffle; each key of three numbers gives another shuffle."""
    seeds = [tf.reshape(tf.broadcast_to(tf.cast(part, tf.int64), tf.shape(place)), [-1]) for part in key]
    last = tf.reshape(tf.broadcast_to(tf.cast(count, tf.int64) - 1, tf.shape(place)), [-1])
    found = tf.raw_ops.RandomIndexShuffle(
        index=tf.reshape(place, [-1]), seed=tf.stack(seeds, axis=1), max_index=last, rounds=_ROUNDS
    )
    return tf.reshape(found, tf.shape(place))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
