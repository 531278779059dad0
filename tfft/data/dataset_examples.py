"""Datasets of batches as examples: :class:`DatasetExamples`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.batches import BatchOptions
from tfft.data.dataset_forms import regular, with_labels, with_pixels
from tfft.data.examples import Examples, Skipped, Splits
from tfft.data.forms import label_column, labels_for
from tfft.data.label_parsing import parse_labels, values_of
from tfft.data.labels import class_numbers
from tfft.errors import DataError, raise_problems
from tfft.specs import AudioSpec, InputSpec

if TYPE_CHECKING:
    from tfft.features.engines import Staged
    from tfft.features.sources import Views


@dataclasses.dataclass(frozen=True, eq=False)
class DatasetExamples(Examples):
    """A ``tf.data.Dataset`` of (inputs, labels) batches, used as it is.

    Attributes:
        dataset: Batches of inputs and integers.
        name: Name of the part, for messages: ``"training"`` or ``"validation"``.
        class_counts: Number of examples by class, int64 [classes]; empty where labels are not single classes.
        class_names: Names of the classes, in the order of the labels.
        skipped: Nothing.
        values: Labels of all examples where they are not single classes; else None.
    """

    dataset: tf.data.Dataset
    name: str
    class_counts: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    values: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.class_counts.sum()) if self.values is None else len(self.values)

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """Labels of all examples; sorted if they are classes, whose order is unknown."""
        if self.values is not None:
            return self.values
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
        raise DataError("The examples of a tf.data.Dataset cannot be selected by position.")

    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Return the dataset; for a backbone that takes images with pixels as it takes them."""
        return self.dataset if spec is None else self._pictures(as_channels(spec))

    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Return the dataset."""
        return self.dataset if staged.spec is None else self._pictures(staged.spec.channels)

    def _pictures(self, channels: int | None) -> tf.data.Dataset:
        return with_pixels(self.dataset, f"the {self.name} dataset", channels)

    def fingerprint(self, *others: Self) -> str:
        """Return the counts; anything else would take a pass over the dataset."""
        values = [None if part.values is None else part.values.tolist() for part in (self, *others)]
        return f"{[part.class_counts.tolist() for part in (self, *others)]}" + (
            "" if values[0] is None else f"{values}"
        )


def as_channels(spec: InputSpec | AudioSpec) -> int | None:
    """Return how many channels of pixels a backbone takes; None for a backbone that takes no images."""
    return spec.channels if isinstance(spec, InputSpec) else None


def is_ready(source: Any) -> bool:
    """Whether a source is (train, validation) or (train, validation, class_names) with two datasets."""
    pair = isinstance(source, (tuple, list)) and len(source) in (2, 3)
    return pair and isinstance(source[0], tf.data.Dataset)


def ready_splits(
    train: Any, validation: Any, class_names: Sequence[str] | None = None, task: str = registry.AUTO
) -> Splits[DatasetExamples]:
    """Make splits of two datasets.

    Args:
        train: Training dataset, (inputs, labels) or (inputs, labels, sample weights), batched or not. Sample weights
            count in the loss; scores count every example once.
        validation: Validation dataset of the same form.
        class_names: In the order of the labels; None takes those of a dataset that knows them, as those of
            ``keras.utils.image_dataset_from_directory`` do, or the labels themselves.
        task: What the labels are; ``"auto"`` looks at them.

    Raises:
        DataError: When they are not finite datasets of examples with labels, or a label has no class.
    """
    if not isinstance(validation, tf.data.Dataset):
        raise DataError(
            "Expected a dataset as the second of (train, validation, class_names). Received: "
            f"{type(validation).__name__}."
        )
    known = getattr(train, "class_names", None) if class_names is None else class_names
    titles = ("training", "validation")
    datasets = [regular(each, f"the {title} dataset") for each, title in zip((train, validation), titles, strict=True)]
    own_names = [getattr(each, "class_names", ()) if class_names is None else () for each in (train, validation)]
    labels, lengths = zip(*map(_labels_of, datasets, titles), strict=True)
    if known is not None and len(known) == 0:
        known = None
    if known is None and _have_gaps(labels, task):  # names of classes, as in arrays
        labels = tuple(part.astype(str).astype(object) for part in labels)
        places = [[f"{title} example {i + 1}" for i in range(len(p))] for title, p in zip(titles, labels, strict=True)]
        parse_labels([part.tolist() for part in labels], places, task=task)  # the same checks as in tables
        datasets = [each.map(_named, tf.data.AUTOTUNE) for each in datasets]
    asked, head = _meaning(labels, known, task)
    parts = []
    for dataset, title, own, length, of in zip(datasets, titles, labels, lengths, own_names, strict=True):
        values, name = labels_for(head, own), f"the {title} dataset"
        if own.dtype.kind in "iubf" and (numbers := class_numbers(of, head.class_names, name)) is not None:
            values = numbers[values]
        dataset = with_labels(dataset, head, name, of)
        if int(dataset.cardinality()) == tf.data.UNKNOWN_CARDINALITY:  # as after unbatch(); Keras warns of those
            dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
        if asked.exclusive_classes:
            _check_range(values, len(head.class_names), title)
            counts = np.bincount(values, minlength=len(head.class_names)).astype(np.int64)
            parts.append(DatasetExamples(dataset, title, counts, head.class_names))
        else:
            names = head.class_names
            parts.append(DatasetExamples(dataset, title, np.zeros(0, np.int64), names, values=values))
    return Splits(parts[0], parts[1], "the two datasets given", task=asked.name)


@dataclasses.dataclass(frozen=True)
class _Labels:
    """What labels are, as :func:`tfft.data.forms.labels_for` asks a head."""

    task: str
    class_names: tuple[str, ...]
    units: int


def _meaning(labels: Sequence[np.ndarray], known: Sequence[str] | None, task: str) -> tuple[registry.Task, _Labels]:
    """Return the task of labels and what they are."""
    asked = registry.asked_task(task)
    if asked is not None and asked.moves_with_pixels:
        return asked, _places_in_images(asked, labels, known)
    values, own = label_column(labels[0], task)
    if asked is None:
        numbers = known is not None and labels[0].dtype.kind in "iu"  # of classes, whatever they look like
        asked = registry.task("classification") if numbers and not _has_lists(values) else _inferred(values)
    if known is not None and asked.class_names(["a"]):
        names = tuple(str(name) for name in known)
    elif not asked.class_names(["a"]):
        names = ()
    elif own is not None:
        names = own
    elif labels[0].dtype.kind in "iubf":
        names = tuple(str(i) for i in range(1 + max(int(part.max(initial=0)) for part in labels)))
    else:
        names = asked.class_names(values_of(values, None))
    units = len(names) or (labels[0].shape[1] if labels[0].ndim == 2 else 1)
    return asked, _Labels(asked.name, names, units)


def _places_in_images(asked: registry.Task, labels: Sequence[np.ndarray], known: Sequence[str] | None) -> _Labels:
    """Check labels that are boxes or masks."""
    names = tuple(str(name) for name in known or ())
    if not names:
        raise DataError(
            f"Expected the names of the classes beside datasets for {asked.name}: (train, validation, class_names). "
            "Received: none."
        )
    problems = [
        f"the {title} dataset {problem}"
        for title, part in zip(("training", "validation"), labels, strict=True)
        for problem in asked.array_problems(part, names)
    ]
    raise_problems(DataError, "The labels cannot be used", problems)
    return _Labels(asked.name, names, len(names))


def _inferred(values: Sequence[Any]) -> registry.Task:
    return registry.infer_task(values_of(values, None))


def _has_lists(values: Sequence[Any]) -> bool:
    return any(isinstance(value, list) for value in values)


def _have_gaps(labels: Sequence[np.ndarray], task: str) -> bool:
    """Whether labels are integers that do not count classes from 0, such as 3, 7 and 100."""
    asked = registry.asked_task(task)
    if not (asked is None or asked.exclusive_classes) or any(p.ndim != 1 or p.dtype.kind not in "iu" for p in labels):
        return False
    found = np.unique(np.concatenate(labels))
    return bool(found[0] < 0 or found[-1] >= len(found))


def _named(inputs: Any, labels: tf.Tensor, *weights: Any) -> tuple[Any, ...]:
    return inputs, tf.strings.as_string(tf.reshape(labels, [-1])), *weights


def _labels_of(dataset: tf.data.Dataset, name: str) -> tuple[np.ndarray, int]:
    """Return the labels of a dataset and its number of batches."""
    found = list(dataset.map(lambda *batch: batch[1]).as_numpy_iterator())
    if not found or not sum(map(len, found)):
        raise DataError(f"The {name} dataset is empty. Expected at least one batch.")
    if len({batch.shape[1:] for batch in found}) > 1:
        raise DataError(
            f"Expected labels of one shape in all batches of the {name} dataset. Received: {found[0].shape[1:]} and "
            "others. Pad boxes with rows of class -1 to one number, and resize masks to one size."
        )
    labels = np.concatenate(found)
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels, len(found)


def _check_range(labels: np.ndarray, classes: int, name: str) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"The labels of the {name} dataset must be integers [B] or one-hot [B, K]. Received: {labels.dtype} "
            f"{labels.shape}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"The labels of the {name} dataset must be 0 to {classes - 1}, one for each of {classes} class names. "
            f"Received: {low} to {high}."
        )
