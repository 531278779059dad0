"""What was tried on a model is undone: :func:`restored`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras


@contextlib.contextmanager
def restored(model: keras.Model) -> Iterator[None]:
    """Gives all variables of a model, those of its metrics too, the values back that they had."""
    variables = {id(v): v for v in [*model.variables, *model.metrics_variables]}.values()
    kept = [(v, keras.ops.convert_to_numpy(v).copy()) for v in variables]
    try:
        yield
    finally:
        for variable, value in kept:
            variable.assign(value)
