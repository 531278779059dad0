"""Finds what can be called on a restored SavedModel, and calls it with flat tensors.

SavedModels come in several dialects: reusable ones with ``__call__(inputs, training)``, Keras exports
with ``serve``, signatures only, and TF1 Hub modules with tags. :class:`Endpoint` hides which it was.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfft.errors import BackboneError, SavedModelError, did_you_mean, listed


@dataclasses.dataclass(frozen=True, eq=False)
class Endpoint:
    """One way to call a restored SavedModel.

    Attributes:
        label: how it is called, in words.
        function: the restored function.
        arguments: its arguments by position: nests of TensorSpec for inputs, values for the rest.
        keywords: the same for keyword arguments.
        input_keys: names of the flattened input tensors.
        specs: their shapes and types.
        training: place of the ``training`` argument (position or name); None where there is none.
        has_training: whether it was also saved for training.
        single: True when the input is one bare tensor.
    """

    label: str
    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    input_keys: tuple[str, ...]
    specs: tuple[tf.TensorSpec, ...]
    training: int | str | None
    has_training: bool
    single: bool

    def call(self, tensors: Sequence[tf.Tensor], training: bool = False) -> Any:
        """Calls the model with its flattened inputs."""
        feed = iter(tensors)

        def fill(value: Any) -> Any:
            return next(feed) if isinstance(value, tf.TensorSpec) else value

        arguments = [tf.nest.map_structure(fill, a) for a in self.arguments]
        keywords = {k: tf.nest.map_structure(fill, v) for k, v in sorted(self.keywords.items())}
        if isinstance(self.training, int):
            arguments[self.training] = training
        elif self.training is not None:
            keywords[self.training] = training
        return self.function(*arguments, **keywords)


def find_endpoint(loaded: Any, signature: str | None = None) -> Endpoint:
    """Chooses how a restored SavedModel is called.

    Args:
        loaded: result of ``tf.saved_model.load``.
        signature: name of a signature or of a saved function; None takes ``__call__``, a Keras
            export's ``serve``, or the default signature, in this order.

    Raises:
        BackboneError: when ``signature`` names nothing; the message lists what there is.
        SavedModelError: when nothing can be called.
    """
    functions = _restored_functions(loaded)
    signatures = dict(getattr(loaded, "signatures", {}) or {})
    if signature is not None:
        if signature in functions:
            return _from_function(signature, functions[signature])
        if signature in signatures:
            return _from_signature(signature, signatures[signature])
        names = [*functions, *signatures]
        hint = did_you_mean(signature, names)
        raise BackboneError(f"The SavedModel has no signature {signature!r}.{hint} It has: {listed(names) or 'none'}.")
    for name in ("__call__", "serve"):
        if name in functions:
            return _from_function(name, functions[name])
    for name in ("serving_default", "default", "image_feature_vector", *signatures):
        if name in signatures:
            return _from_signature(name, signatures[name])
    if len(functions) == 1:
        return _from_function(*functions.popitem())
    raise SavedModelError(
        "The SavedModel has no __call__, no serve and no signatures, so it is not known how to call it."
        + (f" Choose one of its functions with signature=: {listed(functions)}." if functions else "")
    )


def _restored_functions(loaded: Any) -> dict[str, Any]:
    """The functions of the root; where it has none, those that call one of its parts (``query_model``)."""
    names = [n for n in dir(loaded) if not n.startswith("_")]
    found = {}
    for name in ["__call__", *names]:
        value = inspect.getattr_static(loaded, name, None)
        value = getattr(loaded, name, None) if value is not None else None
        if getattr(value, "concrete_functions", None):
            found[name] = value
    if found:
        return found
    calls = {name: getattr(getattr(loaded, name, None), "__call__", None) for name in names}  # noqa: B004
    return {name: call for name, call in calls.items() if getattr(call, "concrete_functions", None)}


def _from_function(name: str, function: Any) -> Endpoint:
    parameters = list(function.function_spec.fullargspec.args)
    defaults = function.function_spec.fullargspec.defaults or ()
    default_of = dict(zip(parameters[len(parameters) - len(defaults) :], defaults, strict=True))
    default_of.update(function.function_spec.fullargspec.kwonlydefaults or {})
    candidates = []
    for concrete in function.concrete_functions:
        arguments, keywords = concrete.structured_input_signature
        candidates.append(_bind(parameters, default_of, arguments, keywords))
    trained = {c.get("training") for c in candidates if "training" in c}
    usable = [c for c in candidates if c.get("training", False) in (False, None)] or candidates
    chosen = min(usable, key=_fixed_dimensions)
    # An argument that is a tensor but has a default is a hyperparameter, not an input.
    bound = {
        k: tf.constant(default_of[k], v.dtype)
        if isinstance(v, tf.TensorSpec) and default_of.get(k) is not None and k != parameters[0]
        else v
        for k, v in chosen.items()
    }
    positional = tuple(bound[p] for p in parameters if p in bound)
    keywords = {k: v for k, v in bound.items() if k not in parameters}
    place: int | str | None = None
    if "training" in bound:
        place = parameters.index("training") if "training" in parameters else "training"
    nests = {k: v for k, v in [*zip(parameters, positional, strict=False), *sorted(keywords.items())] if _has_specs(v)}
    return _endpoint(name, function, positional, keywords, nests, place, True in trained and False in trained)


def _bind(parameters: list[str], defaults: dict[str, Any], arguments: Any, keywords: Any) -> dict[str, Any]:
    bound = dict(zip(parameters, arguments, strict=False))
    bound.update(keywords)
    for name, value in defaults.items():
        bound.setdefault(name, value)
    return {name: bound[name] for name in [*parameters, *bound] if name in bound}


def _from_signature(name: str, function: Any) -> Endpoint:
    _, keywords = function.structured_input_signature
    nests = dict(sorted(keywords.items()))
    return _endpoint(f"signature {name!r}", function, (), nests, nests, None, False)


def _endpoint(
    label: str,
    function: Any,
    positional: tuple[Any, ...],
    keywords: dict[str, Any],
    nests: dict[str, Any],
    training: int | str | None,
    has_training: bool,
) -> Endpoint:
    keys: list[str] = []
    specs: list[tf.TensorSpec] = []
    for name, nest in nests.items():
        for path, spec in _flatten_with_paths(nest):
            if isinstance(spec, tf.TensorSpec):
                bare = len(nests) > 1 or not path
                keys.append("_".join([name, *path]) if bare else "_".join(path))
                specs.append(spec)
    if not specs:
        raise SavedModelError(f"The endpoint {label} takes no tensor.")
    single = len(specs) == 1 and len(nests) == 1
    return Endpoint(label, function, positional, keywords, tuple(keys), tuple(specs), training, has_training, single)


def _has_specs(nest: Any) -> bool:
    return any(isinstance(leaf, tf.TensorSpec) for leaf in tf.nest.flatten(nest))


def _fixed_dimensions(bound: dict[str, Any]) -> int:
    leaves = [leaf for leaf in tf.nest.flatten(bound) if isinstance(leaf, tf.TensorSpec)]
    return sum(n is not None for leaf in leaves if leaf.shape.rank is not None for n in leaf.shape)


def _flatten_with_paths(nest: Any) -> list[tuple[tuple[str, ...], Any]]:
    if isinstance(nest, dict):
        return [((str(k), *path), leaf) for k in sorted(nest) for path, leaf in _flatten_with_paths(nest[k])]
    if isinstance(nest, (list, tuple)) and not isinstance(nest, tf.TensorSpec):
        return [((str(i), *path), leaf) for i, v in enumerate(nest) for path, leaf in _flatten_with_paths(v)]
    return [((), nest)]


def output_keys(structure: Any) -> list[str]:
    """Returns the keys of a function's flattened results."""
    return ["/".join(path) for path, _ in _flatten_with_paths(structure)]


def choose_output(
    structure: Any, output: str | None, prefer: Sequence[str] = (), names: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Returns position and key of the output to use among a function's flattened results.

    Args:
        structure: nest of tensors (or TensorSpecs) as the function returns it.
        output: key (``"pooled_output"``, ``"encoder_outputs/3"``), or None for the only one or the
            one called ``default``.
        prefer: keys that come before ``default``.
        names: names for keys that are numbers; both are taken.

    Raises:
        BackboneError: when there are several and none is chosen, or the chosen one does not exist;
            the message lists keys with shapes.
    """
    numbers = output_keys(structure)
    named = [(names or {}).get(key, key) for key in numbers]
    leaves = [(key, leaf) for key, (_, leaf) in zip(named, _flatten_with_paths(structure), strict=True)]
    keys = [key for key, _ in leaves]
    table = listed([f"{key or '(the only one)'} {tuple(leaf.shape.as_list())}" for key, leaf in leaves], limit=40)
    if output is not None:
        for known in (keys, numbers):
            if output in known:
                return known.index(output), keys[known.index(output)]
        raise BackboneError(f"The model has no output {output!r}.{did_you_mean(output, keys)} It has: {table}.")
    for key in (*prefer, "", "default"):
        if key in keys:
            return keys.index(key), key
    if len(leaves) == 1:
        return 0, keys[0]
    raise BackboneError(f"The model has several outputs; choose one with output=. It has: {table}.")
