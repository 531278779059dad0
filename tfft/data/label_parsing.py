"""Parsing of labels from tables and texts into arrays for a task: :func:`parse_labels`.

The task defines the meaning, the checks and the encoding of labels, see :class:`tfft.registry.Task`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft import registry
from tfft.errors import DataError, raise_problems

_SHOWN = 10


@dataclasses.dataclass(frozen=True, eq=False)
class ParsedLabels:
    """Labels in the form of a task.

    Attributes:
        task: Name of the task.
        class_names: Class names in the order of the labels; empty for regression.
        parts: One array of labels per part of the data, in order.
    """

    task: str
    class_names: tuple[str, ...]
    parts: tuple[np.ndarray, ...]

    @property
    def labels(self) -> np.ndarray:
        """Labels of data in one part."""
        [labels] = self.parts
        return labels


def parse_labels(
    columns: Sequence[Sequence[Any]],
    places: Sequence[Sequence[str]],
    *,
    task: str = registry.AUTO,
    separator: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ParsedLabels:
    """Parse the labels of a dataset with one or two parts.

    Args:
        columns: Label of each example, by part; the first part is for training. A single part without ``class_names``
            is still to be split.
        places: Places of the examples, for messages, such as ``reviews.csv:12``; by part.
        task: Name of a task, or ``"auto"`` to infer it from the labels.
        separator: Separator between the labels of one example, if it may have several.
        class_names: Class names of an existing model; None takes those of the first part.

    Returns:
        The labels, their task and their classes.

    Raises:
        DataError: If labels cannot be used; the message lists them with their places.
        PlanError: For an unknown task.

    Example:
        >>> parsed = parse_labels([["cat", "dog", "cat", "dog"]], [["a:1", "a:2", "a:3", "a:4"]])
        >>> parsed.task, parsed.class_names, parsed.labels
        ('classification', ('cat', 'dog'), array([0, 1, 0, 1], dtype=int32))
    """
    values = [values_of(column, separator) for column in columns]
    chosen = registry.asked_task(task) or registry.infer_task([value for part in values for value in part])
    names = chosen.class_names(values[0]) if class_names is None else tuple(class_names)
    problems = [] if class_names is not None else chosen.learning_problems(values[0], names, split=len(values) == 1)
    if not problems:
        for part, own in zip(values, places, strict=True):
            problems += chosen.label_problems(part, names, own)
    raise_problems(DataError, "The labels cannot be used", list(dict.fromkeys(problems))[:_SHOWN])
    return ParsedLabels(chosen.name, names, tuple(chosen.encode(part, names) for part in values))


def has_value(value: Any) -> bool:
    """Whether a field has a value other than None, NaN or blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    return not (isinstance(value, str) and not value.strip()) and type(value).__name__ != "NAType"


def values_of(labels: Sequence[Any], separator: str | None) -> list[Any]:
    """Return labels as text, or as lists of text if there may be several."""

    def plain(label: Any) -> str:
        if isinstance(label, float) and label.is_integer():
            return str(int(label))
        return str(label.item() if hasattr(label, "item") else label).strip()

    found: list[Any] = []
    for label in labels:
        if isinstance(label, (list, tuple, set)) or (isinstance(label, np.ndarray) and label.ndim):
            found.append([plain(one) for one in label])
        elif separator is not None:
            found.append([one.strip() for one in str(label).split(separator) if one.strip()])
        else:
            found.append(plain(label))
    return found
