"""Features tuned on pairs of examples: the pairs, :func:`pairs`, and what is asked of them, :class:`PairCosine`.

For few labelled examples (Tunstall et al., "Efficient few-shot learning without prompts", 2022: SetFit). From a handful
of examples come hundreds of pairs, and a network that is to tell of each pair whether it is of one class gets features
that a linear head separates. Plain Keras is enough: a network from inputs to features, compiled with the loss and
fitted on the pairs. As a phase of a training it is ``Phase(contrastive=40)``, as a plan :func:`tfft.plans.setfit`.

Hidden here: which examples meet, which is a pure function of seed and epoch, and that no network of two branches is
needed: the two of a pair are neighbours in one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfft.errors import DataError, PlanError, listed, raise_problems, require_platform

require_platform()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras import ops  # noqa: E402

EACH, SIZE, MOST = 40, 16, 64  # pairs of each example, pairs of a batch, examples of a class that are paired

_DOMAIN = 0x70616972  # keeps these numbers apart from others that are made of the same seed
_ROUNDS = 4  # of the cipher that shuffles an example's partners; what TensorFlow's index_shuffle uses
_LEAST = 1e-24  # squared length of features that are taken as zero


@keras.saving.register_keras_serializable(package="tfft")
class PairCosine(keras.losses.Loss):
    """Asks for a cosine of 1 of two examples of one class, and of 0 of two examples of different classes.

    The squared error of the cosine, as ``CosineSimilarityLoss`` of Sentence Transformers has it, which SetFit tunes
    with. Rows 2k and 2k + 1 of a batch are a pair. Labels are whole numbers [2 * pairs], one class for each row;
    features are [2 * pairs, width]. Features that are all zero have the cosine 0 and no gradient.

    Args:
        name: of the loss.
        **kwargs: as for any loss of Keras.

    Example:
        >>> encoder, _ = tfft.features.splitting.split_head(model)
        >>> encoder.compile("adam", loss=PairCosine())
        >>> encoder.fit(pairs(texts, labels))
    """

    def __init__(self, name: str = "pair_cosine", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the squared errors, [pairs]."""
        y_true = ops.reshape(y_true, (-1,))
        # Not ops.normalize, whose gradient at zero is not a number.
        unit = y_pred * ops.rsqrt(ops.maximum(ops.sum(ops.square(y_pred), axis=-1, keepdims=True), _LEAST))
        cosine = ops.sum(unit[0::2] * unit[1::2], axis=-1)
        return ops.square(cosine - ops.cast(ops.equal(y_true[0::2], y_true[1::2]), cosine.dtype))


def pairs(
    inputs: Any,
    labels: Any,
    *,
    each: int = EACH,
    size: int = SIZE,
    most: int | None = MOST,
    seed: int = 0,
    epoch: tf.Variable | None = None,
) -> tf.data.Dataset:
    """Makes batches of pairs: in each batch every other pair is of one class, the others of two.

    In an epoch each example meets ``each / 2`` others of its class and as many of other classes (SetFit with
    ``num_iterations = each / 2``), never itself. The others come in turn, over the end of epochs too, so that none of
    them comes again before all have come. Examples that are alone in their class meet those of other classes only.
    Which examples meet, and in which order, depends on seed and epoch alone.

    Args:
        inputs: array or tensor [N, ...], or a dict, list or tuple of those; texts are strings [N].
        labels: whole numbers [N], the class of each.
        each: pairs of each example in an epoch, an even number; 40 is SetFit's.
        size: pairs of a batch, which has twice as many rows; 16 is SetFit's. All batches are full: fewer than ``size``
            pairs at the end of an epoch are left out.
        most: examples of a class that are paired, drawn by the seed; None for all of them.
        seed: picks other pairs.
        epoch: an int variable that tells the epoch at the start of each pass; None counts the passes.

    Returns:
        Dataset of (inputs [2 * size, ...], labels [2 * size]), whose rows 2k and 2k + 1 are a pair; as
        :class:`PairCosine` takes it.

    Raises:
        PlanError: when a number is out of range.
        DataError: when inputs and labels do not fit, or no two examples are of one class, or all are.

    Example:
        >>> train = tfft.contrastive.pairs(np.array(["good", "great", "bad", "poor"], object), [1, 1, 0, 0])
        >>> texts, classes = next(iter(train))
        >>> texts.shape, classes[:2].numpy()
        (TensorShape([32]), array([1, 1]))
    """
    leaves, labels = _checked(inputs, labels, each, size, most)
    if most is not None:
        kept = _first_of_each(labels, most, seed)
        leaves, labels = [tf.gather(leaf, kept) for leaf in leaves], labels[kept]
    draw, count = _drawing(labels, each // 2, seed)
    size = min(size, count)
    with tf.device("CPU:0"):
        passes = tf.Variable(0, dtype=tf.int64, trainable=False, name="passes") if epoch is None else epoch

    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        now = tf.cast(passes.read_value(), tf.int64)
        if epoch is None:
            with tf.control_dependencies([now]):
                passes.assign_add(1)
        whole = draw(now)[: count // size * size]
        return tf.data.Dataset.from_tensor_slices(tf.reshape(whole, [count // size, 2 * size]))

    def take(rows: tf.Tensor) -> tuple[Any, tf.Tensor]:
        return tf.nest.pack_sequence_as(inputs, [tf.gather(leaf, rows) for leaf in leaves]), tf.gather(labels, rows)

    found = tf.data.Dataset.from_tensors(0).flat_map(one_pass)
    found = found.map(take, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    # flat_map has no length, and Keras needs it to know where an epoch ends
    return found.apply(tf.data.experimental.assert_cardinality(count // size)).prefetch(tf.data.AUTOTUNE)


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
            f"{listed(present) or 'none'}."
        )
    if counts.max() < 2:
        raise DataError(
            f"Pairs need a class with at least two examples, and each of the {len(present)} classes has one: nothing "
            "would pull examples together. Add examples, or leave the features as they are: plan='few_shot'."
        )


def _checked(
    inputs: Any, labels: Any, each: int, size: int, most: int | None
) -> tuple[list[tf.Tensor], np.ndarray[Any, Any]]:
    problems = []
    if not _whole(each, 2) or each % 2:
        problems.append(f"each must be an even number of at least 2, half of the pairs are of one class; got {each!r}")
    if not _whole(size, 1):
        problems.append(f"size must be a whole number of at least 1, got {size!r}")
    if most is not None and not _whole(most, 2):
        problems.append(f"most must be None or a whole number of at least 2, got {most!r}")
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


def _first_of_each(labels: np.ndarray[Any, Any], most: int, seed: int) -> np.ndarray[Any, Any]:
    """Returns the positions of so many examples of each class, drawn by the seed, in their order."""
    order = np.random.default_rng([_DOMAIN, seed]).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == value][:most] for value in np.unique(labels)]))


def _drawing(labels: np.ndarray[Any, Any], half: int, seed: int) -> tuple[Callable[[tf.Tensor], tf.Tensor], int]:
    """Returns a function from the epoch to its pairs, int64 [count, 2], and their count.

    Examples stand in a circle, class by class: those behind an example within its class are its likes, those behind
    its class all others. So a partner is a number of places to go.
    """
    _, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    total = len(labels)
    circle = np.argsort(own, kind="stable")
    size = sizes[own[circle]]
    start = (np.cumsum(sizes) - sizes)[own[circle]]
    place = np.arange(total) - start
    with_likes = np.flatnonzero(size > 1)
    count = 2 * half * len(with_likes)  # as many of two classes as of one
    with tf.device("CPU:0"):
        circle, size, start, place = (tf.constant(a, tf.int64) for a in (circle, size, start, place))

    def partners(now: tf.Tensor, of: np.ndarray[Any, Any], kind: int) -> tf.Tensor:
        """Pairs [len(of) * half, 2] of places in the circle; kind 1: of one class, 0: of two."""
        one = tf.repeat(tf.constant(of, tf.int64), half)
        turn = tf.tile(now * half + tf.range(half, dtype=tf.int64), [len(of)])  # since the first epoch
        own_size, own_start = tf.gather(size, one), tf.gather(start, one)
        others = own_size - 1 if kind else total - own_size
        seeds = [tf.fill(tf.shape(one), tf.constant(seed, tf.int64)), one * 2 + kind, turn // others]
        shuffled = tf.raw_ops.RandomIndexShuffle(
            index=turn % others, seed=tf.stack(seeds, axis=1), max_index=others - 1, rounds=_ROUNDS
        )
        if kind:
            other = own_start + (tf.gather(place, one) + 1 + shuffled) % own_size
        else:
            other = (own_start + own_size + shuffled) % total
        return tf.stack([one, other], axis=1)

    def draw(now: tf.Tensor) -> tf.Tensor:
        seeds = tf.random.split(tf.random.fold_in(tf.constant([seed, _DOMAIN], tf.int64), now), 2)
        kinds = ((1, with_likes), (0, np.arange(total)))
        drawn = [
            tf.random.experimental.stateless_shuffle(partners(now, of, kind), seed=own)[: count // 2]
            for (kind, of), own in zip(kinds, tf.unstack(seeds), strict=True)
        ]
        return tf.gather(circle, tf.reshape(tf.stack(drawn, axis=1), [count, 2]))

    return draw, count


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
