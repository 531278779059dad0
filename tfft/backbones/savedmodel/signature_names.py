"""Names of inputs and outputs that a model takes or gives in a list: those of its signatures, instead of numbers.

A Keras model of several inputs is called with a list, whose elements have no names; its signature has one for each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.endpoint import Endpoint
from tfft.backbones.savedmodel.graph import FlatGraph

_NUMBERS = re.compile(r"\d+([/_]\d+)*")


def with_input_names(loaded: Any, endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose inputs have the names that a signature gives them, where they had numbers.

    Args:
        loaded: The restored SavedModel.
        endpoint: How it is called.
    """
    if not all(_NUMBERS.fullmatch(key) for key in endpoint.input_keys):
        return endpoint
    names = tuple(spec.name or "" for spec in endpoint.specs)
    for function in _signatures(loaded):
        _, keywords = function.structured_input_signature
        if len(set(names)) == len(names) and set(names) == set(keywords):
            return dataclasses.replace(endpoint, input_keys=names)
    return endpoint


def output_names(loaded: Any, flat: FlatGraph, keys: Sequence[str]) -> dict[str, str]:
    """Return names of outputs that have numbers for keys: of the layers that give them, as a signature names them.

    Args:
        loaded: The restored SavedModel.
        flat: Its graph.
        keys: Keys of the flattened outputs.

    Returns:
        Names by key; empty where no signature names all of them, each once.
    """
    if len(keys) < 2 or not all(_NUMBERS.fullmatch(key) for key in keys):
        return {}
    for function in _signatures(loaded):
        known = set(function.structured_outputs)
        found = [next((scope for scope in _scopes(flat, ref) if scope in known), None) for ref in flat.outputs]
        if known == {f"output_{key}" for key in keys}:  # how Keras 3 names what it knows no name for
            found = [f"output_{key}" for key in keys]
        if set(found) == known and len(known) == len(keys):
            return {key: name for key, name in zip(keys, found, strict=True) if name}
    return {}


def _scopes(flat: FlatGraph, ref: str) -> list[str]:
    """The scopes of the operation that gives a tensor, the innermost first."""
    node = flat.behind_identities(ref)
    return node.name.split("/")[-2::-1] if "/" in node.name else []


def _signatures(loaded: Any) -> list[Any]:
    signatures = dict(getattr(loaded, "signatures", {}) or {})
    usable = [f for f in signatures.values() if isinstance(f.structured_outputs, dict)]
    return [f for f in usable if all(isinstance(v, (tf.Tensor, tf.TensorSpec)) for v in f.structured_outputs.values())]
