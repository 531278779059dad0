"""Labelled examples of any modality, and their split: :class:`Examples`, :class:`Splits`.

Each modality defines its examples in a subclass.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.batches import BatchOptions
from tfft.data.duplicates import Duplicate, Duplicates
from tfft.data.labels import class_numbers
from tfft.data.split import TRAIN, VALIDATION, folds, joined
from tfft.errors import DataError
from tfft.io.name_files import composed
from tfft.specs import AudioSpec, InputSpec

if TYPE_CHECKING:
    from tfft.features.engines import Staged
    from tfft.features.sources import Views

Progress = Callable[[int, int], None]

_NO_DUPLICATES = Duplicates()


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Example that was skipped.

    Attributes:
        path: Path; bytes that are not UTF-8 are written as ``\\xNN``.
        reason: Reason, as the rest of a sentence that starts with the path.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class Examples(abc.ABC):
    """Labelled examples in a fixed order.

    A subclass defines an example: a file, an array, a text. See the subclasses in ``tfft.modalities``.

    Attributes:
        modality: Name of the modality, such as ``"image"``; empty if unknown.
        labels: Labels of the task along the first axis: int [N] for classes, float [N, K] of 0 and 1 for multi-label,
            float [N] for regression, or another form that a task defines.
        class_names: Class names in the order of the labels; empty if labels are not classes.
        skipped: Examples that were found and skipped.
    """

    modality: ClassVar[str] = ""
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, positions: np.ndarray) -> Self:
        """Return the examples at some positions, with the same classes."""

    @abc.abstractmethod
    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Return a dataset of (inputs, labels) batches, see :func:`tfft.data.to_dataset`."""

    def trainable_part(self, model: Any, held_out: Any, options: BatchOptions) -> Any:
        """Return the trainable part of a model with its batches, for examples whose features have a form of their own.

        The default returns None, and features are extracted in front of the first layer that trains. Another task, such
        as one with an encoder and a decoder, may compute something else once, and batch it itself.

        Args:
            model: Model with the trainable blocks of a phase.
            held_out: Held-out examples of the same class; None for none.
            options: Batch size and order of the training batches.

        Returns:
            A model that shares its variables with the given one, its training batches and its held-out batches (or
            None); or the reason, a sentence, why the whole model has to run in each epoch, empty for none.
        """
        return None

    def evaluation_batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Return batches for scores; by default as :meth:`batches`, where labels may have the size of the model."""
        return self.batches(spec, options)

    @abc.abstractmethod
    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Return the examples in a form that :func:`tfft.features.extract` reads.

        That is a :class:`tfft.features.sources.Source`, a dataset, or (inputs, labels).

        Args:
            staged: Frozen model that will run on them.
            batch_size: Examples per batch.
            views: Augmentation; None for the examples themselves.

        Raises:
            DataError: If they do not fit the model, or cannot be augmented.
        """

    @abc.abstractmethod
    def fingerprint(self, *others: Self) -> str:
        """Return a hash of examples, labels and order; ``others`` follow these."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each example, the same on every machine; empty if they have none."""
        return ()

    @property
    def places(self) -> tuple[str, ...]:
        """Origin of each example, for messages, such as ``reviews.csv:12``."""
        return self.names

    @property
    def head_facts(self) -> Any:
        """What :meth:`tfft.heads.Head.fitted_to` takes: the labels, unless they are read batch by batch."""
        return self.labels

    @property
    def captions(self) -> tuple[str, ...]:
        """What a person recognizes each example by: its path, or a text itself."""
        return self.places

    @property
    def inputs(self) -> Any:
        """Model inputs of all examples; None if they must be read first."""
        return None

    @property
    def lengths(self) -> np.ndarray | None:
        """Length of each example, int [N], to batch similar lengths together; None if all have one size."""
        return None

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples per class."""
        if not self.class_names:
            return {}
        if self.labels.ndim > 1:
            totals = self.labels.sum(axis=0).astype(int)
        else:
            totals = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, totals.tolist(), strict=True))

    def renumbered(self, numbers: np.ndarray, class_names: tuple[str, ...]) -> Self:
        """Return the same examples with the numbers that a model has for their classes.

        Args:
            numbers: New number of each class, int32.
            class_names: Class names of the model.
        """
        if self.labels.dtype.kind == "f":  # multi-label: one column per class
            labels = np.zeros((len(self), len(class_names)), self.labels.dtype)
            labels[:, numbers] = self.labels
        else:
            labels = np.where(self.labels < 0, self.labels, numbers[self.labels])
        return dataclasses.replace(self, labels=labels, class_names=class_names)  # type: ignore[type-var]

    def for_classes(self, class_names: Sequence[str], where: str) -> Self:
        """Return the examples with the numbers that a model has for classes of the same names.

        Args:
            class_names: Class names of the model; none if it has no classes.
            where: Name of the examples, for the message.

        Raises:
            DataError: For classes that the model does not have.
        """
        numbers = class_numbers(self.class_names, class_names, where)
        return self if numbers is None else self.renumbered(numbers, tuple(map(composed, class_names)))

    def join(self, other: Self) -> Self:
        """Return these examples followed by others of the same source."""
        raise DataError(f"{type(self).__name__} cannot be merged: load the source again.")

    def read(self, progress: Progress | None = None) -> None:  # noqa: B027  most have nothing to read
        """Read now what would otherwise be read on first use; ``progress`` is called with (done, all)."""

    @property
    def batch_size(self) -> int | None:
        """Examples per batch if that is fixed; None if it can be chosen."""
        return None

    @property
    def shorter_side(self) -> float | None:
        """Median shorter side of the images in pixels; None for other data, or if unknown."""
        return None

    @property
    def image_shape(self) -> tuple[float, float] | None:
        """Median height and width of the images in pixels; None for other data, or if unknown."""
        return None

    @property
    def export_files(self) -> tuple[str, ...]:
        """Some files for checking an export; empty if inputs are used for that."""
        return ()

    @property
    def title(self) -> str:
        """Description for examples without a path."""
        return f"{self.modality}s given in memory"


E = TypeVar("E", bound=Examples)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits(Generic[E]):
    """Training and validation examples, without overlap.

    Attributes:
        train: Training examples.
        validation: Held-out examples.
        split_from: Origin of the split, in words.
        task: Task of the labels, such as ``"classification"``.
        skipped: Examples that were found and skipped.
        groups: Group of each example, training examples first; each group is on one side. None without groups.
        duplicates: Duplicates; positions count the training examples first.
        duplicates_note: Reason why duplicates were not searched for, or only some.
        report: Report of the data check; ``print`` it.
        test_folder: Labelled folder ``test/`` beside ``train/``, on which a run measures the final model; or None.
        root: Folder that file names are relative to.
    """

    train: E
    validation: E
    split_from: str
    task: str = "classification"
    skipped: tuple[Skipped, ...] = ()
    groups: tuple[str, ...] | None = None
    duplicates: tuple[Duplicate, ...] = ()
    duplicates_note: str = ""
    report: Any = None
    test_folder: str | None = None
    root: str = ""

    @property
    def modality(self) -> str:
        """Name of the modality."""
        return self.train.modality

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names, the same for both parts."""
        return self.train.class_names

    @property
    def parts(self) -> dict[str, E]:
        """Both parts by name."""
        return {TRAIN: self.train, VALIDATION: self.validation}

    @property
    def items(self) -> dict[str, list[str]] | None:
        """Names of the examples by part, for :func:`tfft.data.write_split`; None without names."""
        if not self.train.names:
            return None
        return {name: list(part.names) for name, part in self.parts.items()}

    @property
    def leaked(self) -> np.ndarray:
        """Positions of validation examples with a duplicate among the training examples."""
        border = len(self.train)
        crossing = [pair.second - border for pair in self.duplicates if pair.first < border <= pair.second]
        return np.unique(crossing).astype(np.int64)

    def fingerprint(self) -> str:
        """Return a hash of the data; an interrupted run resumes only if it is the same."""
        return self.train.fingerprint(self.validation)

    def with_class_names(self, class_names: tuple[str, ...]) -> Splits[E]:
        """Return the same examples with other class names."""
        parts = {name: _renamed(part, class_names) for name, part in self.parts.items()}
        return dataclasses.replace(self, **parts)


def divide(
    examples: E,
    held_out: np.ndarray,
    split_from: str,
    *,
    groups: Sequence[str] | None = None,
    duplicates: Duplicates = _NO_DUPLICATES,
    **fields: Any,
) -> Splits[E]:
    """Split examples in two; groups and duplicates are reordered accordingly.

    Args:
        examples: All examples.
        held_out: bool [N], True for validation.
        split_from: Origin of the split, in words.
        groups: Groups of the examples, or None.
        duplicates: Duplicates among the examples.
        **fields: Further fields of :class:`Splits`.
    """
    train, validation = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    order = np.concatenate([train, validation])
    now = np.empty(len(order), int)
    now[order] = np.arange(len(order))
    moved = []
    for pair in duplicates.pairs:
        first, second = sorted((int(now[pair.first]), int(now[pair.second])))
        moved.append(dataclasses.replace(pair, first=first, second=second))
    return Splits(
        examples.take(train),
        examples.take(validation),
        split_from,
        groups=None if groups is None else tuple(groups[i] for i in order),
        duplicates=tuple(sorted(moved, key=lambda pair: (pair.first, pair.second))),
        duplicates_note=duplicates.note,
        **{"skipped": examples.skipped, **fields},
    )


def fold_splits(splits: Splits[E], count: int = 5, *, seed: int = 0) -> Iterator[Splits[E]]:
    """Redistribute the examples of a split into folds, so that each is held out once.

    Use it to evaluate on small data: :func:`tfft.cross_validate` trains one model per fold.

    Args:
        splits: Splits of a folder or a table of files, from :func:`tfft.data.load`; the two parts are merged.
        count: Number of folds.
        seed: Seed for the folds.

    Yields:
        ``count`` splits. Groups and duplicates stay in one fold.

    Raises:
        DataError: If a class has fewer examples than folds, or there are fewer groups; or the examples have no names.
    """
    examples = splits.train.join(splits.validation)
    duplicates = Duplicates(splits.duplicates, splits.duplicates_note)
    groups = joined(splits.groups, duplicates.positions, len(examples))
    strata = registry.task(splits.task).strata(examples.labels)
    names = examples.names or tuple(f"{i:09d}" for i in range(len(examples)))  # what is in memory has its place
    dealt = folds(names, count, seed, labels=strata, groups=groups)
    for fold in range(count):
        yield divide(
            examples,
            dealt == fold,
            f"fold {fold + 1} of {count}, drawn with seed {seed}",
            groups=splits.groups,
            duplicates=duplicates,
            task=splits.task,
            root=splits.root,
            skipped=splits.skipped,
        )


def _renamed(examples: Any, class_names: tuple[str, ...]) -> Any:
    return dataclasses.replace(examples, class_names=class_names)
