"""Key of a cache entry: one hash of everything that the features depend on.

Implementation notes: the key ignores names and settings that only training uses, so it is the same in the next process;
it changes with any weight, any pixel, the size and the order.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfft.backbones.savedmodel.block_graph import BlockGraph
from tfft.console.profile import stage
from tfft.errors import installed_version
from tfft.features import litert
from tfft.features.functional_graph import Step, flatten, steps_of
from tfft.keras_compat import flatten_layers
from tfft.layers.raw_input import RawInput

FORMAT = 2  # version of the entries; a new number invalidates all of them
_TOKENIZING = ("keras-hub", "tensorflow-text")
_TRAINING_ONLY = ("training", "regularizers", "selected", "batch_norm", "note", "trusted", "source_digest")


class NoKey(Exception):
    """No key can be computed, because a layer does not expose its settings. Never leaves tfft.features."""


@stage("find features in the cache")
def cache_key(prefix: keras.Model, items: str, *, dtype: str, engine: str) -> str:
    """Return the cache key for the features of a prefix.

    Args:
        prefix: Functional model.
        items: Digest of the examples, in order.
        dtype: Type of the stored features.
        engine: Engine that computes them.

    Raises:
        NoKey: If a layer does not expose its settings.
    """
    parts = {
        "format": FORMAT,
        "model": model_digest(prefix),
        "items": items,
        "dtype": dtype,
        "engine": engine,
        "versions": versions(engine),
    }
    if _tokenizers(prefix):
        parts["tokenizing"] = {name: installed_version(name) for name in _TOKENIZING}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def versions(engine: str) -> dict[str, str | None]:
    """Return the versions that features may depend on."""
    packages = ("tfft", "tensorflow", "keras", *((litert.PACKAGE,) if engine == "litert" else ()))
    return {package: installed_version(package) for package in packages}


def model_digest(model: keras.Model) -> str:
    """Return a hash of the inference computation of a functional model: graph, settings and values of variables."""
    flat = flatten(model)
    known = {id(t): f"input {i}" for i, t in enumerate(flat.inputs)}
    digest = hashlib.sha256()
    _add(digest, [(t.shape, t.dtype) for t in flat.inputs])
    for number, step in enumerate(steps_of(flat)):
        _add(digest, _settings(step))
        _add(digest, keras.tree.map_structure(lambda a: known.get(id(a)) or _plain(a), _call(step)))
        for variable in _ordered_variables(step):
            add_array(digest, np.asarray(variable))
        for name, content in _assets(step.operation):
            _add(digest, [name, content])
        known.update((id(t), f"{number}:{i}") for i, t in enumerate(step.outputs))
    _add(digest, [known[id(t)] for t in flat.outputs])
    return digest.hexdigest()


def add_array(digest: Any, array: np.ndarray) -> None:
    """Add type, shape and values of an array to a hash."""
    _add(digest, [str(array.dtype), list(array.shape)])
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _ordered_variables(step: Step) -> list[keras.Variable]:
    names = getattr(step.operation, "variable_names", None)
    if names is None:
        return step.variables
    return [variable for _, variable in sorted(zip(names, step.operation.weights, strict=True), key=lambda p: p[0])]


def _same_graph(graph: BlockGraph) -> Any:
    """Describe a piece of a SavedModel by its operations, because node names change each time it is opened."""
    nodes = {node.name: node for node in graph.graph_def.node}
    if graph.graph_def.library.function:  # loops: functions refer to each other by name, so keep the names
        return graph.to_config()
    entering: dict[str, list[Any]] = {}
    for kind in ("feeds", "variables", "tables"):
        entering |= {name: [kind, position] for name, position in getattr(graph, kind).items()}
    number: dict[str, int] = {}
    described: list[Any] = []
    waiting = [(_node_of(graph.end), False)]
    while waiting:
        name, ready = waiting.pop()
        if name in number:
            continue
        node = nodes[name]
        if not ready:
            waiting += [(name, True), *((_node_of(i), False) for i in reversed(node.input))]
            continue
        number[name] = len(number)
        described.append(
            entering.get(name) or [node.op, [_reference(i, number) for i in node.input], _attributes(node)]
        )
    return [described, _reference(graph.end, number)]


def _node_of(reference: str) -> str:
    return reference.removeprefix("^").split(":")[0]


def _reference(reference: str, number: Mapping[str, int]) -> str:
    mark = "^" if reference.startswith("^") else ""
    _, _, output = reference.partition(":")
    return f"{mark}{number[_node_of(reference)]}:{output or 0}"


def _attributes(node: Any) -> list[Any]:
    named = ("shared_name", "container")
    kept = sorted(
        ((k, v) for k, v in node.attr.items() if not k.startswith("_") and k not in named), key=lambda p: p[0]
    )
    return [(k, v.SerializeToString(deterministic=True).hex()) for k, v in kept]


def _call(step: Step) -> Any:
    args, kwargs = step.arguments
    return args, {name: value for name, value in kwargs.items() if name != "training"}


def _settings(step: Step) -> list[Any]:
    operation = step.operation
    raw = isinstance(operation, RawInput)
    try:
        config = operation.settings_without_names() if raw else dict(operation.get_config())
    except Exception as error:  # third-party layers may raise anything
        raise NoKey(f"{step.name!r} ({type(operation).__name__}) does not expose its settings: {error}") from error
    for name in ("name", "trainable"):
        config.pop(name, None)
    if getattr(operation, "is_tfft_block", False):
        config = {k: v for k, v in config.items() if k not in _TRAINING_ONLY}
        config["inference"] = _same_graph(BlockGraph.from_config(config["inference"]))
        config["variables"] = [(v["name"], v["shape"], v["dtype"]) for v in config["variables"]]
    return [_class_name(type(operation)), config]


def _class_name(kind: type) -> str:
    """Return the name under which Keras saves a class, which is stable if its module moves; else module and name."""
    name = keras.saving.get_registered_name(kind)
    return name if keras.saving.get_registered_object(name) is kind else f"{kind.__module__}.{kind.__qualname__}"


def _tokenizers(model: keras.Model) -> bool:
    operations = [step.operation for step in steps_of(flatten(model))]
    return any(one.mask is not None for one in operations if isinstance(one, RawInput))


def _assets(operation: Any) -> list[tuple[str, str]]:
    """Return a name and a hash for each asset file of a layer, such as a vocabulary."""
    parts = flatten_layers(operation) if isinstance(operation, keras.layers.Layer) else []
    found = []
    for number, part in enumerate(parts):
        if not hasattr(part, "save_assets"):
            continue
        with tempfile.TemporaryDirectory(prefix="tfft-assets-") as folder:
            part.save_assets(folder)
            for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
                name = f"{number}/{path.relative_to(folder).as_posix()}"
                found.append((name, hashlib.sha256(path.read_bytes()).hexdigest()))
    return found


def _add(digest: Any, value: Any) -> None:
    digest.update(json.dumps(_plain(value), sort_keys=True).encode() + b"\n")


def _plain(value: Any) -> Any:
    """Return JSON values for a setting, or raise :class:`NoKey` if its content is unknown."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(v) for v in (sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, slice):
        return ["slice", _plain(value.start), _plain(value.stop), _plain(value.step)]
    if isinstance(value, (keras.Variable, keras.KerasTensor)):
        return "variable" if isinstance(value, keras.Variable) else "tensor"  # hashed, or named, on its own
    if hasattr(value, "get_config"):
        return [type(value).__qualname__, _plain(value.get_config())]
    if isinstance(value, bytes):
        return value.hex()
    if value is Ellipsis or isinstance(value, type):
        return repr(value)
    return _plain_array(value)


def _plain_array(value: Any) -> list[Any]:
    try:
        array = np.asarray(value)
    except Exception as error:
        raise NoKey(f"a setting of type {type(value).__name__} cannot be compared") from error
    if array.dtype == object:
        raise NoKey(f"a setting of type {type(value).__name__} cannot be compared")
    return [str(array.dtype), list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]
