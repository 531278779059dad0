"""Checks of labels before training: :func:`check_labels`, :func:`labels_of`, :func:`class_numbers`.

Implementation notes: a label outside of the classes fails late: in the middle of an epoch or, one-hot encoded, not at
all, because it becomes a row of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.errors import DataError, did_you_mean, join_names, raise_problems
from tfft.io.name_files import composed

_SHOWN = 5  # maximum labels listed in a message


def class_numbers(own: Sequence[str], known: Sequence[str], where: str) -> np.ndarray | None:
    """Return the number that a model has for each class of its data; None if they are the same.

    Args:
        own: Class names of the data. Those that are the numbers 0, 1, ... name no class: they are the model's.
        known: Class names of the model.
        where: Name of the data, for the message.

    Raises:
        DataError: For classes that the model does not have.
    """
    own, known = tuple(map(composed, own)), tuple(map(composed, known))
    if not own or not known or own == known or own == tuple(map(str, range(len(own)))):
        return None
    unknown = [name for name in own if name not in known]
    if unknown:
        hint = "".join(did_you_mean(name, known) for name in unknown[:3])
        raise DataError(f"{where} has unknown classes: {join_names(unknown)}.{hint} Expected: {join_names(known)}.")
    return np.array([known.index(name) for name in own], np.int32)


def check_labels(train: Any, validation: Any, class_names: Sequence[str] | int) -> tuple[str, ...]:
    """Check that labels are valid class numbers and that every class has a training example.

    Use it before the first long run on data from another program.

    Args:
        train: Integer labels [N] or [N, 1], or an object with labels: :class:`tfft.data.Examples`, features, a
            ``tf.data.Dataset`` of (inputs, labels) batches, which is read once.
        validation: The same for the held-out examples, or None.
        class_names: Class names in the order of the labels, or the number of classes.

    Returns:
        Warnings, one sentence each: classes without a validation example.

    Raises:
        DataError: If labels are not integers or are outside of the classes (with their positions), or if a class has no
            training example.

    Example:
        >>> check_labels(splits.train, splits.validation, splits.class_names)
        ()
    """
    names = names_of(class_names)
    problems, counts = [], {}
    for what, given in (("training", train), ("validation", validation)):
        if given is None:
            continue
        labels = labels_of(given)
        wrong = label_problems(labels, len(names), f"{what} labels")
        problems += wrong
        if labels.ndim == 1:
            good = labels[np.isin(labels, np.arange(len(names)))].astype(np.int64)
            counts[what] = np.bincount(good, minlength=len(names))
    missing = _without(counts.get("training"), names)
    if missing:
        problems.append(f"no training example of {join_names(missing)}: add some, or leave the class out")
    raise_problems(DataError, "The labels cannot be used", problems)
    unseen = _without(counts.get("validation"), names)
    if not unseen:
        return ()
    return (f"No validation example of {join_names(unseen)}, so the scores do not cover it.",)


def labels_of(given: Any) -> np.ndarray:
    """Return the labels of an object with labels; [N, 1] becomes [N].

    Args:
        given: Labels; an object with ``labels``, such as :class:`tfft.data.Examples` or features; or a
            ``tf.data.Dataset`` of batches (inputs, labels, ...), which is read once.

    Raises:
        DataError: If there are none.
    """
    if isinstance(given, tf.data.Dataset):
        labels = _labels_of_dataset(given)
    else:
        labels = np.asarray(getattr(given, "labels", given))
    if not labels.size or not labels.ndim or labels.dtype.kind not in "iubf":
        raise DataError(
            "Expected integer labels [N], or examples, features or a dataset with labels. Received: "
            f"{type(given).__name__} with labels of {labels.dtype} {labels.shape}."
        )
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def label_problems(labels: np.ndarray, count: int, what: str) -> list[str]:
    """Return the problems with labels of ``count`` classes, as sentences without a full stop.

    Args:
        labels: Labels from :func:`labels_of`.
        count: Number of classes.
        what: Subject of the sentences.
    """
    if labels.ndim != 1:
        return [f"{what} must be integers [N], one class per example. Received: shape {labels.shape}"]
    broken = np.flatnonzero(~(labels == np.floor(labels)))  # NaN too
    whole = np.setdiff1d(np.arange(len(labels)), broken)
    outside = whole[(labels[whole] < 0) | (labels[whole] >= count)]
    problems = []
    if len(broken):
        problems.append(f"{what} must be integers. Received: {_places(labels, broken)}")
    if len(outside):
        problems.append(f"{what} must be in 0 to {count - 1}. Received: {_places(labels, outside)}")
    return problems


def names_of(class_names: Sequence[str] | int) -> tuple[str, ...]:
    """Return the class names; numbers if only their count is given."""
    if isinstance(class_names, (int, np.integer)):
        return tuple(str(number) for number in range(int(class_names)))
    return tuple(class_names)


def label_spec(dataset: tf.data.Dataset) -> tf.TensorSpec:
    """Return shape and type of the labels in a dataset.

    Raises:
        DataError: If its elements are not pairs of inputs and labels.
    """
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2 or not isinstance(spec[1], tf.TensorSpec):
        raise DataError(f"Expected a dataset of (inputs, labels) batches, received one of {spec}.")
    return spec[1]


def _labels_of_dataset(dataset: tf.data.Dataset) -> np.ndarray:
    label_spec(dataset)
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("The dataset repeats without end. Limit it to one pass, for example with dataset.take(steps).")
    found = [np.atleast_1d(labels) for labels in dataset.map(lambda *batch: batch[1]).as_numpy_iterator()]
    if not found:
        raise DataError("The dataset is empty.")
    return np.concatenate(found)


def _places(labels: np.ndarray, at: np.ndarray) -> str:
    shown = [f"{labels[i].item()!r} at position {i}" for i in at[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(at) - _SHOWN} more" if len(at) > _SHOWN else "")


def _without(counts: np.ndarray | None, names: tuple[str, ...]) -> list[str]:
    return [] if counts is None else [name for name, count in zip(names, counts, strict=True) if not count]
