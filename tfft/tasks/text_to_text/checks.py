"""Checks of pairs of texts before training: :func:`check_pairs`, :func:`report_on`, :func:`swapped`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfft.data.duplicates import Duplicate
from tfft.data.examples import Skipped
from tfft.errors import DataError, in_number, join_names, raise_problems
from tfft.tasks.text_to_text.formats import Pairs

if TYPE_CHECKING:
    from tfft.tasks.text_to_text.data import PairExamples

_SYSTEMATIC = 0.1  # of the pairs: faults in more of them have one cause
_SHOWN = 5
_COMMON, _SURE = 3, 4.0  # least count of a word, and log-odds of each side, for a swapped pair


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """Usable pairs.

    Attributes:
        keep: Positions of the usable pairs.
        skipped: Pairs that cannot be used, with the reasons.
        notes: Remarks, one sentence each.
    """

    keep: np.ndarray
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def check_pairs(pairs: Pairs, strict: bool = False) -> Checked:
    """Check pairs as they were read: empty sides, equal sides, sides that look swapped.

    Args:
        pairs: Pairs.
        strict: Whether every pair that cannot be used is an error.

    Raises:
        DataError: With all lines at fault and the remedy, if a tenth of the pairs or more cannot be used, or if both
            sides are equal in most of them.
    """
    skipped: list[Skipped] = []
    keep, equal = [], []
    for at, (source, target) in enumerate(zip(pairs.sources, pairs.targets, strict=True)):
        empty = [name for name, text in zip(pairs.columns, (source, target), strict=True) if not text.strip()]
        if empty:
            skipped.append(Skipped(pairs.places[at], f"has an empty side ({join_names(empty)})"))
            continue
        if source.strip() == target.strip():
            equal.append(at)
        keep.append(at)
    if not keep:
        raise DataError(
            f"{pairs.name} has no pair with two texts. Expected one text to read and one to write in each row."
        )
    if skipped and (strict or len(skipped) > _SYSTEMATIC * len(pairs.sources)):
        title = f"{len(skipped)} pairs of {pairs.name} cannot be used: remove or complete them"
        raise_problems(DataError, title, list(map(str, skipped)), limit=_SHOWN)
    if 2 * len(equal) > len(keep):
        raise DataError(
            f"Both sides are equal in {len(equal):,} of {len(keep):,} pairs of {pairs.name}, such as "
            f"{pairs.places[equal[0]]}. Name the target column with target=."
        )
    notes = []
    if equal:
        where = join_names([pairs.places[at] for at in equal], limit=_SHOWN)
        notes.append(in_number(f"{len(equal)} pairs have equal sides, which teaches the model to copy: {where}"))
    if turned := swapped([pairs.sources[i] for i in keep], [pairs.targets[i] for i in keep]):
        where = join_names([pairs.places[keep[at]] for at in turned], limit=_SHOWN)
        notes.append(f"{len(turned)} pairs look swapped, judging by their words: {where}. Check these lines")
    return Checked(np.array(keep), tuple(skipped), tuple(notes))


def swapped(sources: Sequence[str], targets: Sequence[str]) -> list[int]:
    """Return the positions of pairs whose source has words of the targets, and whose target has words of the sources.

    Naive Bayes over the words of both sides, each pair without its own words. It cannot find columns that are swapped
    as a whole: nothing in the data says which language is which.

    Args:
        sources: Texts to read.
        targets: Texts to write.
    """
    words = [[text.casefold().split() for text in side] for side in (sources, targets)]
    counts = [collections.Counter(word for text in side for word in text) for side in words]

    def odds(text: Sequence[str], own: int) -> float:
        total = 0.0
        for word in set(text):
            here, there = counts[own][word] - 1, counts[1 - own][word]
            if here + there >= _COMMON:
                total += float(np.log((here + 0.5) / (there + 0.5)))
        return total

    return [
        at
        for at, (source, target) in enumerate(zip(*words, strict=True))
        if odds(source, 0) < -_SURE and odds(target, 1) < -_SURE
    ]


@dataclasses.dataclass(frozen=True, eq=False)
class PairReport:
    """Statistics of pairs of texts; ``print`` it.

    Attributes:
        pairs: Number of training pairs.
        held_out: Number of held-out pairs.
        columns: Names of both sides.
        words: Median, 99th percentile and maximum of the words of each side, of all pairs.
        ratio: Median words of a target per word of its source.
        repeated: Number of training pairs that occur before.
        duplicates: Held-out pairs whose source is also in the training pairs.
        notes: Remarks, one sentence each.
    """

    pairs: int
    held_out: int
    columns: tuple[str, str]
    words: tuple[tuple[int, int, int], tuple[int, int, int]]
    ratio: float
    repeated: int
    duplicates: tuple[Duplicate, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "duplicates": len(self.duplicates)}

    def __str__(self) -> str:
        sides = [
            f"{name}: {median} words (median), {most} (99th percentile), {longest} (maximum)"
            for name, (median, most, longest) in zip(self.columns, self.words, strict=True)
        ]
        lines = [f"pairs: {'; '.join(sides)}; {self.ratio:.2f} target words per source word"]
        if self.repeated:
            lines.append(f"{self.repeated:,} training pairs occur more than once")
        if self.duplicates:
            lines.append(
                f"{len(self.duplicates)} held-out sources are also training sources: scores without them are also "
                "reported"
            )
        return "\n".join((*lines, *self.notes))


def report_on(train: PairExamples, held: PairExamples, columns: tuple[str, str], notes: Sequence[str]) -> PairReport:
    """Compute the statistics of training and held-out pairs."""
    lengths = [
        np.array([len(text.split()) for part in parts for text in part])
        for parts in ((train.sources, held.sources), (train.labels, held.labels))
    ]
    words: Any = tuple((int(np.median(n)), int(np.quantile(n, 0.99)), int(n.max())) for n in lengths)
    ratio = float(np.median(lengths[1] / np.maximum(lengths[0], 1)))
    repeated = len(train) - len(set(zip(train.sources, train.labels, strict=True)))
    first: dict[str, int] = {}
    for at, text in enumerate(train.sources):
        first.setdefault(_plain(text), at)
    crossing = tuple(
        Duplicate(first[_plain(text)], len(train) + at, "file")
        for at, text in enumerate(held.sources)
        if _plain(text) in first
    )
    return PairReport(len(train), len(held), columns, words, ratio, repeated, crossing, tuple(notes))


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
