"""Division of labelled examples in memory into two parts: :func:`divide_arrays`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from tfft import registry
from tfft.data.examples import Examples, Splits, divide
from tfft.data.forms import label_column
from tfft.data.label_parsing import parse_labels
from tfft.errors import DataError, join_names

E = TypeVar("E", bound=Examples)


def divide_arrays(
    labels: Sequence[Any],
    make: Callable[[np.ndarray, tuple[str, ...]], E],
    *,
    items: str,
    validation: float,
    seed: int,
    task: str,
    class_names: Sequence[str] | None = None,
) -> Splits[E]:
    """Split examples in memory into training and validation examples, each class with one at least on either side.

    Args:
        labels: Labels of one part, which is divided, or of two, to learn from and to hold out; as
            :func:`tfft.data.forms.label_column` takes them.
        make: Function from the parsed labels of all parts and the class names to all examples.
        items: Plural noun for the examples, for messages.
        validation: Share of each class to hold out of one part.
        seed: Seed for the draw.
        task: What the labels are; ``"auto"`` looks at them.
        class_names: Names of the classes in their order; None takes those that the labels have.

    Raises:
        DataError: If labels cannot be used, or a class has fewer than two examples.
    """
    columns, known = zip(*(label_column(each, task) for each in labels), strict=True)
    places = [[f"label {i}" for i in range(len(column))] for column in columns]
    names = class_names or next((names for names in known if names), None)
    parsed = parse_labels(columns, places, task=task, class_names=names)
    whole = np.concatenate(parsed.parts)
    examples = make(whole, parsed.class_names)
    if len(labels) == 2:
        held = np.arange(len(whole)) >= len(parsed.parts[0])
        return divide(examples, held, "the two parts given", task=parsed.task)
    strata = registry.task(parsed.task).strata(whole)
    numbers = np.zeros(len(whole), np.int64) if strata is None else strata
    counts = np.bincount(numbers)
    _check_counts(counts, parsed.class_names if strata is not None else ("",), items)
    of = "" if strata is None else " of each class"
    held = _held_out(numbers, counts, validation, seed)
    return divide(examples, held, f"{validation * 100:g} %{of}, drawn with seed {seed}", task=parsed.task)


def are_pairs(source: Any) -> bool:
    """Whether a source is (inputs, labels) twice."""
    return isinstance(source, (tuple, list)) and all(isinstance(part, tuple) and len(part) == 2 for part in source)


def check_lengths(inputs: Any, labels: Any, items: str) -> None:
    """Raise DataError unless there is a label for each example."""
    if not hasattr(labels, "__len__") or len(labels) != len(inputs):
        count = len(labels) if hasattr(labels, "__len__") else labels
        raise DataError(
            f"Expected one label for each {items[:-1]}. Received: {len(inputs)} {items} and labels: {count}."
        )


def _check_counts(counts: np.ndarray, names: tuple[str, ...], items: str) -> None:
    single = [name for name, count in zip(names, counts.tolist(), strict=False) if count == 1]
    if single:
        raise DataError(
            f"Expected at least 2 {items} per class, for training and validation. Too few: {join_names(single)}."
        )


def _held_out(numbers: np.ndarray, counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    held = np.zeros(len(numbers), bool)
    for label, count in enumerate(counts):
        members = random.permutation(np.flatnonzero(numbers == label))
        if count:
            held[members[: min(count - 1, max(1, round(count * share)))]] = True
    return held
