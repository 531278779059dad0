"""Class weights for imbalanced classes: :func:`class_weights`, and for datasets :func:`apply_class_weights`.

Keras multiplies the loss of each example by its weight and divides by the number of examples, not by the sum of the
weights. The alternative is to draw all classes equally often with ``sampling="balanced"`` of
:func:`tfft.data.to_dataset`; use one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data.labels import label_problems, label_spec, labels_of, names_of
from tfft.errors import DataError, PlanError, did_you_mean, join_names, raise_problems


def class_weights(
    examples: Any,
    class_names: Sequence[str] | int,
    how: str | Mapping[str | int, float] | Mapping[int, float] = "balanced",
) -> dict[int, float]:
    """Compute class weights for ``model.fit(class_weight=)``, :func:`apply_class_weights` or ``fit_linear_probe``.

    Args:
        examples: Integer labels [N], or an object with labels: :class:`tfft.data.Examples`, features, a
            ``tf.data.Dataset`` of (inputs, labels) batches, which is read once.
        class_names: Class names in the order of the labels, or the number of classes.
        how: ``"balanced"``: ``N / (classes * examples of the class)``, so that all classes have the same total weight
            and the mean weight of an example is 1; or weights by class name (or number), 1 for the others.

    Returns:
        A positive weight for each class, by its number.

    Raises:
        DataError: If labels are outside of the classes or, for ``"balanced"``, a class has no example.
        PlanError: For unknown class names, with the nearest valid one, and for weights that are not positive.

    Example:
        >>> weights = class_weights(splits.train, splits.class_names)
        >>> model.fit(train, class_weight=weights)
    """
    names, labels = names_of(class_names), labels_of(examples)
    raise_problems(DataError, "The class weights cannot be computed", label_problems(labels, len(names), "labels"))
    if isinstance(how, Mapping):
        return _given(names, how)
    if how != "balanced":
        raise PlanError(
            f"Expected class_weight='balanced' or weights by class name. Received: {how!r}."
            f"{did_you_mean(str(how), ['balanced'])}"
        )
    counts = np.bincount(labels.astype(np.int64), minlength=len(names))
    if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
        raise DataError(
            f"Expected examples of every class. Received: none of {join_names(missing)}. Add examples, "
            "leave the class out, or give weights by class name."
        )
    return {k: len(labels) / (len(names) * int(count)) for k, count in enumerate(counts)}


def apply_class_weights(dataset: tf.data.Dataset, weights: Mapping[int, float]) -> tf.data.Dataset:
    """Add the weight of each example to the batches of a dataset: (inputs, labels, weight [B]).

    Use it for soft labels, as from :func:`tfft.data.apply_mixup`: there, ``fit(class_weight=)`` uses the weight of the
    largest share only. Here it is the sum of share times weight.

    Args:
        dataset: Dataset of (inputs, labels) batches; labels are integers [B] or [B, 1], or shares [B, classes]; for two
            classes also the share of the second, [B] or [B, 1]. Existing weights are multiplied.
        weights: Weights of all classes from 0, as from :func:`class_weights`.

    Returns:
        Dataset of (inputs, labels, float32 weights), for ``model.fit``.

    Raises:
        PlanError: If a class is missing, or a weight is not positive.
        DataError: If the dataset has no such labels.

    Example:
        >>> weights = class_weights(splits.train, splits.class_names)
        >>> train = apply_class_weights(apply_mixup(train, 3, mixup_alpha=0.2), weights)
    """
    if sorted(weights) != list(range(len(weights))) or not weights:
        raise PlanError(f"Expected weights of all classes 0, 1, 2, .... Received: {join_names(weights)}.")
    table = _given(names_of(len(weights)), weights)
    with tf.device("CPU:0"):
        values = tf.constant([table[k] for k in range(len(table))], tf.float32)
    _check_labels(label_spec(dataset), len(table))

    def add(inputs: Any, labels: tf.Tensor, *given: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        own = _weights(labels, values)
        return inputs, labels, own * tf.cast(given[0], tf.float32) if given else own

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _given(names: tuple[str, ...], how: Mapping[str | int, float] | Mapping[int, float]) -> dict[int, float]:
    weights = dict.fromkeys(range(len(names)), 1.0)
    problems = []
    for key, value in how.items():
        known = key in weights if isinstance(key, (int, np.integer)) else key in names
        if not known:
            problems.append(
                f"unknown class {key!r}. Expected one of: {join_names(names)}.{did_you_mean(str(key), names)}"
            )
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if not (number and 0 < value < float("inf")):
            problems.append(f"the weight of {key!r} must be a positive number. Received: {value!r}")
        elif known:
            weights[key if isinstance(key, (int, np.integer)) else names.index(key)] = float(value)
    raise_problems(PlanError, "The class weights cannot be used", problems)
    return weights


def _check_labels(spec: tf.TensorSpec, count: int) -> None:
    shares = spec.dtype.is_floating
    wide = spec.shape[-1] if spec.shape.rank == 2 else 1 if spec.shape.rank == 1 else None
    fits = wide == count or (wide == 1 and (count == 2 or not shares))
    if spec.shape.rank not in (1, 2) or not (spec.dtype.is_integer or shares) or not fits:
        raise DataError(
            f"Expected integer labels [B] or shares [B, {count}] to weight {count} classes. Received: "
            f"{spec.dtype.name} {spec.shape}."
        )


def _weights(labels: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    if labels.shape.rank == 2 and labels.shape[-1] != 1:
        return tf.linalg.matvec(tf.cast(labels, tf.float32), values)
    labels = tf.reshape(labels, [-1])
    if labels.dtype.is_floating:
        share = tf.cast(labels, tf.float32)
        return (1.0 - share) * values[0] + share * values[1]
    return tf.gather(values, labels)
