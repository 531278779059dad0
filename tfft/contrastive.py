"""Features tuned on pairs of examples: batches to take pairs of, :func:`pairs`, and what is asked of them,
:class:`PairCosine`.

For few labelled examples (Tunstall et al., "Efficient few-shot learning without prompts", 2022: SetFit). From a handful
of examples come hundreds of pairs, and a network that is to tell of each pair whether it is of one class gets features
that a linear head separates. Plain Keras is enough: a network from inputs to features, compiled with the loss and
fitted on the batches. A training takes it as
``Phase(contrastive_repeats=40)`` or as the plan :func:`tfft.plans.setfit`.

Hidden here: which examples meet in a batch, which is a pure function of seed and epoch, and that no network of two
branches is needed: every example of a batch is computed once, and compared with all others.
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

SHOWN, SIZE, MOST = 40, 32, 64  # times that an example is shown, examples of a batch, and of a class that are used

_ROUNDS = 4  # of the cipher that shuffles the examples of a class; what TensorFlow's index_shuffle uses
_DOMAIN = 0x70616972  # keeps these numbers apart from others that are made of the same seed
_LEAST = 1e-24  # squared length of features that are taken as zero


@keras.saving.register_keras_serializable(package="tfft")
class PairCosine(keras.losses.Loss):
    """Asks for a cosine of 1 of two examples of one class, and of 0 of two examples of different classes.

    The squared error of the cosine, as ``CosineSimilarityLoss`` of Sentence Transformers has it, which SetFit tunes
    with. Every example of a batch is paired with all others of it, never with itself: its loss is the mean over those
    of its class and the mean over those of other classes, half of each. So both kinds of pairs count the same, however
    many there are. Labels are whole numbers [B], features [B, width]. Features that are all zero have the cosine 0 and
    no gradient.

    Args:
        name: of the loss.
        **kwargs: as for any loss of Keras.

    Example:
        >>> encoder, _ = tfft.features.split_head(model)
        >>> encoder.compile("adam", loss=PairCosine())
        >>> encoder.fit(pairs(texts, labels))
    """

    def __init__(self, name: str = "pair_cosine", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each example, [B]."""
        classes = ops.reshape(y_true, (-1,))
        # Not ops.normalize, whose gradient at zero is not a number; not rsqrt, which some processors only estimate.
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
    """Makes batches whose examples :class:`PairCosine` compares: the same number of each class, none of them twice.

    The examples of a class are shuffled and come in turn, over the end of epochs too; what is left at the end of a
    shuffle and is too few for a batch waits for the next one. A batch has at least two of each of its classes; where
    there are more classes than that leaves room for, they come in turn as well. A class with fewer examples than its
    share of a batch is in it with those. Which examples meet depends on seed and epoch alone.

    Args:
        inputs: array or tensor [N, ...], or a dict, list or tuple of those; texts are strings [N].
        labels: whole numbers [N], the class of each.
        shown: times that an example is shown in an epoch, in the mean over all. 40 makes 40 steps of 16 examples.
        size: examples of a batch, at most; of B examples come B * (B - 1) / 2 pairs.
        most: examples of a class that are used, drawn by the seed; None for all of them.
        seed: picks other batches.
        epoch: an int variable that tells the epoch at the start of each pass; None counts the passes.

    Returns:
        Dataset of (inputs [B, ...], labels [B]).

    Raises:
        PlanError: when a number is out of range.
        DataError: when inputs and labels do not fit, or no two examples are of one class, or all are.

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
    """Does what :func:`pairs` does with all examples, of anything that is fetched by position.

    Args:
        fetch: from int64 rows [b] to what the network takes, runs as TensorFlow operations.
        labels: whole numbers [N], of the rows.
        shown: as in :func:`pairs`, like all that follows.
        size: examples of a batch, at most.
        seed: picks other batches.
        epoch: None counts the passes.
    """
    draw, steps = _drawing(labels, shown, size, seed)
    with tf.device("CPU:0"):
        passes = tf.Variable(0, dtype=tf.int64, trainable=False, name="passes") if epoch is None else epoch
        targets = tf.constant(labels)

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        now = tf.cast(passes.read_value(), tf.int64)
        if epoch is None:
            with tf.control_dependencies([now]):
                passes.assign_add(1)
        return tf.data.Dataset.from_tensor_slices(draw(now))

    def take(rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
        rows = tf.unique(rows).y  # all of a small class were drawn, more than once
        return fetch(rows), tf.gather(targets, rows)

    found = tf.data.Dataset.from_tensors(0).flat_map(one_pass)
    found = found.map(take, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # flat_map has no length, and Keras needs it to know where an epoch ends
    return found.apply(tf.data.experimental.assert_cardinality(steps)).prefetch(tf.data.AUTOTUNE)


def check_classes(counts: Any, names: Any = None) -> None:
    """Refuses examples of which no pairs can be made.

    Args:
        counts: examples of each class.
        names: of the classes, for the message; None for their numbers.

    Raises:
        DataError: when fewer than two classes have examples, or none has two.
    """
    counts = np.asarray(counts)
    names = [str(i) for i in range(len(counts))] if names is None else list(names)
    present = [name for name, count in zip(names, counts, strict=True) if count]
    if len(present) < 2:
        raise DataError(
            f"Pairs need examples of at least two classes, received {int(counts.sum())} examples of "
            f"{join_names(present) or 'none'}."
        )
    if counts.max() < 2:
        raise DataError(
            f"Pairs need a class with at least two examples, and each of the {len(present)} classes has one: nothing "
            "would pull examples together. Add examples, or leave the features as they are: plan='few_shot'."
        )


def _checked(
    inputs: Any, labels: Any, shown: int, size: int, most: int | None
) -> tuple[list[tf.Tensor], np.ndarray[Any, Any]]:
    problems = []
    for name, value, least in (("shown", shown, 1), ("size", size, 4), ("most", most, 2)):
        if not (_whole(value, least) or (value is None and name == "most")):
            problems.append(f"{name} must be a whole number of at least {least}, got {value!r}")
    raise_problems(PlanError, "These pairs cannot be made", problems)
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise DataError(
            "Pairs are of one class or of two, so labels must be whole numbers [N], one class for each example; "
            f"received {labels.dtype} {labels.shape}."
        )
    with tf.device("CPU:0"):
        leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(inputs)]
    lengths = [int(leaf.shape[0]) if leaf.shape.rank else 0 for leaf in leaves]
    if any(length != len(labels) for length in lengths):
        raise DataError(f"Expected one label for each example, received inputs of {lengths} and {len(labels)} labels.")
    check_classes(*_counts(labels))
    return leaves, labels


def _counts(labels: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], list[str]]:
    values, counts = np.unique(labels, return_counts=True)
    return counts, [str(value) for value in values]


def _some_of_each(labels: np.ndarray[Any, Any], most: int, seed: int) -> np.ndarray[Any, Any]:
    """Returns the positions of so many examples of each class, drawn by the seed, in their order."""
    order = np.random.default_rng([_DOMAIN, seed]).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == value][:most] for value in np.unique(labels)]))


def _drawing(
    labels: np.ndarray[Any, Any], shown: int, size: int, seed: int
) -> tuple[Callable[[tf.Tensor], tf.Tensor], int]:
    """Returns a function from the epoch to the rows of its batches, int64 [steps, width], and the steps."""
    _, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    classes = len(sizes)
    at_once = min(classes, size // 2)  # classes of a batch
    each = min(size // at_once, int(sizes.max()))  # examples of each
    steps = math.ceil(len(labels) * shown / (at_once * each))
    with tf.device("CPU:0"):
        by_class = tf.constant(np.argsort(own, kind="stable"), tf.int64)
        starts, sizes = (tf.constant(a, tf.int64) for a in (np.cumsum(sizes) - sizes, sizes))

    def draw(now: tf.Tensor) -> tf.Tensor:
        step = now * steps + tf.range(steps, dtype=tf.int64)  # since the first epoch
        turn = step[:, None] * at_once + tf.range(at_once, dtype=tf.int64)  # of classes
        visit, place = turn // classes, turn % classes
        kind = place if at_once == classes else _shuffled(place, tf.fill([], classes), [seed, classes, visit])
        # Examples [steps, each, at_once]: parts of one shuffle after the other, none of which goes over its end.
        visit, kind = (tf.repeat(part[:, None], each, axis=1) for part in (visit, kind))
        count = tf.gather(sizes, kind)
        parts = tf.maximum(count // each, 1)
        drawn = visit % parts * each + tf.range(each, dtype=tf.int64)[:, None]
        # Neighbours are of different classes, so that also a half of the batch has some of each.
        position = _shuffled(drawn % count, count, [seed, kind, visit // parts])
        return tf.reshape(tf.gather(by_class, tf.gather(starts, kind) + position), [steps, each * at_once])

    return draw, steps


def _shuffled(place: tf.Tensor, count: tf.Tensor, key: Sequence[Any]) -> tf.Tensor:
    """Where each place goes in a shuffle of so many, another one for each key of three numbers."""
    seeds = [tf.reshape(tf.broadcast_to(tf.cast(part, tf.int64), tf.shape(place)), [-1]) for part in key]
    last = tf.reshape(tf.broadcast_to(tf.cast(count, tf.int64) - 1, tf.shape(place)), [-1])
    found = tf.raw_ops.RandomIndexShuffle(
        index=tf.reshape(place, [-1]), seed=tf.stack(seeds, axis=1), max_index=last, rounds=_ROUNDS
    )
    return tf.reshape(found, tf.shape(place))


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
