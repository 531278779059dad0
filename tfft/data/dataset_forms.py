"""Datasets, arrays and tuples of examples as batches that a model takes: :func:`regular`, :func:`batches_for`.

Hides which of them come in batches, which images are not uint8 and which labels are one-hot, names or columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.batches import BatchOptions
from tfft.data.forms import as_array, labels_for, pixel_array, pixel_batch, shape_problems
from tfft.data.keras_sequences import with_datasets
from tfft.data.labels import class_numbers
from tfft.errors import DataError, join_names, raise_problems
from tfft.layers.pixel_checks import pixel_problems
from tfft.layers.preprocess import preprocess_of

_KEYS = (("image", "audio", "text", "input", "inputs", "x"), ("label", "labels", "y", "target"))


def regular(dataset: tf.data.Dataset, name: str, *, rank: int | None = None, batch_size: int = 32) -> tf.data.Dataset:
    """Return a dataset of (inputs, labels) or (inputs, labels, sample weights) batches.

    Args:
        dataset: Dataset of such batches or single examples, also dictionaries with ``image`` or ``text`` and ``label``.
        name: Name of the dataset, for messages.
        rank: Rank of a batch of inputs; None guesses from inputs and labels.
        batch_size: Batch size for single examples.

    Raises:
        DataError: When it gives something else, or is infinite.
    """
    if isinstance(dataset.element_spec, Mapping):
        dataset = _pairs(dataset, name)
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) not in (2, 3) or not isinstance(spec[1], tf.TensorSpec):
        raise DataError(
            "Expected a dataset of (inputs, labels) or (inputs, labels, sample weights). Received: "
            f"{name} gives {spec}. Zip inputs and labels: tf.data.Dataset.zip((inputs, labels)); of tfds: "
            "as_supervised=True."
        )
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(
            f"Expected a finite dataset. Received: {name}, which repeats without end. Give one pass over it, such as "
            "dataset.take(steps)."
        )
    if not _is_single(spec, rank):
        return dataset
    sizes = {tuple(one.shape) for one in tf.nest.flatten(spec[0])}
    if any(None in size for size in sizes):
        raise DataError(
            f"Expected examples of one size, or batches. Received: {name} gives single examples of "
            f"{join_names(sizes)}. Resize them in a map(), then batch: dataset.batch(32)."
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
    if rank == 2 and first.rank == 3:  # batches with an axis of channels
        return False
    if first.rank == 3 and spec[1].shape.rank == 1:  # an image with a one-hot label, or grey images
        return first[-1] in (1, 3, 4) and spec[1].shape[0] is not None
    return spec[1].shape.rank == 0


def with_pixels(dataset: tf.data.Dataset, name: str, channels: int | None = None) -> tf.data.Dataset:
    """Return a dataset of batches whose images are uint8; one that gives these already is returned as it is.

    Args:
        dataset: Dataset from :func:`regular`.
        name: Name of the dataset, for messages.
        channels: As in :func:`pixel_batch`.

    Raises:
        DataError: When the first batch holds no images, or no pixels in 0 to 255.
    """
    given = tf.nest.flatten(dataset.element_spec[0])
    first, shape = given[0], given[0].shape
    known = shape.rank == 4 and first.dtype == tf.uint8
    if len(given) == 1 and known and shape[-1] in ((1, 3) if channels is None else (channels,)):
        return dataset
    if len(given) != 1:
        raise DataError(f"Expected images [B, rows, columns, channels]. Received: {name} gives {len(given)} inputs.")
    batch = next(iter(dataset), None)
    if batch is None:
        raise DataError(f"Expected at least one batch. Received: {name} holds no examples.")
    example = np.asarray(batch[0])
    example = example[..., None] if example.ndim == 3 else example
    problems = shape_problems(example.shape) or ([] if example.dtype == bool else pixel_problems(example))
    raise_problems(DataError, f"The images of {name} cannot be used", problems)
    last = example.shape[-1]

    def change(inputs: Any, *others: Any) -> Any:
        [images] = tf.nest.flatten(inputs)
        grey = images.shape.rank == 3 or (images.shape.rank is None and np.asarray(batch[0]).ndim == 3)
        images = tf.ensure_shape(images, [None, None, None] if grey else [None, None, None, last])
        return tf.nest.pack_sequence_as(inputs, [pixel_batch(images, channels)]), *others

    return dataset.map(change, tf.data.AUTOTUNE)


def with_labels(dataset: tf.data.Dataset, head: Any, name: str, class_names: Sequence[str] = ()) -> tf.data.Dataset:
    """Return a dataset of batches whose labels are as a head learns them; see :func:`labels_for`.

    Args:
        dataset: Dataset from :func:`regular`.
        head: As in :func:`labels_for`.
        name: Name of the dataset, for messages.
        class_names: Class names of the dataset, as ``keras.utils.image_dataset_from_directory`` gives them.

    Raises:
        DataError: When those of the first batch cannot be converted, or for classes that the head does not have.
    """
    spec = dataset.element_spec[1]
    task = registry.task(head.task)
    if not task.exclusive_classes:
        return dataset
    if spec.dtype != tf.string and (numbers := class_numbers(class_names, head.class_names or (), name)) is not None:
        return with_labels(dataset, head, name).map(
            lambda inputs, labels, *weights: (inputs, tf.gather(numbers, labels), *weights), tf.data.AUTOTUNE
        )
    if spec.shape.rank == 1 and spec.dtype.is_integer:
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
        elif labels.dtype.is_floating:  # a fraction becomes the label of no class
            labels = tf.where(labels == tf.floor(labels), tf.cast(labels, tf.int32), -1)
        return inputs, labels, *weights

    return dataset.map(change, tf.data.AUTOTUNE)


def batches_for(model: Any, head: Any, data: Any, *, batch_size: int = 32, measured: bool = False) -> tf.data.Dataset:
    """Return examples in any form as batches that a model takes, with labels as its head learns them.

    Args:
        model: A Keras model.
        head: Head of the model; None if its labels are unknown.
        data: A dataset as :func:`regular` takes it; ``(inputs, labels)`` or ``(inputs, labels, sample weights)`` in
            arrays, lists or columns; a part of the result of :func:`tfft.data.load`.
        batch_size: Batch size for examples without batches.
        measured: Whether scores are computed, for which labels may have another size.

    Raises:
        DataError: When it is none of these, or does not fit the model.
    """
    if hasattr(data, "train") and hasattr(data, "validation"):
        raise DataError("Expected examples of one part. Received: Splits. Give splits.validation or splits.train.")
    data = with_datasets(data)
    inputs = getattr(model, "inputs", None) or []
    channels, rank = _pixels_of(model), len(inputs[0].shape) if len(inputs) == 1 else None
    if hasattr(data, "batches") and hasattr(data, "labels"):
        layer, reader = preprocess_of(model), getattr(head, "reader", None)
        data = data if reader is None else reader.fitted(data, model)
        data = data.for_classes(getattr(head, "class_names", None) or (), "The data")
        batches = getattr(data, "evaluation_batches", data.batches) if measured else data.batches
        data = batches(None if layer is None else layer.spec, BatchOptions(batch_size))
    elif not isinstance(data, tf.data.Dataset):
        data = tf.data.Dataset.from_tensor_slices(arrays_for(model, head, data)).batch(batch_size)
    spec, own = data.element_spec, getattr(data, "class_names", ())
    if head is None and isinstance(spec, tuple) and len(spec) > 1 and not isinstance(spec[1], tf.TensorSpec):
        return data  # several outputs, which only the loss of its owner knows
    data = regular(data, "the dataset", rank=rank, batch_size=batch_size)
    data = data if channels is None else with_pixels(data, "the dataset", channels)
    data = _without_channels(data) if rank == 2 else data
    return data if head is None else with_labels(data, head, "the dataset", own)


def _without_channels(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return batches [B, samples], for those of waveforms with channels [B, samples, channels]: their mean."""
    spec = dataset.element_spec[0]
    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank != 3 or not spec.dtype.is_floating:
        return dataset
    return dataset.map(lambda waves, *labels: (tf.reduce_mean(waves, axis=-1), *labels), tf.data.AUTOTUNE)


def _pixels_of(model: Any) -> int | None:
    """Return how many channels of pixels a model takes; None for a model that takes no pixels."""
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none
    if len(inputs) != 1 or inputs[0].dtype != "uint8":
        return None
    return inputs[0].shape[-1] or 3


def arrays_for(model: Any, head: Any, data: Any) -> tuple[Any, ...]:
    """Return ``(inputs, labels)`` or ``(inputs, labels, sample weights)`` as arrays that a model takes.

    Args:
        model: As in :func:`batches_for`.
        head: As in :func:`batches_for`.
        data: Arrays, lists or columns; inputs may be a dictionary of them.

    Raises:
        DataError: When it is something else, or the parts are not of one length.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise DataError(
            "Expected a tf.data.Dataset of batches, (inputs, labels), or a part of what tfft.data.load gives. "
            f"Received: {type(data).__name__}."
        )
    inputs, labels, *weights = data
    given = _arrays(inputs, "inputs") if _pixels_of(model) is None else pixel_array(inputs)
    rows = labels_for(head, labels) if head is not None else _arrays(labels, "labels")
    parts = (given, rows, *(_arrays(one, "sample weights") for one in weights))
    arrays = tf.nest.flatten(parts)
    counts = sorted({len(one) if one.ndim else 1 for one in arrays})
    if len(counts) != 1:
        raise DataError(
            f"Expected one label for each input. Received: arrays of {join_names(counts)} rows, "
            f"{join_names(one.shape for one in arrays)}."
        )
    if counts == [0]:
        raise DataError("Expected at least one example. Received: none.")
    return parts


def _arrays(values: Any, what: str) -> Any:
    if isinstance(values, Mapping):
        return {name: as_array(value, what) for name, value in values.items()}
    return as_array(values, what)
