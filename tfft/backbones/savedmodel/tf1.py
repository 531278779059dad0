"""TF1 Hub modules: reference variables become resource variables.

Modules of 2018 and 2019 hold ``VariableV2`` nodes. TensorFlow 2 runs them, but lifts nothing out of
the graph, so there is no variable to train and the graph means nothing in another process. Their
values are read once, and each node is replaced by the read of a resource variable.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph

_REFERENCE = frozenset({"VariableV2", "Variable"})


def with_resource_variables(flat: FlatGraph, loaded: Any) -> FlatGraph:
    """Returns the graph with its reference variables replaced; the same graph where there are none."""
    references = [node.name for node in flat.graph_def.node if node.op in _REFERENCE]
    if not references:
        return flat
    values = _read(loaded, flat, references)
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.CopyFrom(flat.graph_def.versions)
    graph_def.library.CopyFrom(flat.graph_def.library)
    variables = dict(flat.variables)
    for node in flat.graph_def.node:
        if node.op in _REFERENCE:
            handle = f"{node.name}/tfft_handle"
            placeholder = graph_def.node.add(name=handle, op="Placeholder")
            placeholder.attr["dtype"].type = tf.resource.as_datatype_enum
            read = graph_def.node.add(name=node.name, op="ReadVariableOp", input=[handle])
            read.attr["dtype"].type = node.attr["dtype"].type
            variables[handle] = tf.Variable(values[node.name], name=_own_name(node.name))
        else:
            copy = graph_def.node.add()
            copy.CopyFrom(node)
            if copy.op == "RefIdentity":
                copy.op = "Identity"
    return dataclasses.replace(flat, graph_def=graph_def, variables=variables)


def _own_name(node: str) -> str:
    return "/".join(part for part in node.split("/") if "PartitionedCall" not in part)


def _read(loaded: Any, flat: FlatGraph, names: list[str]) -> dict[str, Any]:
    # A function cannot return a reference, so the values are taken behind the ops that read them.
    found = {}
    for name in names:
        reader = next(n for n in flat.consumers[name] if flat.nodes[n].op in ("Identity", "RefIdentity"))
        found[name] = loaded.prune([], f"{_own_name(reader)}:0")().numpy()
    return found
