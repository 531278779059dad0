"""Runs parts of a flat graph on tensors, with the SavedModel's own variables: :func:`run_graph`."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph, tensor_name
from tfft.backbones.savedmodel.partition import Piece, piece_graph


def run_graph(flat: FlatGraph, refs: Sequence[str], tensors: Sequence[tf.Tensor] = ()) -> list[tf.Tensor]:
    """Compute tensors of a graph; gradients reach its variables.

    Args:
        flat: The graph.
        refs: References of the tensors.
        tensors: Values of the graph's inputs, in order; may be left out where the references do not depend on them.

    Returns:
        One tensor for each reference.
    """
    graph_def = piece_graph(flat, Piece("", None, refs[0], (), (), tuple(refs[1:])), "")
    present = {node.name for node in graph_def.node}

    def run(*entering: tf.Tensor) -> list[tf.Tensor]:
        target = tf.compat.v1.get_default_graph()
        feeds = dict(zip(flat.inputs, entering, strict=False))
        for name, variable in flat.variables.items():
            target.watch_variable(variable)
            feeds[name] = target.capture(variable.handle)
        feeds |= {name: target.capture(handle) for name, handle in flat.tables.items()}
        input_map = {f"{name}:0": tensor for name, tensor in feeds.items() if name in present}
        names = [tensor_name(ref) for ref in refs]
        return tf.graph_util.import_graph_def(graph_def, input_map=input_map, return_elements=names, name="")

    specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]
    if not graph_def.library.function:  # a concrete function, since tf.function warns of being traced for each model
        return list(tf.function(run, autograph=False).get_concrete_function(*specs)(*tensors))
    return list(tf.compat.v1.wrap_function(run, specs)(*tensors))  # bodies of loops are found this way only
