"""Examples that occur more than once: :class:`Duplicate`, :class:`Duplicates`. Each modality finds its own."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """Two examples that are one.

    Attributes:
        first: position of one.
        second: position of the other, larger.
        kind: ``"file"`` (the same bytes), ``"pixels"`` (the same content, stored in another way), ``"near"``, or
            ``"part"`` (one is a part of the other, found by features).
        similarity: correlation of the two, 1 for the same content.
        turned: ``"mirrored"``, ``"rotated by a half turn"`` and the like, where the two are not the same way round.
    """

    first: int
    second: int
    kind: Literal["file", "pixels", "near", "part"]
    similarity: float = 1.0
    turned: str = ""


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """The duplicates in a data set.

    Attributes:
        pairs: each example with an earlier one that it is a copy of; of many copies each is named at least once.
        note: why near duplicates were not looked for, or not rotated ones; empty where they were.
        ways: the orientations in which near duplicates were looked for.
    """

    pairs: tuple[Duplicate, ...] = ()
    note: str = ""
    ways: tuple[int, ...] = ()

    @property
    def positions(self) -> list[tuple[int, int]]:
        """The two positions of each pair."""
        return [(pair.first, pair.second) for pair in self.pairs]
