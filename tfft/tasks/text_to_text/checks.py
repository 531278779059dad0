"""Checks of pairs of texts before training: :func:`check_pairs`, :func:`pair_findings`, :func:`report_on`."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tfft.data.duplicates import Duplicate
from tfft.data.examples import Skipped, Splits
from tfft.errors import DataError, join_names, quantity, raise_problems
from tfft.inspection.findings import Finding, Item, counted
from tfft.modalities.text.checks import spelling_findings
from tfft.tasks.text_to_text.formats import Pairs

if TYPE_CHECKING:
    from tfft.tasks.text_to_text.data import PairExamples

_SYSTEMATIC = 0.1  # of the pairs: faults in more of them have one cause
_SHOWN = 5
_COMMON, _SURE = 3, 4.0  # least count of a word, and log-odds of each side, for a swapped pair
_LONG, _LONGER = 200, 10  # words of a text, and times the median, from which it is much longer than the others
_UNEVEN, _SOME = 5, 10  # times the usual ratio of words, and words of the longer side, of sides that may not match
_SPREAD = 6  # times the median distance to the usual ratio
_FILLER = 0.1  # share of the pairs with one target, from which it may be a filler such as "TODO"


@dataclasses.dataclass(frozen=True, eq=False)
class Checked:
    """Usable pairs.

    Attributes:
        keep: Positions of the usable pairs.
        skipped: Pairs that cannot be used, with the reasons.
    """

    keep: np.ndarray
    skipped: tuple[Skipped, ...]


def check_pairs(pairs: Pairs, strict: bool = False) -> Checked:
    """Check pairs as they were read: empty sides, and columns that are equal.

    Args:
        pairs: Pairs.
        strict: Whether every pair that cannot be used is an error.

    Raises:
        DataError: With all lines at fault and the remedy, if a tenth of the pairs or more cannot be used, or if both
            sides are equal in most of them.
    """
    skipped: list[Skipped] = []
    keep, equal = [], list[int]()
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
        title = f"{quantity(len(skipped), 'pair')} of {pairs.name} cannot be used: remove or complete them"
        raise_problems(DataError, title, list(map(str, skipped)), limit=_SHOWN)
    if 2 * len(equal) > len(keep):
        raise DataError(
            f"Both sides are equal in {len(equal):,} of {len(keep):,} pairs of {pairs.name}, such as "
            f"{pairs.places[equal[0]]}. Name the target column with target=."
        )
    return Checked(np.array(keep), tuple(skipped))


def pair_findings(splits: Splits[PairExamples]) -> Iterator[Finding]:
    """Yield findings about pairs of both splits: rows that cannot be used, and pairs that teach the wrong thing.

    Args:
        splits: Pairs.
    """
    unusable = [Item(one.path, one.reason) for one in splits.skipped]
    remedy = "complete or remove them; training skips them"
    yield from counted(unusable, "unusable", "error", "pairs cannot be used", remedy)
    parts = list(splits.parts.values())
    places = [place for part in parts for place in part.places]
    sources = [text for part in parts for text in part.sources]
    targets = [text for part in parts for text in part.labels]

    def items(positions: Sequence[int]) -> list[Item]:
        return [Item(places[at]) for at in positions]

    equal = [at for at, text in enumerate(sources) if text.strip() == targets[at].strip()]
    words = "pairs have equal sides, which teaches the model to copy"
    yield from counted(items(equal), "equal-sides", "warning", words, "translate or remove them")
    words = "pairs look swapped, judging by their words"
    yield from counted(items(swapped(sources, targets)), "swapped", "warning", words, "exchange their sides")
    lengths = np.array([[len(text.split()) for text in side] for side in (sources, targets)])
    longest = lengths.max(axis=0)
    long = longest > np.maximum(_LONG, _LONGER * np.median(longest))
    much = [Item(places[at], f"has {longest[at]:,} words") for at in np.flatnonzero(long)]
    words = "pairs are much longer than the others"
    yield from counted(much, "longer", "warning", words, "split or remove them: models skip pairs beyond their length")
    others = np.flatnonzero(~long)
    yield from _uneven(lengths[:, others], [places[at] for at in others])
    yield from spelling_findings([(places[at], f"{sources[at]}\n{targets[at]}") for at in others])
    yield from _fillers(targets, places)
    yield from _repeats(splits)


def _uneven(lengths: np.ndarray, places: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding about sides whose ratio of words, int [2, N], is far from the usual one."""
    ratios = np.log(np.maximum(lengths[1], 1) / np.maximum(lengths[0], 1))
    distance = np.abs(ratios - np.median(ratios))
    usual = np.median(distance)  # large for summaries, whose sources are of any length
    far = (distance > max(np.log(_UNEVEN), _SPREAD * usual)) & (lengths.max(axis=0) >= _SOME)
    odd = [Item(places[at], f"has {lengths[0][at]} and {lengths[1][at]} words") for at in np.flatnonzero(far).tolist()]
    words = "pairs have sides of very different length"
    yield from counted(odd, "uneven", "warning", words, "check whether their sides belong together")


def _fillers(targets: Sequence[str], places: Sequence[str]) -> Iterator[Finding]:
    """Yield a finding about a target that stands in many pairs."""
    target, count = collections.Counter(targets).most_common(1)[0]
    if count >= max(_SHOWN, _FILLER * len(targets)):
        same = [Item(place) for place, text in zip(places, targets, strict=True) if text == target]
        words = f"pairs have the target {target[:40]!r}"
        yield from counted(same, "filler", "warning", words, "check whether it stands for a missing text")


def _repeats(splits: Splits[PairExamples]) -> Iterator[Finding]:
    """Yield findings about pairs that occur twice, in one split or in both."""
    held, train = splits.validation, splits.train
    leaks = [
        Item(held.places[pair.second - len(train)], "has the source of", train.places[pair.first])
        for pair in splits.duplicates
    ]
    words = "held-out sources are also training sources"
    yield from counted(leaks, "leak", "warning", words, "remove them; scores without them are also reported")
    seen: dict[tuple[str, str], int] = {}
    again = [
        Item(train.places[at], "equals", train.places[first])
        for at, pair in enumerate(zip(train.sources, train.labels, strict=True))
        if (first := seen.setdefault(pair, at)) != at
    ]
    words = "training pairs occur more than once"
    yield from counted(again, "copy", "note", words, "remove all but one, unless they should count more")


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
        duplicates: Held-out pairs whose source is also in the training pairs.
    """

    pairs: int
    held_out: int
    columns: tuple[str, str]
    words: tuple[tuple[int, int, int], tuple[int, int, int]]
    ratio: float
    duplicates: tuple[Duplicate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**dataclasses.asdict(self), "duplicates": len(self.duplicates)}

    def __str__(self) -> str:
        sides = [
            f"{name}: {median} words (median), {most} (99th percentile), {longest} (maximum)"
            for name, (median, most, longest) in zip(self.columns, self.words, strict=True)
        ]
        return f"pairs: {'; '.join(sides)}; {self.ratio:.2f} target words per source word"


def report_on(train: PairExamples, held: PairExamples, columns: tuple[str, str]) -> PairReport:
    """Compute the statistics of training and held-out pairs."""
    lengths = [
        np.array([len(text.split()) for part in parts for text in part])
        for parts in ((train.sources, held.sources), (train.labels, held.labels))
    ]
    words: Any = tuple((int(np.median(n)), int(np.quantile(n, 0.99)), int(n.max())) for n in lengths)
    ratio = float(np.median(lengths[1] / np.maximum(lengths[0], 1)))
    first: dict[str, int] = {}
    for at, text in enumerate(train.sources):
        first.setdefault(_plain(text), at)
    crossing = tuple(
        Duplicate(first[_plain(text)], len(train) + at, "file")
        for at, text in enumerate(held.sources)
        if _plain(text) in first
    )
    return PairReport(len(train), len(held), columns, words, ratio, crossing)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
