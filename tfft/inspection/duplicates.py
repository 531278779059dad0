"""Findings about duplicates: within a class, across classes, and across the split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfft.data.duplicates import Duplicate
from tfft.inspection.findings import Finding, Item

_WORDS = {
    "file": "is the same file as",
    "pixels": "has the same pixels as",
    "near": "is{turned} {similarity:.0%} similar to",
    "part": "has{turned} a part in common ({similarity:.0%} similar, found by features) with",
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
    but = ", but for those with a part in common" if any(copy.kind == "part" for copy in copies) else ""
    for copy in copies:
        item = Item(names[copy.second], _words(copy), names[copy.first])
        if labels[copy.first] != labels[copy.second]:
            conflicts.append(item)
        if parts[copy.first] != parts[copy.second]:
            leaks.append(item)
        elif labels[copy.first] == labels[copy.second]:
            (alike if copy.kind in ("near", "part") else within).append(item)
    if leaks:
        message = f"{len(leaks)} duplicates are on both sides of the split: memorized answers inflate the score"
        remedy = f"remove them on one side; scores are given with and without them{but}"
        yield Finding("leak", "warning", message, remedy, tuple(leaks))
    if conflicts:
        message = f"{len(conflicts)} duplicates have different classes"
        yield Finding("conflict", "warning", message, "decide on one class and remove the other", tuple(conflicts))
    if within:
        message = f"{len(within)} images occur more than once in their class"
        yield Finding("copy", "warning", message, "remove all but one; they are kept on one side", tuple(within))
    if alike:
        message = f"{len(alike)} images look like duplicates of another one in their class"
        remedy = f"look at them; they are kept on one side of a split that tfft makes{but}"
        yield Finding("near-copy", "note", message, remedy, tuple(alike))


def _words(copy: Duplicate) -> str:
    turned = f", {copy.turned}," if copy.turned else ""
    return _WORDS[copy.kind].format(turned=turned, similarity=copy.similarity)
