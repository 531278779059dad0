"""Duplicate examples: :class:`Duplicate`, :class:`Duplicates`. Each modality has its own search."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Duplicate:
    """A pair of duplicates.

    Attributes:
        first: Position of one example.
        second: Position of the other, larger.
        kind: ``"file"`` (the same bytes), ``"pixels"`` (the same decoded content), ``"near"``, or ``"part"`` (one is a
            crop of the other, found by features).
        similarity: Correlation of the two, 1 for equal content.
        turned: ``"mirrored"``, ``"rotated by a half turn"`` and the like, if the orientations differ.
    """

    first: int
    second: int
    kind: Literal["file", "pixels", "near", "part"]
    similarity: float = 1.0
    turned: str = ""


@dataclasses.dataclass(frozen=True)
class Duplicates:
    """Duplicates in a dataset.

    Attributes:
        pairs: Pairs of an example and an earlier duplicate of it; each duplicate is in at least one pair.
        note: Reason why near duplicates, or rotated ones, were not searched for; empty if they were.
        ways: Orientations in which near duplicates were searched for.
    """

    pairs: tuple[Duplicate, ...] = ()
    note: str = ""
    ways: tuple[int, ...] = ()

    @property
    def positions(self) -> list[tuple[int, int]]:
        """Positions of the examples in each pair."""
        return [(pair.first, pair.second) for pair in self.pairs]
