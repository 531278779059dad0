"""Frozen graphs of TensorFlow 1, ``.pb`` files whose variables became constants: :func:`from_frozen_graph`.

They are opened as a SavedModel is: scanned, traced, cut into blocks, and compared with what TensorFlow computes.
"""

from __future__ import annotations

import re
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.backbones.load_options import LoadOptions
from tfft.backbones.savedmodel import folder_scan
from tfft.backbones.savedmodel.adapting import adapt
from tfft.backbones.savedmodel.backbone import input_contract
from tfft.backbones.savedmodel.call_graph import CallGraph, base_of
from tfft.backbones.savedmodel.endpoint import Endpoint
from tfft.backbones.savedmodel.opener import Opener
from tfft.backbones.savedmodel.scan import check_graph
from tfft.errors import BackboneError, SavedModelError, TfftError, did_you_mean, join_names

_STATE = frozenset({"Variable", "VariableV2", "VarHandleOp", "HashTable", "HashTableV2"})
_NO_RESULT = frozenset({"NoOp", "Assert", "Const", "Placeholder", "PlaceholderWithDefault"})
_SWITCHES = re.compile(r"(is_?)?train(ing)?(_phase)?|phase(_train)?|learning_phase|keep_prob", re.I)


def from_frozen_graph(path: Path, options: LoadOptions) -> Backbone:
    """Open a frozen graph as a backbone.

    Args:
        path: The file.
        options: As :func:`tfft.backbones.load_backbone` takes them. ``output`` may name any node of the graph. A pin
            implies ``trust=True``.

    Returns:
        The backbone. Nothing of it can be trained without ``constants="trainable"``.

    Raises:
        SavedModelError: The file holds no graph, or one that is not frozen.
        UnsafeModelError: The graph could reach outside of itself.
        BackboneError: An option does not fit this graph.
    """
    graph_def = _read(path)
    trusted = options.trust or options.pinned
    if not trusted:
        check_graph(graph_def, f"the file {str(path)!r}", "trust=True (on the command line: --trust)")
    names = _outputs(graph_def, options.output)
    needed = CallGraph(graph_def).upstream(names)
    kept = [node for node in graph_def.node if node.name in needed]
    del graph_def.node[:]
    graph_def.node.extend(kept)
    notes = _set_switches(graph_def)
    _check_frozen(graph_def, path)
    try:
        nothing = types.SimpleNamespace()
        adapted = adapt(_endpoint(graph_def, path, names), nothing, options.per_example)
        opener = Opener(nothing, adapted, options.output, (), trusted, options.constants)
        opened = opener.open(re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem), None, "fixed")
    except TfftError:
        raise
    except Exception as error:  # a damaged graph fails wherever TensorFlow comes to need what is missing
        said = (str(error).strip().splitlines() or [""])[0]
        raise SavedModelError(f"{str(path)!r} cannot be opened: {type(error).__name__}: {said[:500]}") from error
    spec, assumed = input_contract(opened.model, None, opened.pixels)
    return Backbone(options.name or path.stem, opened.model, str(path), spec, (*notes, *opened.notes, *assumed))


def _read(path: Path) -> Any:
    graph_def = tf.compat.v1.GraphDef()
    if path.stat().st_size > folder_scan.MOST_PROTO:
        raise SavedModelError(f"{str(path)!r} is larger than {folder_scan.MOST_PROTO:,} bytes, so it is not a graph.")
    try:
        graph_def.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's own class, which differs between its implementations
        raise SavedModelError(f"{str(path)!r} cannot be parsed as a graph of TensorFlow: {error}") from error
    if not any(node.op for node in graph_def.node):
        raise SavedModelError(
            f"{str(path)!r} holds no graph. If it belongs to a SavedModel, name it saved_model.pb and load its folder."
        )
    return graph_def


def _outputs(graph_def: Any, output: str | None) -> list[str]:
    """Names of the nodes that a user may want: the one that was asked for, else those that nothing reads."""
    names = [node.name for node in graph_def.node]
    if output is not None:
        if output not in names:
            hint = did_you_mean(output, names)
            raise BackboneError(f"The graph has no node {output!r}.{hint} Its last ones are: {join_names(names[-8:])}.")
        return [output]
    read = {base_of(ref) for node in graph_def.node for ref in node.input}
    switches = {node.name for node in graph_def.node if node.op == "Switch"}  # beside each condition is an Identity
    last = [
        node.name
        for node in graph_def.node
        if node.name not in read and node.op not in _NO_RESULT and switches.isdisjoint(map(base_of, node.input[:1]))
    ]
    if not last:
        raise SavedModelError("The graph has no node that computes a result. Name one with output=.")
    return last


def _set_switches(graph_def: Any) -> list[str]:
    """Set the placeholders that only tell training from inference, and say which."""
    set_ones = []
    for node in graph_def.node:
        dtype = tf.as_dtype(node.attr["dtype"].type) if node.op == "Placeholder" else None
        if dtype is None or not _SWITCHES.fullmatch(node.name.split("/")[-1]):
            continue
        if dtype == tf.bool or (dtype.is_floating and "keep" in node.name.lower()):
            value = dtype != tf.bool
            node.op = "Const"
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype=dtype))
            del node.attr["shape"]
            set_ones.append(f"{node.name} = {value}")
    return [f"Set for inference: {join_names(set_ones)}."] if set_ones else []


def _check_frozen(graph_def: Any, path: Path) -> None:
    state = [f"{node.name} ({node.op})" for node in graph_def.node if node.op in _STATE]
    if state:
        raise SavedModelError(
            f"{str(path)!r} is not frozen: the values of {join_names(state, limit=4)} are in a checkpoint or in a file "
            "beside it. Freeze it (tf.compat.v1.graph_util.convert_variables_to_constants), or save a SavedModel."
        )
    if not any(node.op == "Placeholder" for node in graph_def.node):
        raise SavedModelError(f"The graph in {str(path)!r} takes no input (it has no Placeholder).")


def _endpoint(graph_def: Any, path: Path, names: Sequence[str]) -> Endpoint:
    places = [node for node in graph_def.node if node.op == "Placeholder"]
    specs = tuple(
        tf.TensorSpec(tf.TensorShape(p.attr["shape"].shape if "shape" in p.attr else None), p.attr["dtype"].type)
        for p in places
    )

    @tf.function(autograph=False)
    def call(*tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        feeds = {f"{place.name}:0": tensor for place, tensor in zip(places, tensors, strict=True)}
        found = tf.graph_util.import_graph_def(
            graph_def, input_map=feeds, return_elements=[f"{name}:0" for name in names], name=""
        )
        return dict(zip(names, found, strict=True))

    keys = tuple(re.sub(r"[^A-Za-z0-9_.-]+", "_", place.name) for place in places)
    return Endpoint(f"frozen graph {path.name}", call, specs, {}, keys, specs, None, False, len(places) == 1)
