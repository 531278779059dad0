"""Class names for tasks with named labels: their order, and unknown labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfft.errors import did_you_mean


def sorted_names(values: Sequence[Any]) -> tuple[str, ...]:
    """Return the classes among label values, numbers by size, others by code point.

    Args:
        values: Text, or lists of text if an example may have several labels.
    """
    names = {one for value in values for one in as_list(value)}
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))


def unknown_labels(values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
    """Return a sentence for each unknown label, with its place and the nearest name."""
    known = set(class_names)
    return [
        f"{place} has the label {one!r}, which no training example has.{did_you_mean(one, class_names)}"
        for place, value in zip(places, values, strict=True)
        for one in as_list(value)
        if one not in known
    ]


def as_list(value: Any) -> list[str]:
    """Return the labels of one example as a list."""
    return value if isinstance(value, list) else [value]
