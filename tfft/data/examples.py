"""Labelled files and their division into two parts, to learn from and to judge by: :class:`Examples`, :class:`Splits`.

Hides how positions of copies and groups follow when examples are divided.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from tfft import registry
from tfft.data.split import TRAIN, VALIDATION, folds, joined, key_of
from tfft.modalities.image.duplicates import Copies, Copy
from tfft.modalities.image.file_info import FileFacts


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A file that is not used.

    Attributes:
        path: where it is; bytes that are no text are written as ``\\xNN``.
        reason: why, as the rest of a sentence that starts with the path.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Image files with their classes.

    Attributes:
        paths: files, sorted by class and path.
        labels: int32 [N], index into ``class_names`` for each path; from tables also float32 [N, K], 0 or 1 for each of
            several classes, or float32 [N], numbers.
        class_names: the classes in the order of their folders' names, sorted by code point; empty for numbers.
        skipped: files that were found and are not used.
        facts: what reading each file told, in the order of ``paths``; empty where they were not read.
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    facts: tuple[FileFacts, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def counts(self) -> dict[str, int]:
        """Number of files of each class."""
        if self.labels.dtype.kind == "f":
            each = self.labels.sum(axis=0).astype(int).tolist() if self.labels.ndim > 1 else []
            return dict(zip(self.class_names, each, strict=True))
        totals = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, totals.tolist(), strict=True))

    def take(self, positions: np.ndarray) -> Examples:
        """Returns the examples at some positions, with the same classes."""
        paths = tuple(self.paths[i] for i in positions)
        facts = tuple(self.facts[i] for i in positions) if self.facts else ()
        return dataclasses.replace(self, paths=paths, labels=self.labels[positions], facts=facts)


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """Examples to learn from and examples to judge by; no file is in both.

    Attributes:
        train: to learn from.
        validation: held out.
        class_names: the same classes for both.
        skipped: files of either that are not used.
        split_from: in words, how the two came about.
        test_folder: a ``test/`` folder that was left alone, or None.
        root: folder that the names of files are told from.
        copies: pictures that are there twice; positions count the training examples first.
        copies_note: why copies were not looked for, or only some.
        names: of the training and of the held-out examples, where they are not the paths below ``root``.
        task: what the labels are: ``"classification"``, from tables also ``"multilabel"`` or ``"regression"``.
        groups: of the examples, those of training first; None where each stands alone.
    """

    modality: ClassVar[str] = "image"

    train: Examples
    validation: Examples
    class_names: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    split_from: str
    test_folder: str | None = None
    root: str = ""
    copies: tuple[Copy, ...] = ()
    copies_note: str = ""
    names: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    task: str = "classification"
    groups: tuple[str, ...] | None = None

    @property
    def items(self) -> dict[str, list[str]]:
        """The names of the examples by part, as :func:`tfft.data.write_split` takes them."""
        if self.names is not None:
            return {TRAIN: list(self.names[0]), VALIDATION: list(self.names[1])}
        parts = {TRAIN: self.train, VALIDATION: self.validation}
        return {part: [key_of(path, self.root) for path in examples.paths] for part, examples in parts.items()}

    @property
    def leaked(self) -> np.ndarray:
        """Positions of validation examples of which a copy is among the training examples."""
        border = len(self.train)
        return np.unique([c.second - border for c in self.copies if c.first < border <= c.second]).astype(np.int64)

    def parted(self, found: Splits, order: np.ndarray) -> Splits:
        """Returns other parts of the same examples, with all that is known of each.

        Args:
            found: the parts.
            order: positions of their examples among these, those of training first, int [N].
        """
        return found


def divided(
    examples: Examples,
    held: np.ndarray,
    groups: Sequence[str] | None,
    copies: Copies,
    words: str,
    root: str,
    **settings: Any,
) -> Splits:
    """Returns examples as two parts, with groups and copies counted as the parts are.

    Args:
        examples: all of them.
        held: bool [N], True for what is held out.
        groups: of the examples, or None.
        copies: among the examples.
        words: how the two came about.
        root: folder that the names of files are told from.
        **settings: further fields of :class:`Splits`.
    """
    parts = np.flatnonzero(~held), np.flatnonzero(held)
    order = np.concatenate(parts)
    now = np.empty(len(order), int)
    now[order] = np.arange(len(order))
    moved = []
    for copy in copies.pairs:
        first, second = sorted((int(now[copy.first]), int(now[copy.second])))
        moved.append(dataclasses.replace(copy, first=first, second=second))
    train, held_out = (examples.take(part) for part in parts)
    return Splits(
        train,
        held_out,
        examples.class_names,
        examples.skipped,
        words,
        root=root,
        copies=tuple(sorted(moved, key=lambda copy: (copy.first, copy.second))),
        copies_note=copies.note,
        groups=None if groups is None else tuple(groups[i] for i in order),
        **settings,
    )


def fold_splits(splits: Splits, count: int = 5, *, seed: int = 0) -> Iterator[Splits]:
    """Deals the examples of a split anew, so that each is held out once.

    Use it to measure on small data: :func:`tfft.cross_validate` trains one model for each.

    Args:
        splits: from :func:`load`, :func:`tfft.data.load_recordings` or a table of files; its own two
            parts are put together.
        count: of folds.
        seed: picks another deal.

    Yields:
        ``count`` splits. Groups and copies stay in one fold.

    Raises:
        DataError: when there are fewer examples of a class, or fewer groups, than folds.
    """
    parts = splits.train, splits.validation
    labels = np.concatenate([part.labels for part in parts])
    facts = tuple(fact for part in parts for fact in part.facts)
    paths = tuple(path for part in parts for path in part.paths)
    examples = Examples(paths, labels, splits.class_names, splits.skipped, facts)
    names = [name for part in splits.items.values() for name in part]
    copies = Copies(splits.copies, splits.copies_note)
    groups = joined(splits.groups, copies.positions, len(paths))
    strata = registry.task(splits.task).strata(labels)
    dealt = folds(names, count, seed, labels=strata, groups=groups)
    for fold in range(count):
        held = dealt == fold
        own = tuple(tuple(names[i] for i in np.flatnonzero(part)) for part in (~held, held))
        words = f"fold {fold + 1} of {count}, dealt with seed {seed}"
        found = divided(examples, held, splits.groups, copies, words, splits.root, names=own, task=splits.task)
        yield splits.parted(found, np.concatenate([np.flatnonzero(~held), np.flatnonzero(held)]))
