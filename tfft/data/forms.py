"""Conversion of examples in any form, for all functions that take examples.

Images become uint8 [N, H, W, C] (:func:`pixel_array`), labels the column of a table (:func:`label_column`) or what a
head learns from (:func:`labels_for`). Datasets go through :mod:`tfft.data.dataset_forms`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.label_parsing import has_value, values_of
from tfft.errors import DataError, did_you_mean, join_names, raise_problems
from tfft.layers.pixel_checks import pixel_problems

_SHARES = 1e-3  # by which the shares of a row may miss the sum 1
_SHAPES = "images must be [N, H, W] or [N, H, W, C] with C 1, 3 or 4 (transparent) and nothing empty"


def as_array(values: Any, what: str) -> np.ndarray:
    """Return a list, a column, a tensor or an array as an array.

    Args:
        values: Any of these.
        what: Noun for the message, such as ``"images"``.

    Raises:
        DataError: When its items have several sizes.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"Expected {what} of one size. Received: {type(values).__name__} of several sizes. Resize them to one "
            "size, or give a folder or a table of files, whose images may differ."
        ) from error


# --------------------------------------------------------------------------------------- images


def pixel_array(images: Any) -> np.ndarray:
    """Return images in memory as uint8 [N, H, W, C], C 1 or 3; uint8 images are not copied.

    Args:
        images: [N, H, W] or [N, H, W, C]: uint8, or numbers in 0 to 255 of any type, which are rounded; True and False
            are white and black. Transparent images (C 4, or 2 for grey) get a white background, as files do.

    Raises:
        DataError: For everything else, pixels in 0 to 1 too: a model is asked with the same pixels later.
    """
    pixels = as_array(images, "images")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    raise_problems(DataError, "The images cannot be used", image_problems(pixels))
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    if pixels.shape[-1] in (2, 4):
        pixels = np.asarray(_on_white(tf.convert_to_tensor(pixels)))
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def image_problems(images: np.ndarray) -> list[str]:
    """Return why :func:`pixel_array` would refuse images, sentences without a full stop."""
    shape = (*images.shape, 1) if images.ndim == 3 else images.shape
    return shape_problems(shape) or ([] if images.dtype == bool else pixel_problems(images))


def shape_problems(shape: Sequence[int | None]) -> list[str]:
    """Return what is wrong with the shape of images, sentences without a full stop."""
    if len(shape) == 4 and shape[-1] in (1, 2, 3, 4) and 0 not in shape:
        return []
    hint = "; channels come last: np.moveaxis(images, 1, -1)" if len(shape) == 4 and shape[1] in (1, 3, 4) else ""
    if len(shape) == 2:
        hint = "; waveforms need their sample_rate="
    return [f"{_SHAPES}, received shape {tuple(shape)}{hint}"]


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Lay white under transparent images."""
    floats = tf.cast(pixels, tf.float32)
    share = floats[..., -1:] / 255.0
    return tf.cast(tf.round(floats[..., :-1] * share + 255.0 * (1.0 - share)), tf.uint8)


def pixel_batch(images: tf.Tensor, channels: int | None = None) -> tf.Tensor:
    """Convert pixels like :func:`pixel_array` within a dataset, whose values were checked before.

    Args:
        images: A batch, channels known.
        channels: 3 makes three of a single one; None keeps it.
    """
    images = images[..., None] if images.shape.rank == 3 else images
    if images.dtype == tf.bool:
        images = tf.cast(images, tf.uint8) * tf.constant(255, tf.uint8)
    if images.shape[-1] in (2, 4):
        images = _on_white(images)
    if images.dtype != tf.uint8:
        images = tf.cast(tf.round(tf.cast(images, tf.float32)), tf.uint8)
    return tf.repeat(images, 3, axis=-1) if channels == 3 and images.shape[-1] == 1 else images


# ----------------------------------------------------------------------------------------- labels


def label_column(labels: Any, task: str = registry.AUTO) -> tuple[list[Any], tuple[str, ...] | None]:
    """Return labels as a table would hold them, for :func:`tfft.data.label_parsing.parse_labels`.

    Args:
        labels: Integers or names [N] or [N, 1]; one-hot or several labels of 0 and 1 [N, K]; numbers [N] or
            [N, K]; lists of names; a column or several of a DataFrame, whose names the classes then have.
        task: Requested task; ``"auto"`` infers it from the labels.

    Returns:
        One value or list for each example, and the names of all classes where the labels say them.

    Raises:
        DataError: When they have another form, or are shares of classes.
    """
    columns = tuple(str(name) for name in labels.columns) if hasattr(labels, "columns") else None
    if isinstance(labels, (list, tuple)) and any(isinstance(label, (list, tuple, set)) for label in labels):
        if any(isinstance(one, str) for label in labels for one in label):
            return [list(label) for label in labels], None
    rows = as_array(labels, "labels")
    rows = rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows
    if rows.ndim == 1 or rows.size == 0:
        return _single_column(labels, rows), None
    if rows.ndim != 2 or rows.dtype.kind not in "iubf":
        raise DataError(
            "Expected labels [N], one for each example, or [N, K], K numbers for each. Received: "
            f"labels {rows.shape} of {rows.dtype}."
        )
    names = columns or tuple(str(i) for i in range(rows.shape[1]))
    asked = registry.asked_task(task)
    whole = bool(np.isin(rows, (0, 1)).all())
    if asked is not None and asked.numeric_labels or (asked is None and not whole):
        if asked is None and _are_shares(rows):
            raise DataError(
                "Expected labels of one class each. Received: shares of classes that add up to 1 (soft labels). Give "
                "labels.argmax(-1), or task='regression' to learn the shares as numbers."
            )
        return rows.tolist(), None
    if whole and (rows.sum(axis=1) == 1).all() and (asked is None or asked.exclusive_classes):
        return [names[i] for i in rows.argmax(axis=1)], names
    if whole and (asked is None or not asked.exclusive_classes):
        return [[names[i] for i in np.flatnonzero(row)] for row in rows], names
    raise DataError(
        "Expected one-hot labels [N, K], a single 1 in each row. Received: rows with "
        f"{join_names(np.unique(rows.sum(axis=1))[:5])} in all. Several labels for an example: task='multilabel'."
    )


def _single_column(labels: Any, rows: np.ndarray) -> list[Any]:
    """Return one label for each example; raise if any is missing."""
    if isinstance(labels, (list, tuple)) and rows.dtype.kind in "US":
        rows = np.array([*labels, None], object)[:-1]  # NumPy would make the text "nan" of a missing value
    missing = [i for i, label in enumerate(rows.tolist()) if not has_value(label)]
    if missing:
        raise DataError(
            f"Expected a label for each example. Received: none at the positions {join_names(missing, limit=5)}. "
            "Leave those examples out."
        )
    return [label.decode() if isinstance(label, bytes) else label for label in rows.tolist()]


def _are_shares(rows: np.ndarray) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=_SHARES))


def labels_for(head: Any, labels: Any) -> np.ndarray:
    """Return labels in any form as the head of a model learns them.

    Args:
        head: A :class:`tfft.heads.Head`, or what has its ``task``, ``class_names`` and ``units``.
        labels: As :func:`label_column` takes them; names are those of the head's classes.

    Raises:
        DataError: For names that the head does not know, and rows that are not one-hot.
    """
    task = registry.task(head.task)
    rows = labels if isinstance(labels, np.ndarray) else as_array(labels, "labels")
    if rows.ndim == 2 and rows.shape[1] == 1 and (head.units == 1 or task.exclusive_classes):
        rows = rows[:, 0]
    if rows.ndim == 2 and task.exclusive_classes and rows.dtype.kind in "iubf":
        if not (np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all()):
            raise DataError(
                "Expected labels of one class each, integers [N] or one-hot [N, K]. Received: "
                f"labels {rows.shape}, not a single 1 in each row. Shares of classes: give labels.argmax(-1)."
            )
        return rows.argmax(axis=1).astype(np.int32)
    if rows.dtype.kind in "USO" and rows.ndim == 1 and task.exclusive_classes and head.class_names:
        return _numbers_of(rows, tuple(head.class_names))
    if rows.dtype.kind == "b" or (rows.dtype.kind == "f" and task.exclusive_classes and _is_whole(rows)):
        return rows.astype(np.int32)
    return rows


def plain_labels(labels: Any) -> np.ndarray:
    """Return labels of an unknown task as an array, [N] where they came as [N, 1]."""
    rows = as_array(labels, "labels")
    return rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows


def _is_whole(rows: np.ndarray) -> bool:
    return bool(np.isfinite(rows).all() and (rows == np.floor(rows)).all())


def _numbers_of(rows: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    values = values_of([row.decode() if isinstance(row, bytes) else row for row in rows.tolist()], None)
    unknown = [value for value in dict.fromkeys(values) if value not in names]
    if unknown:
        raise DataError(
            f"Expected labels of the model's classes: {join_names(names)}. Received: {join_names(unknown, limit=5)}."
            f"{did_you_mean(unknown[0], names)}"
        )
    return np.array([names.index(value) for value in values], np.int32)
