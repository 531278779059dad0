"""The forms that people hold examples in, and what they become: every function that takes examples asks here.

Pictures become uint8 [N, H, W, C], labels one row of a column (:func:`label_column`) or what a head learns from
(:func:`labels_for`), and arrays, tuples and datasets become batches (:func:`regular`, :func:`batches_for`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.label_parsing import values_of
from tfft.errors import DataError, did_you_mean, join_names, raise_problems
from tfft.layers.pixel_checks import pixel_problems

_SHARES = 1e-3  # by which the shares of a row may miss the sum 1
_KEYS = (("image", "audio", "text", "input", "inputs", "x"), ("label", "labels", "y", "target"))
_SHAPES = "images must be [N, H, W] or [N, H, W, C] with C 1, 3 or 4 (transparent) and nothing empty"


def as_array(values: Any, what: str) -> np.ndarray:
    """Returns a list, a column, a tensor or an array as an array.

    Args:
        values: any of these.
        what: noun for the message, such as ``"images"``.

    Raises:
        DataError: when its items have several sizes.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        raise DataError(
            f"Expected {what} of one size. Received: a {type(values).__name__} of several sizes. Bring them to one "
            "size, or give a folder or a table of files, whose images may differ."
        ) from error


# --------------------------------------------------------------------------------------- pictures


def pixel_array(images: Any) -> np.ndarray:
    """Returns pictures in memory as uint8 [N, H, W, C], C 1 or 3; uint8 pictures are not copied.

    Args:
        images: [N, H, W] or [N, H, W, C]: uint8, or numbers in 0 to 255 of any type, which are rounded; True and False
            are white and black. White is laid under transparent pictures (C 4, or 2 for grey), as under files.

    Raises:
        DataError: for everything else, pixels in 0 to 1 too: a model is asked with the same pixels later.
    """
    pixels = as_array(images, "images")
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    problems = _shape_problems(pixels.shape)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    raise_problems(DataError, "The images cannot be used", problems or pixel_problems(pixels))
    if pixels.shape[-1] in (2, 4):
        pixels = np.asarray(_on_white(tf.convert_to_tensor(pixels)))
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels).astype(np.uint8)


def _shape_problems(shape: Sequence[int | None]) -> list[str]:
    if len(shape) == 4 and shape[-1] in (1, 2, 3, 4) and 0 not in shape:
        return []
    hint = "; channels come last: np.moveaxis(images, 1, -1)" if len(shape) == 4 and shape[1] in (1, 3, 4) else ""
    return [f"{_SHAPES}, received shape {tuple(shape)}{hint}"]


def _on_white(pixels: tf.Tensor) -> tf.Tensor:
    """Lays white under transparent pictures."""
    floats = tf.cast(pixels, tf.float32)
    share = floats[..., -1:] / 255.0
    return tf.cast(tf.round(floats[..., :-1] * share + 255.0 * (1.0 - share)), tf.uint8)


def pixel_batch(images: tf.Tensor, channels: int | None = None) -> tf.Tensor:
    """Does what :func:`pixel_array` does within a dataset, where the values were looked at before.

    Args:
        images: a batch, channels known.
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
    """Returns labels as a table would hold them, for :func:`tfft.data.label_parsing.parse_labels`.

    Args:
        labels: whole numbers or names [N] or [N, 1]; one-hot or several labels of 0 and 1 [N, K]; numbers [N] or
            [N, K]; lists of names; a column or several of a DataFrame, whose names the classes then have.
        task: that was asked for; ``"auto"`` looks at the labels.

    Returns:
        One value or list for each example, and the names of all classes where the labels say them.

    Raises:
        DataError: when they have another form, or are shares of classes.
    """
    columns = tuple(str(name) for name in labels.columns) if hasattr(labels, "columns") else None
    if isinstance(labels, (list, tuple)) and any(isinstance(label, (list, tuple, set)) for label in labels):
        if any(isinstance(one, str) for label in labels for one in label):
            return [list(label) for label in labels], None
    rows = as_array(labels, "labels")
    rows = rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows
    if rows.ndim == 1 or rows.size == 0:
        return [label.decode() if isinstance(label, bytes) else label for label in rows.tolist()], None
    if rows.ndim != 2 or rows.dtype.kind not in "iubf":
        raise DataError(
            "Expected labels [N], one for each example, or [N, K], K numbers for each. Received: "
            f"labels {rows.shape} of {rows.dtype}."
        )
    names = columns or tuple(str(i) for i in range(rows.shape[1]))
    asked = registry.asked_task(task)
    whole = bool(np.isin(rows, (0, 1)).all())
    if asked is not None and asked.name == "regression" or (asked is None and not whole):
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


def _are_shares(rows: np.ndarray) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=_SHARES))


def labels_for(head: Any, labels: Any) -> np.ndarray:
    """Returns labels in any form as the head of a model learns them.

    Args:
        head: a :class:`tfft.heads.Head`, or what has its ``task``, ``class_names`` and ``units``.
        labels: as :func:`label_column` takes them; names are those of the head's classes.

    Raises:
        DataError: for names that the head does not know, and rows that are not one-hot.
    """
    task = registry.task(head.task)
    rows = labels if isinstance(labels, np.ndarray) else as_array(labels, "labels")
    if rows.ndim == 2 and rows.shape[1] == 1 and head.units == 1 | task.exclusive_classes:
        rows = rows[:, 0]
    if rows.ndim == 2 and task.exclusive_classes and rows.dtype.kind in "iubf":
        if not (np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all()):
            raise DataError(
                "Expected labels of one class each, whole numbers [N] or one-hot [N, K]. Received: "
                f"labels {rows.shape}, not a single 1 in each row. Shares of classes: give labels.argmax(-1)."
            )
        return rows.argmax(axis=1).astype(np.int32)
    if rows.dtype.kind in "USO" and rows.ndim == 1 and task.exclusive_classes and head.class_names:
        return _numbers_of(rows, tuple(head.class_names))
    if rows.dtype.kind == "b" or (rows.dtype.kind == "f" and task.exclusive_classes and _is_whole(rows)):
        return rows.astype(np.int32)
    return rows


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


# ---------------------------------------------------------------------------------------- datasets


def regular(dataset: tf.data.Dataset, name: str, *, rank: int | None = None, batch_size: int = 32) -> tf.data.Dataset:
    """Returns a dataset of (inputs, labels) or (inputs, labels, sample weights) batches.

    Args:
        dataset: of such batches or of single examples, also as dictionaries with ``image`` or ``text`` and ``label``.
        name: of the dataset, for messages.
        rank: of a batch of inputs; None guesses from inputs and labels.
        batch_size: of examples that come one by one.

    Raises:
        DataError: when it gives something else, or never ends.
    """
    if isinstance(dataset.element_spec, Mapping):
        dataset = _pairs(dataset, name)
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or not isinstance(spec[1], tf.TensorSpec):
        raise DataError(
            f"Expected a dataset of (inputs, labels) or (inputs, labels, sample weights). Received: {name} gives {spec}. "
            "Zip inputs and labels: tf.data.Dataset.zip((inputs, labels)); of tfds: as_supervised=True."
        )
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"Expected a dataset that ends: {name} never ends (it repeats). Give one pass over it, for example "
            "dataset.take(steps)."
        )
    if not _is_single(spec, rank):
        return dataset
    sizes = {tuple(one.shape) for one in tf.nest.flatten(spec[0])}
    if any(None in size for size in sizes):
        raise DataError(
            f"Expected examples of one size, or batches. Received: {name} gives single examples of {join_names(sizes)}. "
            "Resize them in a map(), then batch: dataset.batch(32)."
        )
    return dataset.batch(batch_size)


def _pairs(dataset: tf.data.Dataset, name: str) -> tf.data.Dataset:
    found = [next((key for key in keys if key in dataset.element_spec), None) for keys in _KEYS]
    if None in found:
        raise DataError(
            f"Expected a dataset of (inputs, labels). Received: {name} gives dictionaries with "
            f"{join_names(dataset.element_spec)}. Make pairs: dataset.map(lambda row: (row['image'], row['label']))."
        )
    inputs, labels = found
    return dataset.map(lambda row: (row[inputs], row[labels]))


def _is_single(spec: Any, rank: int | None) -> bool:
    """Whether elements are single examples, not batches."""
    first = tf.nest.flatten(spec[0])[0].shape
    if first.rank is None or spec[1].shape.rank is None:
        return False
    if rank is not None and first.rank in (rank, rank - 1) and not (rank == 4 and first.rank == 3):
        return first.rank == rank - 1
    if first.rank == 3 and spec[1].shape.rank == 1:  # a picture with a one-hot label, or grey pictures
        return first[-1] in (1, 3, 4) and spec[1].shape[0] is not None
    return spec[1].shape.rank == 0


def with_pixels(dataset: tf.data.Dataset, name: str, channels: int | None = None) -> tf.data.Dataset:
    """Returns a dataset of batches whose pictures are uint8; one that gives these already is returned as it is.

    Args:
        dataset: from :func:`regular`.
        name: of the dataset, for messages.
        channels: as in :func:`pixel_batch`.

    Raises:
        DataError: when the first batch holds no pictures, or no pixels in 0 to 255.
    """
    given = tf.nest.flatten(dataset.element_spec[0])
    first, shape = given[0], given[0].shape
    known = shape.rank == 4 and shape[-1] is not None
    if len(given) == 1 and known and first.dtype == tf.uint8 and shape[-1] in {1, 3, channels} - {channels and 4 - channels}:
        return dataset
    if len(given) != 1:
        raise DataError(f"Expected images [B, rows, columns, channels]. Received: {name} gives {len(given)} inputs.")
    batch = next(iter(dataset), None)
    if batch is None:
        raise DataError(f"Expected at least one batch. Received: {name} holds no examples.")
    example = np.asarray(batch[0])
    example = example[..., None] if example.ndim == 3 else example
    problems = _shape_problems(example.shape) or ([] if example.dtype == bool else pixel_problems(example))
    raise_problems(DataError, f"The images of {name} cannot be used", problems)
    last = example.shape[-1]

    def change(inputs: Any, *others: Any) -> Any:
        [images] = tf.nest.flatten(inputs)
        grey = images.shape.rank == 3 or (images.shape.rank is None and np.asarray(batch[0]).ndim == 3)
        images = tf.ensure_shape(images, [None, None, None] if grey else [None, None, None, last])
        return tf.nest.pack_sequence_as(inputs, [pixel_batch(images, channels)]), *others

    return dataset.map(change, tf.data.AUTOTUNE)


def with_labels(dataset: tf.data.Dataset, head: Any, name: str) -> tf.data.Dataset:
    """Returns a dataset of batches whose labels are as a head learns them; see :func:`labels_for`.

    Args:
        dataset: from :func:`regular`.
        head: as in :func:`labels_for`.
        name: of the dataset, for messages.

    Raises:
        DataError: when those of the first batch cannot be.
    """
    spec = dataset.element_spec[1]
    task = registry.task(head.task)
    if not task.exclusive_classes or (spec.shape.rank == 1 and spec.dtype.is_integer):
        return dataset
    batch = next(iter(dataset.map(lambda *batch: batch[1])), None)
    if batch is None or (batch.dtype != tf.string and batch.shape.rank == 1 and batch.dtype.is_integer):
        return dataset
    labels_for(head, np.asarray(batch))  # says what is wrong with them
    names = tf.constant(list(head.class_names or ()), tf.string)

    def change(inputs: Any, labels: Any, *weights: Any) -> Any:
        if labels.shape.rank == 2:
            one = tf.reshape(labels, [-1]) if labels.shape[1] == 1 else tf.argmax(labels, axis=-1, output_type=tf.int32)
            labels = one
        if labels.dtype == tf.string:
            same = labels[:, None] == names[None]
            labels = tf.where(tf.reduce_any(same, -1), tf.argmax(same, -1, output_type=tf.int32), -1)
        elif labels.dtype.is_floating:  # what is no whole number becomes the label of no class
            labels = tf.where(labels == tf.floor(labels), tf.cast(labels, tf.int32), -1)
        return inputs, labels, *weights

    return dataset.map(change, tf.data.AUTOTUNE)


def batches_for(model: Any, head: Any, data: Any, *, batch_size: int = 32) -> tf.data.Dataset:
    """Returns examples in any form as batches that a model takes, with labels as its head learns them.

    Args:
        model: a Keras model.
        head: of the model, or None where its labels are not known.
        data: a dataset as :func:`regular` takes it; ``(inputs, labels)`` or ``(inputs, labels, sample weights)`` in
            arrays, lists or columns; a part of what :func:`tfft.data.load` gives.
        batch_size: of what comes in no batches.

    Raises:
        DataError: when it is none of these, or does not fit the model.
    """
    if hasattr(data, "train") and hasattr(data, "validation"):
        raise DataError("Expected examples of one part. Received: Splits. Give splits.validation or splits.train.")
    inputs = getattr(model, "inputs", None) or []
    channels, rank = _pixels_of(model), len(inputs[0].shape) if len(inputs) == 1 else None
    if hasattr(data, "batches") and hasattr(data, "labels"):
        from tfft.data.batches import BatchOptions
        from tfft.layers.preprocess import preprocess_of

        layer = preprocess_of(model)
        data = data.batches(None if layer is None else layer.spec, BatchOptions(batch_size))
    elif not isinstance(data, tf.data.Dataset):
        data = _sliced(data, head, channels is not None).batch(batch_size)
    data = regular(data, "the dataset", rank=rank, batch_size=batch_size)
    data = data if channels is None else with_pixels(data, "the dataset", channels)
    return data if head is None else with_labels(data, head, "the dataset")


def _pixels_of(model: Any) -> int | None:
    """Returns how many channels of pixels a model takes; None for a model that takes no pixels."""
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none
    if len(inputs) != 1 or inputs[0].dtype != "uint8":
        return None
    return inputs[0].shape[-1] or 3


def _sliced(data: Any, head: Any, pixels: bool) -> tf.data.Dataset:
    """Returns arrays as a dataset of single examples."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise DataError(
            "Expected a tf.data.Dataset of batches, (inputs, labels), or a part of what tfft.data.load gives. Received: "
            f"{type(data).__name__}."
        )
    inputs, labels, *weights = data
    if pixels:
        given: Any = pixel_array(inputs)
    elif isinstance(inputs, Mapping):
        given = {name: as_array(value, "inputs") for name, value in inputs.items()}
    else:
        given = as_array(inputs, "inputs")
    parts = (given, as_array(labels, "labels") if head is None else labels_for(head, labels))
    parts = (*parts, *(as_array(one, "sample weights") for one in weights))
    counts = {len(one) if one.ndim else 1 for one in tf.nest.flatten(parts)}
    if len(counts) != 1:
        raise DataError(
            "Expected as many labels as inputs. Received: "
            f"{join_names(sorted(counts))} rows in {[one.shape for one in tf.nest.flatten(parts)]}."
        )
    if counts == {0}:
        raise DataError("Expected at least one example. Received: none.")
    return tf.data.Dataset.from_tensor_slices(parts)
