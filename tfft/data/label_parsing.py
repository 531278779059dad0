"""The labels of a table, in the forms that people write them: one name, several, or numbers.

Hides how a task is told from its labels, and which labels cannot be learned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfft.errors import did_you_mean, listed

_SHOWN = 10
_IDS = 100  # distinct labels from which a column of hardly repeated values is taken for an id


def has_value(value: Any) -> bool:
    """Tells whether a field holds anything: no None, NaN or blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    return not (isinstance(value, str) and not value.strip()) and type(value).__name__ != "NAType"


def values_of(labels: Sequence[Any], separator: str | None) -> list[Any]:
    """Returns labels as text, or as lists of text where there may be several."""

    def plain(label: Any) -> str:
        if isinstance(label, float) and label.is_integer():
            return str(int(label))
        return str(label.item() if hasattr(label, "item") else label).strip()

    found: list[Any] = []
    for label in labels:
        if isinstance(label, (list, tuple, set, np.ndarray)) and np.ndim(label):  # type: ignore[arg-type]
            found.append([plain(one) for one in label])
        elif separator is not None:
            found.append([one.strip() for one in str(label).split(separator) if one.strip()])
        else:
            found.append(plain(label))
    return found


def task_of(values: Sequence[Sequence[Any]], separator: str | None) -> str:
    """Returns what labels are: one class, several, or numbers with a fraction."""
    every = [value for part in values for value in part]
    if separator is not None or any(isinstance(value, list) for value in every):
        return "multilabel"
    try:
        numbers = [float(value) for value in every]
    except ValueError:
        return "classification"
    return "classification" if all(number.is_integer() for number in numbers) else "regression"


def names_among(values: Sequence[Any], task: str) -> tuple[str, ...]:
    """Returns the classes that occur, numbers by their size, others by code point."""
    single = [one for value in values for one in (value if isinstance(value, list) else [value])]
    names = set(single)
    try:
        return tuple(sorted(names, key=lambda name: (float(name), name)))
    except ValueError:
        return tuple(sorted(names))


def class_problems(
    values: Sequence[Sequence[Any]], names: tuple[str, ...], task: str, places: Sequence[Sequence[str]]
) -> list[str]:
    """Returns what stops labels from being learned, by part of the data; the part that is learned from is the first."""
    if task == "regression":
        return list(number_problems(values, places))
    count = len(values[0])
    if task == "classification" and any(isinstance(v, list) for part in values for v in part):
        return ["some examples have several labels: task='multilabel' takes them"]
    if task == "classification" and len(names) < 2:
        return [f"all {count} examples have the label {names[0]!r}: there is nothing to tell apart"]
    if task == "classification" and len(names) > _IDS and count / len(names) < 2:
        return [f"{len(names)} of {count} labels are different, such as {names[0]!r}: is that column an id or a text?"]
    problems = []
    if len(values) > 1:
        problems += unknown_labels(values[1], names, places[1])
    elif task == "classification":
        counts = dict.fromkeys(names, 0)
        for value in values[0]:
            counts[value] += 1
        single = [name for name in names if counts[name] < 2]
        if single:
            problems.append(
                "each class needs at least 2 examples, one to learn from and one to hold out; too few: "
                f"{listed(single)}"
            )
    return problems[:_SHOWN]


def unknown_labels(values: Sequence[Any], names: tuple[str, ...], places: Sequence[str]) -> list[str]:
    """Returns what is to be said of labels that no class has."""
    return [
        f"{place} has the label {one!r}, which no training example has.{did_you_mean(one, names)}"
        for place, value in zip(places, values, strict=True)
        for one in (value if isinstance(value, list) else [value])
        if one not in names
    ]


def number_problems(values: Sequence[Sequence[Any]], places: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yields what is to be said of labels that are no numbers."""
    for part, own in zip(places, values, strict=True):
        for place, value in zip(part, own, strict=True):
            try:
                fine = math.isfinite(float(value))
            except (TypeError, ValueError):
                fine = False
            if not fine:
                yield f"{place} has the label {value!r}, expected a number"


def numbers_of(values: Sequence[Any], names: tuple[str, ...], task: str) -> np.ndarray:
    """Returns labels as a model takes them: int32 [N], float32 [N, K] of 0 and 1, or float32 [N]."""
    if task == "regression":
        return np.array([float(value) for value in values], np.float32)
    position: Mapping[str, int] = {name: i for i, name in enumerate(names)}
    if task == "classification":
        return np.array([position[value] for value in values], np.int32)
    found = np.zeros((len(values), len(names)), np.float32)
    for row, value in enumerate(values):
        for one in value if isinstance(value, list) else [value]:
            found[row, position[one]] = 1.0
    return found
