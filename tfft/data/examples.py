"""Labelled examples of any kind, and their division for training: :class:`Examples`, :class:`Splits`.

What an example is, each modality says in a subclass of its own. Everything else asks the objects.
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
from tfft.data.split import TRAIN, VALIDATION, folds, joined
from tfft.errors import DataError
from tfft.specs import AudioSpec, InputSpec

if TYPE_CHECKING:
    from tfft.features.engines import Staged
    from tfft.features.sources import Views

Progress = Callable[[int, int], None]

_NO_DUPLICATES = Duplicates()


@dataclasses.dataclass(frozen=True)
class Skipped:
    """An example that is not used.

    Attributes:
        path: where it is; bytes that are no text are written as ``\\xNN``.
        reason: why, as the rest of a sentence that starts with the path.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


class Examples(abc.ABC):
    """Labelled examples in a fixed order.

    A subclass says what one example is: a file, an array, a text. See the ones in ``tfft.modalities``.

    Attributes:
        modality: name of the kind of data, such as ``"image"``; empty where it is not known.
        labels: as the task has them, along the first axis: int [N] for classes, float [N, K] of 0 and 1 for several
            labels, float [N] for numbers, and whatever else a task learns from.
        class_names: in the order of the labels; empty where labels are no classes.
        skipped: what was found and is not used.
    """

    modality: ClassVar[str] = ""
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, positions: np.ndarray) -> Self:
        """Returns the examples at some positions, with the same classes."""

    @abc.abstractmethod
    def batches(self, spec: InputSpec | AudioSpec | None, options: BatchOptions) -> tf.data.Dataset:
        """Makes a dataset of (inputs, labels) batches, see :func:`tfft.data.to_dataset`."""

    @abc.abstractmethod
    def feature_source(self, staged: Staged, batch_size: int, views: Views | None = None) -> Any:
        """Returns the examples as :func:`tfft.features.extract` reads them.

        That is a :class:`tfft.features.sources.Source`, or what one is made of: a dataset, or (inputs, labels).

        Args:
            staged: the frozen model that will run on them.
            batch_size: examples at a time.
            views: how they are varied; None for the examples as they are.

        Raises:
            DataError: when they do not fit the model, or cannot be varied.
        """

    @abc.abstractmethod
    def fingerprint(self, *others: Self) -> str:
        """Returns another value for other examples, labels or order; ``others`` follow these."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each example that is the same on every machine; empty where there are none."""
        return ()

    @property
    def places(self) -> tuple[str, ...]:
        """Where each example was found, for messages, such as ``reviews.csv:12``."""
        return self.names

    @property
    def inputs(self) -> Any:
        """What a model takes, of all examples; None where that is not in memory and has to be read."""
        return None

    @property
    def lengths(self) -> np.ndarray | None:
        """Length of each example, int [N], so that similar ones share a batch; None where all have one size."""
        return None

    @property
    def counts(self) -> dict[str, int]:
        """Number of examples of each class."""
        if not self.class_names:
            return {}
        if self.labels.ndim > 1:
            totals = self.labels.sum(axis=0).astype(int)
        else:
            totals = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, totals.tolist(), strict=True))

    def join(self, other: Self) -> Self:
        """Returns these examples followed by others of the same source."""
        raise DataError(f"{type(self).__name__} cannot be put together again: read the source once more.")

    def read(self, progress: Progress | None = None) -> None:  # noqa: B027  most have nothing to read
        """Reads now what would be read when it is first needed; ``progress`` is called with (done, all)."""

    @property
    def batch_size(self) -> int | None:
        """Examples per batch where that cannot be chosen any more; None where it can."""
        return None

    @property
    def shorter_side(self) -> float | None:
        """Median of the shorter sides of images, in pixels; None for other data, and where it is not known."""
        return None

    @property
    def export_files(self) -> tuple[str, ...]:
        """Some files that an export can be checked with; empty where inputs have to do."""
        return ()

    @property
    def title(self) -> str:
        """What these are, where they have no place to be named by."""
        return f"{self.modality}s given in memory"


E = TypeVar("E", bound=Examples)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits(Generic[E]):
    """Examples to learn from and examples to judge by; none is in both.

    Attributes:
        train: to learn from.
        validation: held out.
        split_from: in words, how the two came about.
        task: what the labels are, such as ``"classification"``.
        skipped: what was found for either and is not used.
        groups: of the examples, those of training first: one group is on one side. None where each stands alone.
        duplicates: examples that occur more than once; positions count the training examples first.
        duplicates_note: why duplicates were not looked for, or only some.
        report: what is worth knowing of the data; ``print`` it.
        test_folder: a ``test/`` folder that was left alone, or None.
        root: folder that the names of files are relative to.
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
        """Name of the kind of data."""
        return self.train.modality

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, the same for both parts."""
        return self.train.class_names

    @property
    def parts(self) -> dict[str, E]:
        """Both parts by name."""
        return {TRAIN: self.train, VALIDATION: self.validation}

    @property
    def items(self) -> dict[str, list[str]] | None:
        """The names of the examples by part, as :func:`tfft.data.write_split` takes them; None without names."""
        if not self.train.names:
            return None
        return {name: list(part.names) for name, part in self.parts.items()}

    @property
    def leaked(self) -> np.ndarray:
        """Positions of validation examples of which a duplicate is among the training examples."""
        border = len(self.train)
        crossing = [pair.second - border for pair in self.duplicates if pair.first < border <= pair.second]
        return np.unique(crossing).astype(np.int64)

    def fingerprint(self) -> str:
        """Returns another value for other data; a run that was stopped goes on with the same only."""
        return self.train.fingerprint(self.validation)

    def with_class_names(self, class_names: tuple[str, ...]) -> Splits[E]:
        """Returns the same examples with other names for the classes."""
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
    """Divides examples in two, with groups and duplicates counted as the parts are.

    Args:
        examples: all of them.
        held_out: bool [N], True for validation.
        split_from: in words, how that came about.
        groups: of the examples, or None.
        duplicates: among the examples.
        **fields: further fields of :class:`Splits`.
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
    """Deals the examples of a split anew, so that each is held out once.

    Use it to measure on small data: :func:`tfft.cross_validate` trains one model for each.

    Args:
        splits: of a folder or a table of files, from :func:`tfft.data.load`; its own two parts are put together.
        count: of folds.
        seed: picks another deal.

    Yields:
        ``count`` splits. Groups and duplicates stay in one fold.

    Raises:
        DataError: when there are fewer examples of a class, or fewer groups, than folds; or the examples have no names.
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
            f"fold {fold + 1} of {count}, dealt with seed {seed}",
            groups=splits.groups,
            duplicates=duplicates,
            task=splits.task,
            root=splits.root,
            skipped=splits.skipped,
        )


def _renamed(examples: Any, class_names: tuple[str, ...]) -> Any:
    return dataclasses.replace(examples, class_names=class_names)
