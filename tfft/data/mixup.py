"""MixUp and CutMix for datasets, :func:`apply_mixup`, and matching labels, :func:`one_hot`.

Implementation notes: the random numbers are a pure function of seed, epoch and batch number. The layers MixUp and
CutMix of Keras are not used: their random state cannot resume in the middle of an epoch (a tensor as seed raises an
error); MixUp accepts images only; and CutMix writes a share into the label that is not the share of the pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data.sampling import pass_counter
from tfft.errors import DataError, PlanError, raise_problems
from tfft.settings import is_count

_DOMAIN = 0x6D6978  # separates these random numbers from others with the same seed


def apply_mixup(
    dataset: tf.data.Dataset,
    classes: int,
    *,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    seed: int = 0,
    epoch: tf.Variable | None = None,
) -> tf.data.Dataset:
    """Mix the examples of each batch in pairs, inputs and labels with the same share.

    MixUp replaces both examples of a pair by sums: ``share * a + (1 - share) * b`` and the other way round
    (Zhang et al., "mixup: Beyond empirical risk minimization", 2018). CutMix exchanges a rectangle
    (Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features", 2019),
    and the share is exactly that of the remaining values. Each pair has its own share, drawn from Beta(a, a). Pairs
    exchange what they mix, so inputs and labels of a batch keep their mean. In a batch of odd size, one example stays
    unchanged. Features of a frozen network can be mixed like images (Verma et al., "Manifold mixup", 2019), so this
    also works with a feature cache.

    Mixing helps long training on large data; on small data with few epochs it often does not.

    Args:
        dataset: Dataset of (inputs, labels) batches, as from :func:`tfft.data.to_dataset` and ``Features.dataset``.
            Inputs are uint8 or floating, one tensor or several; labels are integers [B], or rows [B, classes].
        classes: Number of head units, ``head.units``: the number of classes, or 1 for a binary head.
        mixup_alpha: The a of Beta(a, a); larger values mix more. 0.1 to 0.4 is usual; 0 for none.
        cutmix_alpha: The same for rectangles. 1 is usual; 0 for none. If both are given, half of the batches use each.
        seed: Seed for the random numbers.
        epoch: An int variable with the epoch at the start of each pass, the one given to :func:`tfft.data.to_dataset`.
            Without it, the dataset counts its passes from 0.

    Returns:
        Dataset of (inputs of the same types and shapes, float32 shares [B, classes]), of the same length. uint8 pixels
        are rounded. Compile with ``head.compile_args(soft=True)``. To resume within an epoch, skip batches of the
        result, not of ``dataset``.

    Raises:
        PlanError: If a value is out of range.
        DataError: If inputs or labels have another form.

    Example:
        >>> train = apply_mixup(splits_train, head.units, mixup_alpha=0.2, seed=1)
        >>> model.compile("adam", **head.compile_args(soft=True))
        >>> model.fit(train, validation_data=one_hot(validation, head.units))
    """
    _check_arguments(classes, mixup_alpha, cutmix_alpha, epoch)
    _check_elements(dataset, classes, cutmix_alpha)
    if not mixup_alpha and not cutmix_alpha:
        return one_hot(dataset, classes)
    next_pass = pass_counter(epoch)

    @tf.autograph.experimental.do_not_convert
    def one_pass(_: tf.Tensor) -> tf.data.Dataset:
        own = tf.random.fold_in(tf.constant([seed, _DOMAIN], tf.int64), next_pass())
        return tf.data.Dataset.counter().map(lambda number: tf.random.fold_in(own, number))

    @tf.autograph.experimental.do_not_convert
    def mix(batch: tuple[Any, tf.Tensor], number: tf.Tensor) -> tuple[Any, tf.Tensor]:
        return _mix(batch[0], _shares(batch[1], classes), mixup_alpha, cutmix_alpha, number)

    numbers = tf.data.Dataset.from_tensors(0).flat_map(one_pass)
    found = tf.data.Dataset.zip((dataset, numbers)).map(mix, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    length = dataset.cardinality()
    if length >= 0:  # flat_map has no length, and Keras needs one to find the end of an epoch
        found = found.apply(tf.data.experimental.assert_cardinality(length))
    return found.prefetch(tf.data.AUTOTUNE)


def one_hot(dataset: tf.data.Dataset, classes: int) -> tf.data.Dataset:
    """Convert the labels of a dataset to shares, to validate a model that is compiled for mixed labels.

    Args:
        dataset: Dataset of (inputs, labels) batches; labels as in :func:`apply_mixup`.
        classes: Number of head units, ``head.units``.

    Returns:
        Dataset of (inputs, float32 shares [B, classes]): one-hot rows for integers; for ``classes=1`` the label as a
        number.

    Raises:
        DataError: If labels have another form. A label outside of the classes stops the pass that reads it.

    Example:
        >>> model.evaluate(one_hot(validation, head.units))
    """
    _check_labels(dataset.element_spec, classes)
    return dataset.map(
        lambda inputs, labels: (inputs, _shares(labels, classes)),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


@tf.autograph.experimental.do_not_convert
def _mix(
    inputs: Any, labels: tf.Tensor, mixup_alpha: float, cutmix_alpha: float, seed: tf.Tensor
) -> tuple[Any, tf.Tensor]:
    """Mix one batch with the random numbers of one seed."""
    which, order, shares, places = tf.unstack(tf.random.split(seed, 4))
    count = tf.shape(labels)[0]
    pairs = count // 2
    # The first half of a shuffled order is paired with the second; with an odd number, the last one pairs with itself.
    order = tf.random.experimental.stateless_shuffle(tf.range(count), seed=order)
    paired = order[: 2 * pairs]
    swapped = tf.concat([order[pairs : 2 * pairs], order[:pairs]], 0)
    partner = tf.tensor_scatter_nd_update(tf.range(count), paired[:, None], swapped)

    def of_each(values: tf.Tensor) -> tf.Tensor:
        """Expand a value per pair to one per example, 0 for the one without a partner."""
        shape = tf.concat([[count], tf.shape(values)[1:]], 0)
        return tf.scatter_nd(paired[:, None], tf.concat([values, values], 0), shape)

    def summed() -> list[tf.Tensor]:
        share = of_each(_beta(mixup_alpha, pairs, shares))
        return [_blend(t, tf.gather(t, partner), share) for t in [*tf.nest.flatten(inputs), labels]]

    def cut() -> list[tf.Tensor]:
        [images] = tf.nest.flatten(inputs)
        middle = tf.random.stateless_uniform([pairs, 2], places)
        inside, kept = _rectangle(tf.shape(images), _beta(cutmix_alpha, pairs, shares), middle)
        inside = of_each(tf.cast(inside, tf.int32)) > 0
        exchanged = tf.where(inside[..., None], tf.gather(images, partner), images)
        return [exchanged, _blend(labels, tf.gather(labels, partner), of_each(kept))]

    if mixup_alpha and cutmix_alpha:
        found = tf.cond(tf.random.stateless_uniform([], which) < 0.5, summed, cut)
    else:
        found = summed() if mixup_alpha else cut()
    for before, after in zip([*tf.nest.flatten(inputs), labels], found, strict=True):
        after.set_shape(before.shape)
    return tf.nest.pack_sequence_as(inputs, found[:-1]), found[-1]


def _beta(a: float, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw from Beta(a, a). For small a, a gamma variate rounds to 0, but its logarithm does not: it is that of a gamma
    variate of a + 1, plus log(u) / a (Marsaglia and Tsang, "A simple method for generating gamma variables", 2000).
    """
    seeds = tf.unstack(tf.random.split(seed, 4))
    gammas = [tf.math.log(tf.random.stateless_gamma([count], s, alpha=a + 1.0)) for s in seeds[:2]]
    least = np.finfo(np.float32).tiny
    uniforms = [tf.math.log(tf.random.stateless_uniform([count], s, minval=least)) for s in seeds[2:]]
    return tf.sigmoid(gammas[0] + uniforms[0] / a - gammas[1] - uniforms[1] / a)


def _blend(one: tf.Tensor, other: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    kind = tf.float64 if one.dtype == tf.float64 else tf.float32
    share = tf.cast(tf.reshape(share, [-1, *[1] * (one.shape.rank - 1)]), kind)
    start = tf.cast(other, kind)
    sums = start + share * (tf.cast(one, kind) - start)  # exact if both are equal
    return tf.cast(tf.round(sums) if one.dtype.is_integer else sums, one.dtype)


def _rectangle(shape: tf.Tensor, share: tf.Tensor, middle: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the rectangles that pairs exchange, bool [P, H, W], and the exact share that stays, [P].

    As in the paper, the centre is anywhere, so a rectangle may cross the edge, where it is clipped.
    """
    size = tf.cast(shape[1:3], tf.float32)
    half = tf.sqrt(1.0 - share)[:, None] / 2
    low = tf.round(tf.maximum(middle - half, 0.0) * size)
    high = tf.round(tf.minimum(middle + half, 1.0) * size)
    rows, columns = (
        (tf.range(size[axis]) >= low[:, axis, None]) & (tf.range(size[axis]) < high[:, axis, None]) for axis in (0, 1)
    )
    area = tf.reduce_prod(high - low, 1) / tf.reduce_prod(size)
    return rows[:, :, None] & columns[:, None, :], 1.0 - area


def _shares(labels: tf.Tensor, classes: int) -> tf.Tensor:
    if classes == 1:
        return tf.cast(tf.reshape(labels, [-1, 1]), tf.float32)
    if labels.shape.rank == 2 and labels.shape[1] == classes:
        return tf.cast(labels, tf.float32)
    labels = tf.cast(tf.reshape(labels, [-1]), tf.int64)
    known = tf.debugging.Assert(  # one_hot would return a row of zeros
        tf.reduce_all((labels >= 0) & (labels < classes)),
        [f"Labels must be from 0 to {classes - 1}. Received:", labels],
        summarize=20,
    )
    with tf.control_dependencies([] if known is None else [known]):
        return tf.one_hot(tf.identity(labels), classes)


def _check_arguments(classes: Any, mixup_alpha: Any, cutmix_alpha: Any, epoch: Any) -> None:
    problems = []
    if not is_count(classes):
        problems.append(f"classes must be an integer of at least 1, received {classes!r}")
    for name, value in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not (number and 0 <= value < float("inf")):
            problems.append(f"{name} must be a number of at least 0, received {value!r}")
    if epoch is not None and not isinstance(epoch, tf.Variable):
        problems.append(f"epoch must be a tf.Variable of dtype int64 or None, received {type(epoch).__name__}")
    raise_problems(PlanError, "MixUp cannot be applied", problems)


def _check_elements(dataset: tf.data.Dataset, classes: int, cutmix_alpha: float) -> None:
    spec = dataset.element_spec
    _check_labels(spec, classes)
    problems, tensors = [], tf.nest.flatten(spec[0])
    if cutmix_alpha and len(tensors) != 1:
        problems.append(f"cutmix needs one input, received {len(tensors)}; mixup takes any number")
    for tensor in tensors:
        if not isinstance(tensor, tf.TensorSpec) or not (tensor.dtype.is_floating or tensor.dtype == tf.uint8):
            problems.append(f"inputs must be uint8 pixels or floating, received {tensor}")
        elif cutmix_alpha and tensor.shape.rank != 4:
            problems.append(f"cutmix needs inputs [B, H, W, C], received {tensor.shape}; mixup takes any")
        elif tensor.shape.rank is None:
            problems.append(f"the rank of inputs must be known, received {tensor.shape}")
    raise_problems(DataError, "MixUp cannot be applied", problems)


def _check_labels(spec: Any, classes: int) -> None:
    if isinstance(spec, tuple) and len(spec) > 2:
        raise DataError("Expected no weights. Received: weighted examples. Mix first, then call apply_class_weights().")
    if not isinstance(spec, tuple) or len(spec) != 2 or not isinstance(spec[1], tf.TensorSpec):
        raise DataError(f"Expected a dataset of (inputs, labels) batches, received one of {spec}.")
    labels = spec[1]
    whole = labels.dtype.is_integer or labels.dtype == tf.bool
    one = labels.shape.rank == 1 or (labels.shape.rank == 2 and labels.shape[1] == 1)
    rows = labels.shape.rank == 2 and labels.shape[1] == classes
    if not (rows or (one and (whole or classes == 1))):
        raise DataError(
            f"Expected integer labels [B] or rows [B, {classes}] for a head of {classes} units. Received: "
            f"{labels.dtype.name} {labels.shape}."
        )
