"""SavedModels that take a fixed number of rows, usually one: :func:`free_batch`, :func:`rows_are_examples`.

Hides how such a graph is made to take a batch of any size. Most have a fixed size only because they were saved so: the
shape of the input and the targets of reshapes are then freed, and the result is compared with the SavedModel's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel import parity
from tfft.backbones.savedmodel.endpoint import Endpoint, fields_of
from tfft.backbones.savedmodel.graph import FlatGraph, data_inputs, node_of
from tfft.backbones.savedmodel.running import run_graph


def fixed_rows(specs: Sequence[tf.TensorSpec]) -> int | None:
    """Return how many rows every input takes; None where one takes any number, or they differ."""
    rows = {spec.shape[0] if spec.shape.rank else None for spec in specs}
    return rows.pop() if len(rows) == 1 else None


def free_batch(endpoint: Endpoint, flat_of: Callable[[Endpoint], FlatGraph]) -> Endpoint | None:
    """Return the endpoint with a batch of any size; None where its graph computes something else then.

    Args:
        endpoint: Endpoint whose inputs all take the same fixed number of rows.
        flat_of: Makes the graph of an endpoint.
    """
    rows = int(endpoint.specs[0].shape[0])
    specs = tuple(tf.TensorSpec([None, *s.shape[1:]], s.dtype, s.name) for s in endpoint.specs)
    free = FreeBatch(**{**fields_of(endpoint), "specs": specs}, inner=endpoint, rows=rows)
    sample = parity.sample_batch([tf.TensorSpec([2 * rows, *s.shape[1:]], s.dtype) for s in specs])
    try:
        flat = flat_of(free)
        found = run_graph(flat, flat.outputs, sample)
        wanted = _results(free, sample)
    except (ValueError, TypeError, tf.errors.OpError):  # TensorFlow's for shapes that do not fit
        return None
    return free if all(map(_agree, found, wanted)) else None


def rows_are_examples(endpoint: Endpoint) -> bool:
    """Return whether each row of an endpoint with a fixed number of rows is an example of its own.

    The result for a row must be the same at every place and beside any other rows. An image without a batch axis, or
    the steps of one series, are not.
    """
    batch = parity.sample_batch(endpoint.specs)
    rows = int(batch[0].shape[0])
    places = list(range(rows))
    try:
        results = _results(endpoint, batch)
        if not results or any(not t.shape.rank or t.shape[0] != rows for t in results):
            return False
        for order in ([*places[1:], 0], [0] * rows, [rows - 1] * rows):
            moved = _results(endpoint, [tf.gather(t, order) for t in batch])
            if not all(_agree(ours, tf.gather(t, order)) for ours, t in zip(moved, results, strict=True)):
                return False
    except (ValueError, TypeError, tf.errors.OpError):  # TensorFlow's for values that it does not take
        return False
    return True


def _results(endpoint: Endpoint, batch: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    return [t for t in tf.nest.flatten(endpoint.call(batch), expand_composites=True) if t is not None]


def _agree(ours: tf.Tensor, reference: tf.Tensor) -> bool:
    if ours.shape != reference.shape:
        return False
    if not ours.dtype.is_floating:
        return bool(np.array_equal(ours, reference))
    difference, limit = parity.largest_difference(ours, reference)
    return difference <= limit


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FreeBatch(Endpoint):
    """An endpoint with a fixed number of rows, freed.

    Attributes:
        inner: The endpoint itself.
        rows: How many rows it takes at a time.
    """

    inner: Endpoint
    rows: int

    def call(self, tensors: Sequence[tf.Tensor], training: bool = False) -> Any:
        """Call the SavedModel as often as the rows of a batch need, and put the results together."""
        count = int(tensors[0].shape[0])
        filled = [tf.gather(t, np.arange(-(-count // self.rows) * self.rows) % count) for t in tensors]
        starts = range(0, int(filled[0].shape[0]), self.rows)
        parts = [self.inner.call([t[i : i + self.rows] for t in filled], training) for i in starts]
        return tf.nest.map_structure(lambda *r: tf.concat(r, 0)[:count] if r[0].shape.rank else r[0], *parts)

    def flat(self, variables: Sequence[tf.Variable], training: bool = False) -> FlatGraph:
        """Traces the SavedModel's own function and frees the first axis of its graph."""
        return _freed(self.inner.flat(variables, training), self.rows)


def _freed(flat: FlatGraph, rows: int) -> FlatGraph:
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(flat.graph_def)
    nodes = {node.name: node for node in graph_def.node}
    for name in flat.inputs:
        nodes[name].attr["shape"].shape.dim[0].size = -1
    for node in graph_def.node:
        if "_output_shapes" in node.attr:
            del node.attr["_output_shapes"]
    for node in [n for n in graph_def.node if n.op == "Reshape"]:
        target = nodes[node_of(data_inputs(node)[1])]
        alone = all(flat.nodes[user].op == "Reshape" for user in flat.consumers[target.name])
        if target.op == "Const" and alone:
            _free_target(target, rows)

    def free(leaf: Any) -> Any:
        if not isinstance(leaf, (tf.Tensor, tf.TensorSpec)) or not leaf.shape.rank or leaf.shape[0] != rows:
            return leaf
        return tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype)

    return dataclasses.replace(flat, graph_def=graph_def, structure=tf.nest.map_structure(free, flat.structure))


def _free_target(node: Any, rows: int) -> None:
    """Leave the first axis of a reshape's target to the number of elements, where it is the batch's."""
    value = tf.make_ndarray(node.attr["value"].tensor)
    if value.ndim == 1 and len(value) and value[0] == rows and not (value < 0).any():
        value[0] = -1
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, dtype=value.dtype, shape=value.shape))
