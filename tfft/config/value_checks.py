"""Checks of single values of settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tfft import registry
from tfft.errors import PlanError
from tfft.settings import AUTO, COLUMN, Check, number, pair, satisfies, whole
from tfft.specs import Augmentation, augmentation

BLOCKS = satisfies(
    "'auto', a count, a share, a name or a list of names",
    lambda value: (
        (isinstance(value, (int, float, str)) and not isinstance(value, bool))
        or (isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value))
    ),
)
RATE = number(above=0)
RATES = pair("a pair (frozen, fine-tune)", RATE)
COLUMNS = satisfies(
    "two of them for pairs",
    lambda value: isinstance(value, (tuple, list)) and len(value) in (1, 2) and all(map(COLUMN.accepts, value)),
)
IGNORED = satisfies(
    "several of them",
    lambda value: isinstance(value, (tuple, list)) and bool(value) and all(map(COLUMN.accepts, value)),
)
SPLIT_FILE = satisfies(
    "a split file that exists", lambda value: isinstance(value, (str, os.PathLike)) and os.path.isfile(value)
)
PATH = satisfies("a handle or path", lambda value: isinstance(value, (str, os.PathLike)) and bool(os.fspath(value)))
SIZE = pair("height and width, in pixels", whole(1))
NO_SIZE = pair("(0, 0) for a backbone without images", satisfies("0", lambda value: value == 0))
RANGE = pair("(low, high) with low < high, such as (-1, 1)", number(), where=lambda low, high: bool(low < high))
CHANGES = satisfies("a tfft.specs.Augmentation", lambda value: isinstance(value, Augmentation))
WEIGHTS = satisfies("weights by class name", lambda value: isinstance(value, Mapping))


def augmentation_problem(value: Any) -> str | None:
    """Return the problem of an augmentation; None if there is none."""
    names = [value] if isinstance(value, str) else value
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in Augmentation.__dataclass_fields__]
        if unknown:
            return f"Expected the fields of tfft.specs.Augmentation. Received: {unknown}."
    elif not (value is None or isinstance(value, Augmentation)) and not (
        isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    ):
        return f"Expected names such as 'flip' or ['flip', 'crop=0.7'], or an Augmentation. Received: {value!r}."
    try:
        augmentation(value)
    except PlanError as error:
        return str(error)
    return None


def _task_problem(value: Any) -> str | None:
    try:
        if not AUTO.accepts(value):
            registry.task_name(value)
    except PlanError as error:
        return str(error)
    return None


class _TaskName(Check):
    """Check for a task name; includes tasks that are registered later."""

    def __call__(self, value: Any) -> str | None:
        """Return the valid names and the nearest one, or None for a task."""
        return _task_problem(value)


TASK = _TaskName(("'auto'", "the name of a task"), lambda value: _task_problem(value) is None)


def multiplier_problem(value: Any) -> str | None:
    """Return the problem of learning-rate factors by block; None if there is none."""
    if not isinstance(value, Mapping):
        return f"Expected a mapping from blocks to factors of the learning rate. Received: {value!r}."
    wrong = [
        f"Expected a factor above 0 for {block!r}. Received: {factor!r}."
        for block, factor in value.items()
        if not RATE.accepts(factor)
    ]
    return " ".join([*wrong, "To keep a block frozen, leave it out of unfreeze."]) if wrong else None
