"""Statistics of labelled texts: :class:`TextReport`, :func:`report_on`."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft.errors import join_names

_EDGES = (0, 1, 4, 8, 16, 32, 64, 128, 256, 512)  # words
_BAR = 40
_SHOWN = 5


@dataclasses.dataclass(frozen=True)
class TextReport:
    """Statistics of labelled texts; ``print`` it.

    Attributes:
        examples: Number of texts.
        empty: Places of texts without a visible character.
        duplicates: Number of texts that occur before, ignoring case and surrounding spaces.
        contradicting: Places of equal texts with different labels.
        words: Histogram of the number of words: (least, most, number of texts); most is None for no limit.
        longest: Number of characters of the longest text.
        longest_place: Place of the longest text.
        other_scripts: Share of texts with characters beyond ASCII.
        similar_names: Classes whose names differ only by case or spaces.
    """

    examples: int
    empty: tuple[str, ...]
    duplicates: int
    contradicting: tuple[str, ...]
    words: tuple[tuple[int, int | None, int], ...]
    longest: int
    longest_place: str
    other_scripts: float
    similar_names: tuple[tuple[str, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [
            f"texts: {self.examples}, the longest has {self.longest:,} characters ({self.longest_place}); "
            f"{self.other_scripts:.0%} have characters beyond ASCII"
        ]
        most = max((count for *_, count in self.words), default=1)
        for low, high, count in self.words:
            words = (
                "no word"
                if high == 0
                else f"{low} words"
                if low == high
                else f"{low} to {high}"
                if high
                else f"{low} on"
            )
            lines.append(f"  {words:>12}  {'█' * max(1, round(_BAR * count / most))} {count}")
        if self.empty:
            lines.append(f"{len(self.empty)} texts are empty: {join_names(self.empty, limit=_SHOWN)}")
        if self.duplicates:
            lines.append(f"{self.duplicates} texts occur more than once; equal ones stay on one side of a split")
        if self.contradicting:
            where = join_names(self.contradicting, limit=_SHOWN)
            lines.append(f"{len(self.contradicting)} equal texts have different labels: {where}")
        for names in self.similar_names:
            lines.append(
                f"the classes {join_names(map(repr, names))} differ only by case or spaces: are they the same class?"
            )
        return "\n".join(lines)


def report_on(
    parts: Sequence[tuple[np.ndarray, np.ndarray, Sequence[str]]], class_names: Sequence[str] = ()
) -> TextReport:
    """Compute the statistics of texts.

    Args:
        parts: Texts, labels and places of each part.
        class_names: Class names of the labels.
    """
    texts = np.concatenate([part[0] for part in parts])
    labels = [label.tobytes() if isinstance(label, np.ndarray) else label for part in parts for label in part[1]]
    places = [place for part in parts for place in part[2]]
    seen: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        seen[text.strip().casefold()].append(i)
    several = [rows for rows in seen.values() if len(rows) > 1]
    contradicting = [i for rows in several if len({labels[i] for i in rows}) > 1 for i in rows]
    words = np.array([len(text.split()) for text in texts])
    counts = []
    for low, following in zip(_EDGES, [*_EDGES[1:], None], strict=True):
        count = int(((words >= low) & (words < (following or np.inf))).sum())
        if count:
            counts.append((low, None if following is None else following - 1, count))
    lengths = np.array([len(text) for text in texts])
    longest = int(lengths.argmax())
    alike: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        alike["".join(name.casefold().split())].append(name)
    return TextReport(
        examples=len(texts),
        empty=tuple(places[i] for i in np.flatnonzero([not text.strip() for text in texts])),
        duplicates=sum(len(rows) - 1 for rows in several),
        contradicting=tuple(places[i] for i in contradicting),
        words=tuple(counts),
        longest=int(lengths[longest]),
        longest_place=places[longest],
        other_scripts=float(np.mean([not text.isascii() for text in texts])),
        similar_names=tuple(tuple(names) for names in alike.values() if len(names) > 1),
    )
