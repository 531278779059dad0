"""Entities from the tags of words: :func:`entities`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"

_PREFIXED = re.compile(r"([BIESLU])(?:-(.*))?", re.DOTALL)
_SAME = {"L": "E", "U": "S"}  # BILOU's words for it


class Entity(NamedTuple):
    """Entity in a sentence.

    Attributes:
        type: Such as ``"PER"``.
        start: Position of its first word.
        stop: Position behind its last word.
    """

    type: str
    start: int
    stop: int


def entities(tags: Sequence[str], *, prefixed: bool | None = None) -> list[Entity]:
    """Find the entities in the tags of a sentence.

    Tags are read as the evaluation of CoNLL-2000 does, and with it seqeval in its default mode: ``B-`` begins an
    entity, and so does ``I-`` behind ``"O"`` or behind another type. ``E-`` and ``L-`` end one, ``S-`` and ``U-`` are
    one by themselves. An entity is right only with its type and both of its ends.

    Tags without such prefixes are types themselves: each run of equal tags other than ``"O"`` is an entity. Two that
    touch are then one; only prefixes can tell them apart.

    Args:
        tags: Tags of the words, in order; ``""`` is the same as ``"O"``.
        prefixed: Whether the tags have prefixes; None: if all of them but ``"O"`` have.

    Returns:
        The entities in order.

    Example:
        >>> entities(["B-PER", "I-PER", "O", "B-LOC"])
        [Entity(type='PER', start=0, stop=2), Entity(type='LOC', start=3, stop=4)]
    """
    if prefixed is None:
        prefixed = are_prefixed(tags)
    found, start = [], 0
    before, type_before = OUTSIDE, ""
    for at, tag in enumerate([*tags, OUTSIDE]):
        part, type_ = _read(tag, prefixed)
        apart = type_ != type_before or part in "BSO" or before in "ESO"
        if before != OUTSIDE and apart:
            found.append(Entity(type_before, start, at))
        if part != OUTSIDE and apart:
            start = at
        before, type_before = part, type_
    return found


def are_prefixed(tags: Iterable[str]) -> bool:
    """Whether tags mark entities with ``B-``, ``I-`` and the like: all but ``"O"`` do, and there are some."""
    inside = {tag for tag in tags if tag not in (OUTSIDE, "")}
    return bool(inside) and all(_PREFIXED.fullmatch(tag) for tag in inside)


def _read(tag: str, prefixed: bool) -> tuple[str, str]:
    if tag in (OUTSIDE, ""):
        return OUTSIDE, ""
    match = _PREFIXED.fullmatch(tag) if prefixed else None
    if match is None:
        return "I", tag
    return _SAME.get(match[1], match[1]), match[2] or ""
