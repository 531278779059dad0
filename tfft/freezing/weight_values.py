"""Values of a model's variables: copied, restored bit by bit, and matched with those of another model.

Implementation notes: a mapping or a list of arrays is matched by path or by position.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, did_you_mean, join_names, raise_problems
from tfft.keras_compat import flatten_layers, own_non_trainable_variables

Values = Mapping[str, Any] | Sequence[Any]


def movable(model: keras.Model) -> list[keras.Variable]:
    """Return the variables that training may change: the trainable ones, then the statistics of trainable layers."""
    return [*model.trainable_variables, *statistics(model)]


def statistics(model: keras.Model) -> list[keras.Variable]:
    """Return the floating variables that trainable layers may update themselves (BatchNormalization)."""
    found = {
        id(v): v
        for layer in flatten_layers(model)
        if layer.trainable
        for v in own_non_trainable_variables(layer)
        if is_floating(v)
    }
    return list(found.values())


def is_floating(variable: keras.Variable) -> bool:
    """Whether a variable has values that can be averaged."""
    return tf.as_dtype(variable.dtype).is_floating


def take(variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Return copies of the values."""
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def put(variables: Sequence[keras.Variable], values: Sequence[Any]) -> None:
    """Assign values to variables."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


@contextlib.contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """Restore all variables of a model and of its metrics at the end of the context."""
    variables = list({id(v): v for v in [*model.variables, *model.metrics_variables]}.values())
    kept = take(variables)
    try:
        yield
    finally:
        put(variables, kept)


def matched(model: keras.Model, given: Values, what: str) -> dict[int, np.ndarray]:
    """Match given values with the variables of a model.

    Args:
        model: Built.
        given: Arrays in the order of ``model.weights``, or by path; a mapping may leave variables out.
        what: What the values are, for messages.

    Returns:
        The arrays by their position in ``model.weights``.

    Raises:
        PlanError: Lists every name that the model has no variable of and every shape that differs.
    """
    weights = model.weights
    pairs: list[tuple[int, Any]] = []
    problems: list[str] = []
    if isinstance(given, Mapping):
        places = _places(weights, given, problems)
        pairs = [(places[path], value) for path, value in given.items() if path in places]
    elif len(given) != len(weights):
        problems.append(f"{what} holds {len(given)} arrays, {model.name!r} has {len(weights)} variables")
        problems += _first_mismatch(weights, given)
    else:
        pairs = list(enumerate(given))
    found = {}
    for place, value in pairs:
        array = np.asarray(value)
        if array.shape != tuple(weights[place].shape):
            shape = tuple(weights[place].shape)
            problems.append(f"{weights[place].path!r} has the shape {shape}, {what} holds {array.shape}")
        found[place] = array
    raise_problems(PlanError, f"The weights do not fit {model.name!r}", problems)
    return found


def _places(weights: Sequence[keras.Variable], given: Mapping[str, Any], problems: list[str]) -> dict[str, int]:
    counts = Counter(v.path for v in weights)
    places = {v.path: i for i, v in enumerate(weights) if counts[v.path] == 1}
    twice = [path for path in given if counts[path] > 1]
    if twice:
        problems.append(f"several variables are called {join_names(twice)}: give a list in the order of model.weights")
    unknown = [path for path in given if path not in counts]
    problems += [f"the model has no variable {path!r}.{did_you_mean(path, places)}" for path in unknown[:20]]
    return places


def _first_mismatch(weights: Sequence[keras.Variable], given: Sequence[Any]) -> list[str]:
    for variable, value in zip(weights, given, strict=False):
        shape = np.shape(value)
        if tuple(variable.shape) != shape:
            return [f"the first that differs is {variable.path!r}: {tuple(variable.shape)} here, {shape} there"]
    return []
