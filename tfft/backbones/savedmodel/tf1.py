"""Graphs of TF1 in the form that the rest of the package works on: :func:`modernized`.

Modules of 2018 and 2019 hold ``VariableV2`` nodes, and tables that are nodes as well. TensorFlow 2 runs them, but lifts
nothing out of the graph, so there is no variable to train and the graph means nothing in another process. The values of
the variables are read once, and each node is replaced by the read of a resource variable; each table becomes a
placeholder for its handle, through which its contents are read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.control_flow import with_functions
from tfft.backbones.savedmodel.graph import FlatGraph
from tfft.errors import SavedModelError

_REFERENCE = frozenset({"VariableV2", "Variable"})
_TABLES = frozenset({"HashTableV2", "MutableHashTableV2", "HashTable", "MutableHashTable"})


def modernized(flat: FlatGraph, loaded: Any) -> FlatGraph:
    """Return the graph without variables, tables, loops and conditions in the form of TF1.

    Args:
        flat: Graph of a function.
        loaded: SavedModel that it was traced from, which holds the values.

    Returns:
        The same object where nothing had to be replaced.

    Raises:
        SavedModelError: A table cannot be read, or a loop cannot be turned into a function.
    """
    return with_functions(with_captured_tables(with_resource_variables(flat, loaded), loaded))


def with_captured_tables(flat: FlatGraph, loaded: Any) -> FlatGraph:
    """Return the graph with a placeholder in place of each table; the same graph where there are none."""
    needed = flat.ancestors(flat.outputs)
    found = {n.name: n.op for n in flat.graph_def.node if n.op in _TABLES and n.name in needed}
    if not found:
        return flat
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(flat.graph_def)
    tables = dict(flat.tables)
    for node in graph_def.node:
        if node.name in found:
            name = node.name
            tables[name] = _table_handle(loaded, name, node.op)
            node.Clear()
            node.name, node.op = name, "Placeholder"
            node.attr["dtype"].type = tf.resource.as_datatype_enum
    return dataclasses.replace(flat, graph_def=graph_def, tables=tables)


def _table_handle(loaded: Any, name: str, op: str) -> tf.Tensor:
    if not op.endswith("V2") or not hasattr(loaded, "prune"):
        raise SavedModelError(
            f"The graph holds the lookup table {name!r} ({op}), whose contents cannot be read through TensorFlow 2. "
            "Choose an output that does not need it with output=, or save the model again with TensorFlow 1.15."
        )
    return _value_of(loaded, _node_of(loaded, name, _TABLES))


def _node_of(loaded: Any, name: str, ops: Collection[str]) -> Any:
    """The operation of the loaded graph that a node of the flat graph was.

    Names of nodes in functions are not those of the graph: a table in a function may be called as the saver is, whose
    value must not be computed. So it has to be an operation of the same kind that nothing goes before.
    """
    found = {op.name: op for op in loaded.graph.get_operations()}.get(own_name(name))
    if found is None or found.type not in ops or found.inputs or found.control_inputs:
        raise SavedModelError(
            f"The value of {name!r} cannot be read: it is a variable or a table within a function, or needs others. "
            "Save the model again with TensorFlow 2."
        )
    return found


def _value_of(loaded: Any, op: Any) -> Any:
    return loaded.prune([], op.outputs[0].name)()


def with_resource_variables(flat: FlatGraph, loaded: Any) -> FlatGraph:
    """Return the graph with its reference variables replaced; the same graph where there are none."""
    references = [node.name for node in flat.graph_def.node if node.op in _REFERENCE]
    if not references:
        return flat
    values = _read(loaded, flat, references)
    return read_as_variables(flat, {name: tf.Variable(values[name], name=own_name(name)) for name in references})


def read_as_variables(flat: FlatGraph, made: Mapping[str, tf.Variable]) -> FlatGraph:
    """Return a graph that reads variables in place of some of its nodes.

    Args:
        flat: The graph.
        made: The variables, by the nodes that they replace.
    """
    graph_def = tf.compat.v1.GraphDef()
    graph_def.versions.CopyFrom(flat.graph_def.versions)
    graph_def.library.CopyFrom(flat.graph_def.library)
    variables = dict(flat.variables)
    for node in flat.graph_def.node:
        if node.name in made:
            handle = f"{node.name}/tfft_handle"
            placeholder = graph_def.node.add(name=handle, op="Placeholder")
            placeholder.attr["dtype"].type = tf.resource.as_datatype_enum
            read = graph_def.node.add(name=node.name, op="ReadVariableOp", input=[handle])
            read.attr["dtype"].type = node.attr["dtype"].type
            variables[handle] = made[node.name]
        else:
            copy = graph_def.node.add()
            copy.CopyFrom(node)
            if copy.op == "RefIdentity":
                copy.op = "Identity"
    lifted = flat.lifted | {id(variable) for variable in made.values()}
    return dataclasses.replace(flat, graph_def=graph_def, variables=variables, lifted=lifted)


def own_name(node: str) -> str:
    """Return the name that a node had before its function was inlined."""
    return "/".join(part for part in node.split("/") if "PartitionedCall" not in part)


def _read(loaded: Any, flat: FlatGraph, names: list[str]) -> dict[str, Any]:
    # A function cannot return a reference, so the values are taken behind the ops that read them.
    found = {}
    for name in names:
        reads = next(n for n in flat.consumers[name] if flat.nodes[n].op in ("Identity", "RefIdentity"))
        variable = _node_of(loaded, name, _REFERENCE)
        reader = next(
            (op for op in variable.outputs[0].consumers() if op.name == own_name(reads) and not op.control_inputs), None
        )
        if reader is None or reader.type not in ("Identity", "RefIdentity"):
            raise SavedModelError(f"The variable {name!r} cannot be read: {reads!r} is not what reads it.")
        found[name] = _value_of(loaded, reader).numpy()
    return found
