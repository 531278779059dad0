"""Labels of tables and texts, in the forms that people write them, as the arrays that a task learns from.

:func:`parse_labels` is the one place where a column becomes labels. What labels mean, which are wrong and how they are
encoded is decided by the task, see :class:`tfft.registry.Task`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft import registry
from tfft.errors import DataError, raise_problems

_SHOWN = 10


@dataclasses.dataclass(frozen=True, eq=False)
class ParsedLabels:
    """Labels as a task learns from them.

    Attributes:
        task: its name.
        class_names: in the order of the labels; empty for numbers.
        parts: one array of labels for each part of the data, in their order.
    """

    task: str
    class_names: tuple[str, ...]
    parts: tuple[np.ndarray, ...]

    @property
    def labels(self) -> np.ndarray:
        """The labels of data in one part."""
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
    """Parses the labels of a dataset that comes in one part or in two.

    Args:
        columns: the label of each example, by part; the first part is the one to learn from. A single part without
            ``class_names`` is still to be split.
        places: of the examples, for messages, such as ``reviews.csv:12``; by part.
        task: name of a task, or ``"auto"`` for the one that fits the labels.
        separator: between the labels of one example, where it may have several.
        class_names: of a model that knows its classes; None takes those of the first part.

    Returns:
        The labels, their task and their classes.

    Raises:
        DataError: listing the labels that cannot be used, with their places.
        PlanError: for an unknown task.

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
    """Says whether a field holds anything: no None, NaN or blank."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    return not (isinstance(value, str) and not value.strip()) and type(value).__name__ != "NAType"


_POINT = re.compile(r"[+-]?(0|[1-9]\d*)\.0+")  # "1.0"; "01" and "1e3" are names


def _is_list(label: Any) -> bool:
    return isinstance(label, (list, tuple, set)) or (isinstance(label, np.ndarray) and label.ndim > 0)


def _is_number(label: Any) -> bool:
    try:
        float(label)
    except (TypeError, ValueError):
        return False
    return True


def values_of(labels: Sequence[Any], separator: str | None) -> list[Any]:
    """Returns labels as text, or as lists of text where there may be several.

    One label has one spelling: where all of a column are numbers, 1, 1.0, ``"1"`` and ``"1.0"`` are the same, because
    pandas makes 1.0 of 1 as soon as one value of a column is missing.
    """
    items = [one for label in labels for one in (label if _is_list(label) else [label])]
    numbers = separator is None and all(map(_is_number, items))

    def plain(label: Any) -> str:
        value = label.item() if hasattr(label, "item") else label
        if isinstance(value, bytes):
            value = value.decode()
        text = str(value).strip()
        if isinstance(value, float) or (numbers and isinstance(value, str) and _POINT.fullmatch(text)):
            return str(int(float(text))) if math.isfinite(float(text)) and float(text).is_integer() else text
        return text

    found: list[Any] = []
    for label in labels:
        if _is_list(label):
            found.append([plain(one) for one in label])
        elif separator is not None:
            found.append([one.strip() for one in str(label).split(separator) if one.strip()])
        else:
            found.append(plain(label))
    return found
