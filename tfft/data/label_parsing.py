"""Parsing of labels from tables and texts into arrays for a task: :func:`parse_labels`.

The task defines the meaning, the checks and the encoding of labels, see :class:`tfft.registry.Task`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft import registry
from tfft.console.output import say
from tfft.errors import DataError, raise_problems
from tfft.io.name_files import composed

_SHOWN = 10
_MANY = 10  # integers that are labels: fewer are often classes, such as stars or digits
_AMOUNTS = "integers that are amounts, such as ages or prices, need task='regression'"
_COMMAS = re.compile(r"[-+]?\d+(,\d+)?")
_DECIMAL = re.compile(r"[-+]?\d+(\.\d{3})*(,\d+)?")


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
    decimal: str | None = None,
    class_names: Sequence[str] | None = None,
) -> ParsedLabels:
    """Parse the labels of a dataset with one or two parts.

    Args:
        columns: Label of each example, by part; the first part is for training. A single part without ``class_names``
            is still to be split.
        places: Places of the examples, for messages, such as ``reviews.csv:12``; by part.
        task: Name of a task, or ``"auto"`` to infer it from the labels.
        separator: Separator between the labels of one example, if it may have several.
        decimal: ``","`` for numbers such as 1,5. By default, commas are decimal marks if all labels are numbers then,
            with a message.
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
    if decimal == "," or (decimal is None and task in (registry.AUTO, "regression") and _has_decimal_commas(values)):
        values = [[_with_point(value) for value in column] for column in values]
        if decimal is None:
            say("tfft: labels such as '1,5' are parsed as numbers with a decimal comma (decimal='.' overrides it).")
    chosen = registry.asked_task(task) or registry.infer_task([value for part in values for value in part])
    names = chosen.class_names(values[0]) if class_names is None else tuple(map(composed, class_names))
    problems = [] if class_names is not None else chosen.learning_problems(values[0], names, split=len(values) == 1)
    if not problems:
        for part, own in zip(values, places, strict=True):
            problems += chosen.label_problems(part, names, own)
    amounts = task == registry.AUTO and chosen.exclusive_classes and _may_be_amounts(names)
    if amounts and problems:
        problems = [*problems[: _SHOWN - 1], _AMOUNTS]
    raise_problems(DataError, "The labels cannot be used", list(dict.fromkeys(problems))[:_SHOWN])
    if amounts and class_names is None:
        say(f"tfft: the labels are treated as {len(names)} classes; {_AMOUNTS}.")
    parts = tuple(chosen.encode(part, names) for part in values)
    return ParsedLabels(chosen.name, names if class_names is None else tuple(class_names), parts)


def _may_be_amounts(class_names: Sequence[str]) -> bool:
    """Whether classes are many integers, such as ages, and not the numbers of classes from 0 on."""
    try:
        found = sorted(int(name) for name in class_names)
    except ValueError:
        return False
    return len(found) > _MANY and found not in (list(range(len(found))), list(range(1, len(found) + 1)))


def _has_decimal_commas(columns: Sequence[Sequence[Any]]) -> bool:
    """Whether all labels are numbers if a comma is a decimal mark, and it cannot mark thousands."""
    values = [value for column in columns for value in column]
    if not all(isinstance(value, str) and _COMMAS.fullmatch(value) for value in values):
        return False
    behind = {len(value.partition(",")[2]) for value in values if "," in value}
    return bool(behind - {3})


def _with_point(value: Any) -> Any:
    return value.replace(".", "").replace(",", ".") if isinstance(value, str) and _DECIMAL.fullmatch(value) else value


def has_value(value: Any) -> bool:
    """Whether a field has a value other than None, NaN or blank."""
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
    """Return labels as text, or as lists of text where there may be several.

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
        return composed(text)

    found: list[Any] = []
    for label in labels:
        if _is_list(label):
            found.append([plain(one) for one in label])
        elif separator is not None:
            found.append([plain(one) for one in str(label).split(separator) if one.strip()])
        else:
            found.append(plain(label))
    return found
