"""Keras models as flat lists of calls, and new models made of some of those calls.

Implementation notes: layers are called again on new inputs, never copied, so every model made here shares its variables
with the original.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import keras

from tfft.errors import BackboneError
from tfft.keras_compat import is_functional, producer, producing_node


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """One call of a layer or operation in a functional model.

    Attributes:
        operation: Keras layer, or an operation such as ``x + y``.
        node: Keras' record of the call.
        inputs: Input tensors.
        outputs: Output tensors.
    """

    operation: Any
    node: Any
    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]

    @property
    def key(self) -> int:
        """Identity of the call."""
        return id(self.node)

    @property
    def name(self) -> str:
        """Name of the layer or operation."""
        return str(self.operation.name)

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables that the call reads, without the state of random generators."""
        own = self.operation.weights if isinstance(self.operation, keras.layers.Layer) else []
        handed = [a for a in keras.tree.flatten(self.arguments) if isinstance(a, keras.Variable)]
        return [*own, *handed]

    @property
    def trains(self) -> bool:
        """Whether gradients update one of its variables."""
        return any(v.trainable for v in self.variables)

    @property
    def arguments(self) -> tuple[Any, Any]:
        """Positional and keyword arguments, with Keras tensors for inputs."""
        return self.node.arguments.args, self.node.arguments.kwargs


def flatten(model: keras.Model) -> keras.Model:
    """Return the same computation as one functional model without nested models.

    Args:
        model: Functional or sequential model, built.

    Raises:
        BackboneError: If the model is not functional.
    """
    if not is_functional(model):
        raise BackboneError(
            f"{model.name!r} cannot be divided: it has no Keras graph (a subclass of keras.Model, or not "
            "built). Expected a functional or sequential model, such as tfft.build gives. Wrap it: "
            "keras.Model(inputs, model(inputs)), or build it."
        )
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    inputs = keras.tree.map_structure(_fresh_input, structure)
    known = {id(old): new for old, new in zip(model.inputs, keras.tree.flatten(inputs), strict=True)}
    _replay(steps_of(model), known)
    return keras.Model(inputs, _alone([known[id(t)] for t in model.outputs]), name=model.name)


def steps_of(model: keras.Model) -> list[Step]:
    """Return the calls of a functional model in a topological order that depends on the graph alone."""
    ends = {id(t) for t in model.inputs}
    order: list[Step] = []
    done: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(t, False) for t in reversed(model.outputs)]
    while waiting:
        item, ready = waiting.pop()
        if ready:
            order.append(item)
            continue
        if id(item) in ends:
            continue
        step = _step_of(item)
        if step.key in done:
            continue
        done.add(step.key)
        waiting.append((step, True))
        waiting += [(t, False) for t in reversed(step.inputs)]
    return order


def divide(
    flat: keras.Model, inside: Set[int], names: tuple[str, str], again: Set[int] = frozenset()
) -> tuple[keras.Model, keras.Model]:
    """Split a flat model into two, the second of which continues from the first.

    Args:
        flat: Model from :func:`flatten`.
        inside: Keys of the calls of the first model, with all calls that they need.
        names: Names of the two models.
        again: Keys of calls in the first model that the second model repeats.

    Returns:
        Both models. The first returns one tensor, or a list: the computed tensors that the second needs, then the
        inputs that the second uses directly.
    """
    steps = steps_of(flat)
    rest = [step for step in steps if step.key not in inside or step.key in again]
    wanted = {id(t) for step in rest for t in step.inputs} | {id(t) for t in flat.outputs}
    first_only = [step for step in steps if step.key in inside and step.key not in again]
    crossing = [t for step in first_only for t in step.outputs if id(t) in wanted]
    crossing += [t for t in flat.inputs if id(t) in wanted]
    first = keras.Model(flat.input, _alone(crossing), name=names[0])
    used: set[str] = set()
    entries = [_fresh_input(t, used) for t in crossing]
    known = {id(old): new for old, new in zip(crossing, entries, strict=True)}
    _replay(rest, known)
    second = keras.Model(_alone(entries), _alone([known[id(t)] for t in flat.outputs]), name=names[1])
    return first, second


def merge_calls(flat: keras.Model, merged: Mapping[int, tuple[Step, keras.layers.Layer]]) -> keras.Model:
    """Return a flat model with some chains of calls replaced by one call each.

    Args:
        flat: Model from :func:`flatten`.
        merged: By key of the last call of a chain: the first call, whose only input the layer takes, and the layer. The
            results inside of a chain must not be used elsewhere.

    Returns:
        A model with the same inputs and outputs.
    """
    inputs = keras.tree.map_structure(_fresh_input, flat.input)
    known = {id(old): new for old, new in zip(flat.inputs, keras.tree.flatten(inputs), strict=True)}
    replaced = {first.key for key, (first, _) in merged.items()}
    for step in steps_of(flat):
        if step.key in merged:
            first, layer = merged[step.key]
            known[id(step.outputs[0])] = layer(known[id(first.inputs[0])])
        elif step.key not in replaced:
            _replay([step], known)
    return keras.Model(inputs, _alone([known[id(t)] for t in flat.outputs]), name=flat.name)


def descendants(steps: Sequence[Step], starts: Iterable[Step]) -> set[int]:
    """Return the keys of the given calls and their descendants."""
    found = {step.key for step in starts}
    reached: set[int] = set()
    for step in steps:
        if step.key in found or any(id(t) in reached for t in step.inputs):
            found.add(step.key)
            reached.update(id(t) for t in step.outputs)
    return found


def ancestors(steps: Sequence[Step], ends: Iterable[Step]) -> set[int]:
    """Return the keys of the given calls and their ancestors."""
    found = {step.key for step in ends}
    needed: set[int] = set()
    for step in reversed(steps):
        if step.key in found or any(id(t) in needed for t in step.outputs):
            found.add(step.key)
            needed.update(id(t) for t in step.inputs)
    return found


def flat_inputs(model: keras.Model, value: Any) -> list[Any]:
    """Return the argument of a model as a list in the order of ``model.inputs``; dictionaries match by name."""
    if isinstance(value, dict):
        names = [producer(t).name for t in model.inputs]
        if set(names) <= set(value):
            return [value[name] for name in names]
    return keras.tree.flatten(value)


def _alone(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors


def _step_of(tensor: keras.KerasTensor) -> Step:
    node = producing_node(tensor)
    return Step(node.operation, node, tuple(node.input_tensors), tuple(node.output_tensors))


def _fresh_input(tensor: keras.KerasTensor, used: set[str] | None = None) -> keras.KerasTensor:
    """Create an input for a tensor, named after its layer, with the suffix ``_output`` for a computed tensor."""
    operation = producer(tensor)
    base = str(operation.name)
    if used is not None:  # a layer that is called on both sides would have the name twice
        base += "" if isinstance(operation, keras.layers.InputLayer) else "_output"
        names = (base if n == 1 else f"{base}_{n}" for n in itertools.count(1))
        base = next(name for name in names if name not in used)
        used.add(base)
    return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=base, sparse=tensor.sparse)


def _replay(steps: list[Step], known: dict[int, Any]) -> None:
    """Repeat every call on the tensors in ``known``, entering nested models, and add the results to it."""
    for step in steps:
        args, kwargs = step.node.arguments.fill_in(known)
        if _can_enter(step):
            model = step.operation
            entering = zip(model.inputs, flat_inputs(model, args[0]), strict=True)
            inner = {id(t): _as_type(x, t.dtype) for t, x in entering}
            _replay(steps_of(model), inner)
            results = [inner[id(t)] for t in model.outputs]
        else:
            results = keras.tree.flatten(step.operation(*args, **kwargs))
        known.update((id(old), new) for old, new in zip(step.outputs, results, strict=True))


def _can_enter(step: Step) -> bool:
    args, kwargs = step.arguments
    # A value given for `training` has no effect: Keras replaces it when the outer model is called.
    others = keras.tree.flatten([value for name, value in kwargs.items() if name != "training"])
    if not is_functional(step.operation) or len(args) != 1 or any(value is not None for value in others):
        return False
    given, wanted = flat_inputs(step.operation, args[0]), step.operation.inputs
    # Keras may add or drop a last axis of 1 at the border of a model; such a model stays in one piece.
    return len(given) == len(wanted) and all(len(g.shape) == len(w.shape) for g, w in zip(given, wanted, strict=True))


def _as_type(tensor: keras.KerasTensor, dtype: str) -> keras.KerasTensor:
    return tensor if tensor.dtype == dtype else keras.ops.cast(tensor, dtype)  # as the border of a model does
