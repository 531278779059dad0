"""State of a training as arrays and plain values: :func:`collect`, :func:`restore`.

Implementation notes: this covers the random states of Keras, TensorFlow, NumPy and Python, the variables that a step
may change, and the state of callbacks. The state inside TensorFlow's stateful random operations (``tf.random.uniform``
in a layer, ``Dataset.shuffle``) cannot be restored: use ``keras.random`` with a ``SeedGenerator``, and datasets whose
order is a function of the epoch.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import keras_compat
from tfft.config.stored_settings import current_names
from tfft.errors import PlanError, raise_problems
from tfft.freezing.weight_values import put
from tfft.training.checkpoint.callback_state import CallbackStates
from tfft.training.checkpoint.serialization import pack, unpack
from tfft.training.distribute import statistics_of

Arrays = dict[str, np.ndarray]


def collect(
    model: keras.Model,
    *,
    fitted: keras.Model | None = None,
    callbacks: CallbackStates | None = None,
    everything: bool = False,
    optimizer: bool = True,
) -> tuple[Arrays, dict[str, Any]]:
    """Collect the state of a training between two steps.

    Args:
        model: Whole model.
        fitted: Fitted part of it, which has the optimizer; None for the model.
        callbacks: Callbacks with state.
        everything: Whether to include all weights instead of those that may currently change.
        optimizer: Whether to include the optimizer.

    Returns:
        Arrays and plain values, for a :class:`~tfft.training.checkpoint.store.CheckpointStore`.

    Example:
        >>> arrays, state = collect(model)
        >>> restore(model, arrays, state)
    """
    fitted = fitted or model
    arrays: Arrays = {}
    weights = _weights(model, fitted)
    held = range(len(weights)) if everything else _positions(weights, movable(fitted))
    state: dict[str, Any] = {
        "weights": {"count": len(weights), "held": [[i, weights[i].path] for i in held]},
        "seeds": _take(_random_variables(model, fitted), "seeds", arrays),
        "optimizer": _take_optimizer(fitted, arrays) if optimizer else None,
        "global": _take_global(arrays),
        "stop": bool(getattr(fitted, "stop_training", False)),
    }
    for i in held:
        arrays[f"weights/{i}"] = _value(weights[i])
    if callbacks is not None:
        state["callbacks"] = callbacks.collect(arrays)
    return arrays, state


def restore(
    model: keras.Model,
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    *,
    fitted: keras.Model | None = None,
    callbacks: CallbackStates | None = None,
    optimizer: bool = True,
) -> None:
    """Restore the state from :func:`collect`, bit for bit.

    Args:
        model: Model built and compiled in the same way.
        arrays: Arrays from :func:`collect`.
        state: State from :func:`collect`.
        fitted: Fitted part, as in :func:`collect`.
        callbacks: Same callbacks in the same order.
        optimizer: Whether to restore the optimizer.

    Raises:
        PlanError: If model, optimizer or callbacks differ; the message lists all differences, and nothing was changed.
    """
    fitted = fitted or model
    weights, about = _weights(model, fitted), state["weights"]
    problems: list[str] = []
    if about["count"] != len(weights):
        problems.append(f"the model had {about['count']} weights and has {len(weights)}")
    else:
        problems += _misfits([weights[i] for i, _ in about["held"]], [arrays[f"weights/{i}"] for i, _ in about["held"]])
    groups = [(_random_variables(model, fitted), "seeds", "random generators")]
    if optimizer:
        problems += _other_optimizer(fitted, state["optimizer"])
        groups += [(_optimizer_variables(fitted), "optimizer", "variables of the optimizer")]
    for variables, key, name in groups:
        count = state[key]["count"]
        if count != len(variables):
            problems.append(f"there were {count} {name} and there are {len(variables)}")
        else:
            problems += _misfits(variables, [arrays[f"{key}/{i}"] for i in range(count)])
    if callbacks is not None:
        problems += callbacks.misfits(state["callbacks"])
    raise_problems(PlanError, "The checkpoint belongs to another model or to other settings", problems)
    for i, _ in about["held"]:
        weights[i].assign(arrays[f"weights/{i}"])
    for variables, key, _ in groups:
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{key}/{i}"])
    if callbacks is not None:
        callbacks.restore(state["callbacks"], arrays)
    _restore_global(state["global"], arrays)


def metrics_of(fitted: keras.Model) -> list[np.ndarray]:
    """Return the accumulated values of the metrics in the current epoch."""
    return [_value(v) for v in fitted.metrics_variables]


def restore_metrics(fitted: keras.Model, values: Sequence[np.ndarray], batch: Any) -> None:
    """Restore the accumulated values of the metrics.

    Args:
        fitted: Compiled model; Keras creates its metric variables in the first step, if not here.
        values: Values from :func:`metrics_of`.
        batch: Batch of inputs and labels for the model.

    Raises:
        PlanError: If the metrics differ.
    """
    keras_compat.build_for(fitted, batch)
    variables = fitted.metrics_variables
    problems = [f"the metrics had {len(values)} variables and have {len(variables)}"]
    if len(values) == len(variables):
        problems = _misfits(variables, values)
    raise_problems(PlanError, "The checkpoint belongs to other metrics", problems)
    put(variables, values)


def movable(model: keras.Model) -> list[keras.Variable]:
    """Return the weights that a step of ``fit`` may change: the trainable ones, and statistics of trainable layers."""
    return [*model.trainable_weights, *statistics_of(model)]


def broken(arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> list[str]:
    """Return the names of changeable weights and optimizer variables that are not finite.

    Args:
        arrays: Arrays from :func:`collect` without ``everything``.
        state: State from :func:`collect`.
    """
    names = {f"weights/{i}": path for i, path in state["weights"]["held"]}
    names |= {key: f"the optimizer's {key}" for key in arrays if key.startswith("optimizer/")}
    return [name for key, name in names.items() if not _is_finite(arrays[key])]


def _is_finite(array: np.ndarray) -> bool:
    if array.dtype.kind in "biu":
        return True
    return bool(np.isfinite(array if array.dtype.kind in "fc" else array.astype(np.float32)).all())


def _value(variable: Any) -> np.ndarray:
    return np.array(keras.ops.convert_to_numpy(variable))  # a copy: the next step changes the variable


def _unique(variables: Iterable[Any]) -> list[Any]:
    return list({id(v): v for v in variables}.values())


def _weights(model: keras.Model, fitted: keras.Model) -> list[keras.Variable]:
    return _unique([*model.weights, *fitted.weights])


def _positions(weights: Sequence[keras.Variable], wanted: Iterable[keras.Variable]) -> list[int]:
    ids = {id(v) for v in wanted}
    return [i for i, v in enumerate(weights) if id(v) in ids]


def _take(variables: Sequence[Any], key: str, arrays: Arrays) -> dict[str, Any]:
    for i, variable in enumerate(variables):
        arrays[f"{key}/{i}"] = _value(variable)
    return {"count": len(variables)}


def _random_variables(model: keras.Model, fitted: keras.Model) -> list[Any]:
    """Return the states of all random generators in the layers, and TensorFlow variables that are not weights."""
    found: list[Any] = []
    for layer in [*keras_compat.flatten_layers(model), *keras_compat.flatten_layers(fitted)]:
        found += [generator.state for generator in keras_compat.seed_generators(layer)]
        for value in vars(layer).values():
            if isinstance(value, (keras.random.SeedGenerator, tf.random.Generator)):
                found.append(value.state)
            elif isinstance(value, tf.Variable):
                found.append(value)
    known = {id(v) for v in _weights(model, fitted)} | {id(getattr(v, "value", v)) for v in _weights(model, fitted)}
    return [v for v in _unique(found) if id(v) not in known]


def _optimizer_variables(fitted: keras.Model) -> list[Any]:
    optimizer = getattr(fitted, "optimizer", None)
    if optimizer is None:
        return []
    if not optimizer.built:  # Keras would do it in the first step
        optimizer.build(fitted.trainable_variables)
    return variables_of(optimizer, {id(v) for v in fitted.weights})


def variables_of(optimizer: keras.optimizers.Optimizer, others: Container[int]) -> list[keras.Variable]:
    """Return the variables of an optimizer and of nested optimizers.

    Args:
        optimizer: Built optimizer.
        others: Ids of variables that it references but does not own: those that it trains.
    """
    found = list(optimizer.variables)
    for value in vars(optimizer).values():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, keras.optimizers.Optimizer):
                found += variables_of(part, others)
            elif isinstance(part, keras.Variable):
                found.append(part)
    return [v for v in _unique(found) if id(v) not in others]


def take_optimizer(
    model: keras.Model, optimizer: keras.optimizers.Optimizer, arrays: MutableMapping[str, np.ndarray]
) -> dict[str, Any]:
    """Collect an optimizer that no longer belongs to the model, but whose slots are needed later.

    Args:
        model: Model that it trained.
        optimizer: Built optimizer.
        arrays: Mapping that receives its variables.

    Returns:
        Plain values for :func:`optimizer_from`.
    """
    trained = keras_compat.trained_variables(optimizer)
    positions = {id(v): i for i, v in enumerate(model.weights)}
    for i, value in enumerate(variables_of(optimizer, {id(v) for v in trained})):
        arrays[f"carried/{i}"] = _value(value)
    return {
        "config": keras.optimizers.serialize(optimizer),
        # None: variables that were in the model during that phase only
        "trained": [[positions.get(id(v)), list(v.shape), str(v.dtype), v.name] for v in trained],
    }


def optimizer_from(
    model: keras.Model, taken: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> keras.optimizers.Optimizer:
    """Rebuild the optimizer that :func:`take_optimizer` collected.

    Args:
        model: The same model.
        taken: Plain values.
        arrays: Arrays with its variables.
    """
    optimizer = keras.optimizers.deserialize(taken["config"])
    weights = model.weights
    trained = [
        keras.Variable(np.zeros(shape), dtype=dtype, name=name) if at is None else weights[at]
        for at, shape, dtype, name in taken["trained"]
    ]
    optimizer.build(trained)
    for i, variable in enumerate(variables_of(optimizer, {id(v) for v in trained})):
        variable.assign(arrays[f"carried/{i}"])
    return optimizer


def _take_optimizer(fitted: keras.Model, arrays: Arrays) -> dict[str, Any]:
    optimizer = getattr(fitted, "optimizer", None)
    name = None if optimizer is None else type(optimizer).__name__
    return {"class": name, **_take(_optimizer_variables(fitted), "optimizer", arrays)}


def _other_optimizer(fitted: keras.Model, about: Mapping[str, Any]) -> list[str]:
    optimizer = getattr(fitted, "optimizer", None)
    name = None if optimizer is None else type(optimizer).__name__
    about = current_names({"class": about["class"]})
    if name != about["class"]:
        return [f"the optimizer was {about['class']} and is {name}"]
    return []


def _misfits(variables: Sequence[Any], values: Sequence[np.ndarray]) -> list[str]:
    return [
        f"{getattr(v, 'path', v.name)} was {a.dtype.name} {list(a.shape)} and is {_type(v)} {list(v.shape)}"
        for v, a in zip(variables, values, strict=True)
        if tuple(v.shape) != a.shape or _type(v) != a.dtype.name
    ]


def _type(variable: Any) -> str:
    return tf.as_dtype(variable.dtype).name


def _take_global(arrays: Arrays) -> dict[str, Any]:
    generator = keras_compat.global_seed_generator()
    drawn = keras_compat.tensorflow_seed_sequence()
    numbers = keras_compat.tensorflow_generator()
    return {
        "python": pack(_python_state(random.getstate()), arrays, "global"),
        "numpy": pack(np.random.get_state(legacy=False), arrays, "global"),
        "keras": pack(None if generator is None else generator.state, arrays, "global"),
        "tensorflow seed": keras_compat.tensorflow_seed(),
        "tensorflow seeds": pack(None if drawn is None else _python_state(drawn.getstate()), arrays, "global"),
        "tensorflow": pack(None if numbers is None else numbers.state, arrays, "global"),
    }


def _restore_global(state: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    values = {name: unpack(packed, arrays) for name, packed in state.items()}
    if values["keras"] is not None:
        keras_compat.ensure_global_seed_generator().state.assign(values["keras"])
    if values["tensorflow seeds"] is not None:
        if values["tensorflow seed"] != keras_compat.tensorflow_seed():
            tf.random.set_seed(values["tensorflow seed"])
        sequence = keras_compat.tensorflow_seed_sequence()
        if sequence is not None:  # always so once there is a seed
            sequence.setstate(_as_python_state(values["tensorflow seeds"]))
    if values["tensorflow"] is not None:
        tf.random.get_global_generator().state.assign(values["tensorflow"])
    random.setstate(_as_python_state(values["python"]))  # last: to make one of the others draws from it
    np.random.set_state(values["numpy"])


def _python_state(state: tuple[Any, ...]) -> list[Any]:
    version, numbers, gauss = state
    return [version, np.array(numbers, np.uint32), gauss]


def _as_python_state(state: list[Any]) -> tuple[Any, ...]:
    version, numbers, gauss = state
    return version, tuple(int(n) for n in numbers), gauss
