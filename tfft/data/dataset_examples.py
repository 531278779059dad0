"""Ready-made datasets of batches as examples: :class:`DatasetExamples`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.data.examples import Examples, Skipped, Splits
from tfft.errors import DataError
from tfft.layers.pixel_checks import check_pixels
from tfft.specs import AudioSpec, InputSpec

if TYPE_CHECKING:
    from tfft.features.engines import Staged
    from tfft.features.sources import Views


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetExamples(Examples):
    """A ``tf.data.Dataset`` of (inputs, labels) batches, used as it is.

    Attributes:
        dataset: Batches of inputs and integer labels.
        name: Name of the split, for messages: ``"training"`` or ``"validation"``.
        class_counts: Number of examples per class, int64 [classes].
        class_names: Class names in the order of the labels.
        skipped: Always empty.
    """

    dataset: tf.data.Dataset
    name: str
    class_counts: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()

    def __len__(self) -> int:
        return int(self.class_counts.sum())

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """Labels of all examples, sorted, since their order is unknown."""
        return np.repeat(np.arange(len(self.class_counts)), self.class_counts)

    @functools.cached_property
    def batch_size(self) -> int | None:  # type: ignore[override]
        """Size of the first batch."""
        return int(tf.shape(next(iter(self.dataset))[1])[0])

    @property
    def shorter_side(self) -> float | None:
        """Shorter side of the images, if all have one size."""
        inputs = self.dataset.element_spec[0]
        shape = inputs.shape if isinstance(inputs, tf.TensorSpec) and inputs.shape.rank == 4 else None
        return None if shape is None or None in tuple(shape[1:3]) else float(min(shape[1:3]))

    @property
    def title(self) -> str:
        """Description for messages."""
        return "datasets given in memory"

    def take(self, positions: np.ndarray) -> Self:
        """Raise an error: a dataset cannot be read by position."""
        raise DataError("The examples of a ready dataset cannot be selected by position.")

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Return the dataset, after checking its images if the backbone takes images."""
        if spec is not None:
            self._check_images()
        return self.dataset

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Return the dataset."""
        if staged.preprocess is not None:
            self._check_images()
        return self.dataset

    def fingerprint(self, *others: Self) -> str:
        """Return a hash of the class counts; hashing the content would take a pass over the dataset."""
        return f"{[part.class_counts.tolist() for part in (self, *others)]}"

    def _check_images(self) -> None:
        given = tf.nest.flatten(self.dataset.element_spec[0])
        shape = given[0].shape
        known = shape.rank is not None and (shape.rank == 0 or shape[-1] is not None)
        if len(given) == 1 and (given[0].dtype.is_floating or not known):
            [first] = tf.nest.flatten(next(iter(self.dataset))[0])
            shape = first.shape
            check_pixels(first, f"the {self.name} dataset")
        if len(given) != 1 or shape.rank != 4 or shape[-1] not in (1, 3):
            got = shape if len(given) == 1 else f"{len(given)} inputs"
            raise DataError(
                f"The {self.name} dataset must yield images [B, rows, columns, 1 or 3 channels]. Received: {got}."
            )


def ready_splits(train: Any, validation: Any, class_names: Sequence[str]) -> Splits[DatasetExamples]:
    """Return splits of two datasets of batches.

    Args:
        train: Training batches.
        validation: Validation batches.
        class_names: Class names in the order of the labels.

    Raises:
        DataError: If they are not finite datasets of (inputs, labels) batches, or a label has no class.
    """
    if not isinstance(validation, tf.data.Dataset):
        raise DataError(
            f"The second of (train, validation, class_names) must be a dataset. Received: {type(validation).__name__}."
        )
    names = tuple(str(name) for name in class_names)
    parts = [
        DatasetExamples(dataset, name, _count(dataset, name, len(names)), names)
        for dataset, name in ((train, "training"), (validation, "validation"))
    ]
    return Splits(parts[0], parts[1], "the two datasets given")


def _count(dataset: tf.data.Dataset, name: str, classes: int) -> np.ndarray:
    """Count the examples of each class, and check that all labels have a class."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        raise DataError(f"The {name} dataset must yield batches of (inputs, labels). Received: {spec}.")
    labels = spec[1]
    if not isinstance(labels, tf.TensorSpec) or labels.shape.rank not in (1, None) or not labels.dtype.is_integer:
        hint = " Is it batched? dataset.batch(32)" if getattr(labels, "shape", None) == () else ""
        raise DataError(f"The labels of the {name} dataset must be batches of integers [B]. Received: {labels}.{hint}")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"The {name} dataset repeats without end. Remove repeat(), or limit it with take().")

    def add(state: tuple[tf.Tensor, ...], batch: Any) -> tuple[tf.Tensor, ...]:
        numbers = tf.cast(batch[1], tf.int64)
        low, high = tf.reduce_min(numbers), tf.reduce_max(numbers)
        inside = tf.boolean_mask(numbers, (numbers >= 0) & (numbers < classes))
        counted = tf.math.bincount(tf.cast(inside, tf.int32), minlength=classes, maxlength=classes, dtype=tf.int64)
        counted = tf.ensure_shape(counted, [classes])
        return state[0] + counted, tf.minimum(state[1], low), tf.maximum(state[2], high)

    start = (np.zeros(classes, np.int64), np.int64(tf.int64.max), np.int64(tf.int64.min))
    counts, low, high = dataset.reduce(start, add)
    if int(high) < int(low):
        raise DataError(f"The {name} dataset is empty. Expected at least one batch.")
    if low < 0 or high >= classes:
        raise DataError(
            f"The labels of the {name} dataset must be 0 to {classes - 1}, one for each of {classes} class names. "
            f"Received: {int(low)} to {int(high)}."
        )
    return np.asarray(counts)
