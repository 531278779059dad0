"""Findings about duplicates: within a class, across classes, and across the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfft.data.duplicates import Duplicate
from tfft.inspection.findings import Finding, Item, counted

_WORDS = {
    "file": "is the same file as",
    "pixels": "has the same pixels as",
    "near": "is{turned} {similarity:.0%} similar to",
    "part": "has{turned} a region in common ({similarity:.0%} similar, found by features) with",
}


def copy_findings(
    copies: Sequence[Duplicate], names: Sequence[str], labels: Sequence[str], parts: Sequence[str]
) -> Iterator[Finding]:
    """Yield findings about duplicates.

    Args:
        copies: Pairs of positions.
        names: Names of the examples, by position.
        labels: Class of each example.
        parts: Part of each example.
    """
    leaks: list[Item] = []
    conflicts: list[Item] = []
    within: list[Item] = []
    alike: list[Item] = []
    # Crops are found with features, which training does not search.
    but = ", except those with a region in common" if any(copy.kind == "part" for copy in copies) else ""
    for copy in copies:
        item = Item(names[copy.second], _words(copy), names[copy.first])
        if labels[copy.first] != labels[copy.second]:
            conflicts.append(item)
        if parts[copy.first] != parts[copy.second]:
            leaks.append(item)
        elif labels[copy.first] == labels[copy.second]:
            (alike if copy.kind in ("near", "part") else within).append(item)
    yield from counted(
        leaks, "leak", "warning", "duplicates are on both sides of the split: memorized examples inflate the score",
        f"remove them on one side; scores are given with and without them{but}",
    )  # fmt: skip
    words = "duplicates have different classes"
    yield from counted(conflicts, "conflict", "warning", words, "decide on one class and remove the other")
    words = "images occur more than once in a class"
    yield from counted(within, "copy", "warning", words, "remove all but one; they stay on one side of the split")
    yield from counted(
        alike, "near-copy", "note", "images look like duplicates of another one in their class",
        f"look at them; they stay on one side of a split that tfft makes{but}",
    )  # fmt: skip


def _words(copy: Duplicate) -> str:
    turned = f", {copy.turned}," if copy.turned else ""
    return _WORDS[copy.kind].format(turned=turned, similarity=copy.similarity)
