"""Statistics of labelled texts: :class:`TextReport`, :func:`report_on`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

_EDGES = (0, 1, 4, 8, 16, 32, 64, 128, 256, 512)  # words
_BAR = 40


@dataclasses.dataclass(frozen=True)
class TextReport:
    """Statistics of labelled texts; ``print`` it.

    Attributes:
        examples: Number of texts.
        words: Histogram of the number of words: (least, most, number of texts); most is None for no limit.
        longest: Number of characters of the longest text.
        longest_place: Place of the longest text.
        other_scripts: Share of texts with characters beyond ASCII.
    """

    examples: int
    words: tuple[tuple[int, int | None, int], ...]
    longest: int
    longest_place: str
    other_scripts: float

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
        return "\n".join(lines)


def report_on(parts: Sequence[tuple[np.ndarray, Sequence[str]]]) -> TextReport:
    """Compute the statistics of texts.

    Args:
        parts: Texts and places of each part.
    """
    texts = np.concatenate([part[0] for part in parts])
    places = [place for part in parts for place in part[1]]
    words = np.array([len(text.split()) for text in texts])
    counts = []
    for low, following in zip(_EDGES, [*_EDGES[1:], None], strict=True):
        count = int(((words >= low) & (words < (following or np.inf))).sum())
        if count:
            counts.append((low, None if following is None else following - 1, count))
    lengths = np.array([len(text) for text in texts])
    longest = int(lengths.argmax())
    return TextReport(
        examples=len(texts),
        words=tuple(counts),
        longest=int(lengths[longest]),
        longest_place=places[longest],
        other_scripts=float(np.mean([not text.isascii() for text in texts])),
    )
