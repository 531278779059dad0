"""Weights that a graph holds as constants: :func:`find_kernels` and :func:`with_trainable_kernels`.

A constant counts as a weight by what reads it: a matrix product, a convolution, a bias or a normalization. The means
and scales of an input pipeline are in front of the first product, and stay what they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph, data_inputs, node_of
from tfft.backbones.savedmodel.partition import PRODUCTS
from tfft.backbones.savedmodel.tf1 import own_name, read_as_variables

# What reads weights, and at which inputs.
_READERS = {
    **dict.fromkeys(("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"), (0, 1)),
    **dict.fromkeys(("Conv2D", "Conv3D", "DepthwiseConv2dNative", "BiasAdd"), (1,)),
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), (1,)),
    **dict.fromkeys(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"), (1, 2)),
    **dict.fromkeys(("Gather", "GatherV2"), (0,)),
}
_ELEMENTWISE = frozenset({"Add", "AddV2", "Sub", "Mul"})  # biases and folded normalizations, behind a product


def find_kernels(flat: FlatGraph) -> dict[str, int]:
    """Return the constants of a graph that are weights, with the number of their values, in order of use."""
    needed = flat.ancestors(flat.outputs)
    behind: set[str] = set()  # nodes that depend on a product
    found: dict[str, int] = {}
    for node in flat.graph_def.node:
        if node.name not in needed:
            continue
        reads = [node_of(ref) for ref in data_inputs(node)]
        if node.op in PRODUCTS or not behind.isdisjoint(reads):
            behind.add(node.name)
        for position in _positions(node, reads, behind):
            constant = _constant(flat, reads[position])
            if constant is not None:
                found[constant.name] = _size(constant)
    return found


def with_trainable_kernels(flat: FlatGraph) -> FlatGraph:
    """Return the graph with a trainable variable in place of each constant that is a weight."""
    kernels = find_kernels(flat)
    return read_as_variables(
        flat,
        {
            name: tf.Variable(tf.make_ndarray(flat.nodes[name].attr["value"].tensor), name=own_name(name))
            for name in kernels
        },
    )


def _positions(node: Any, reads: list[str], behind: set[str]) -> Iterator[int]:
    if node.op in _READERS:
        yield from (i for i in _READERS[node.op] if i < len(reads))
    elif node.op in _ELEMENTWISE and len(reads) == 2:
        yield from (i for i in (0, 1) if reads[1 - i] in behind and reads[i] not in behind)


def _constant(flat: FlatGraph, name: str) -> Any | None:
    node = flat.behind_identities(name)
    if node.op != "Const" or not tf.as_dtype(node.attr["dtype"].type).is_floating:
        return None
    return node if _size(node) > 1 and node.attr["value"].tensor.tensor_shape.dim else None


def _size(node: Any) -> int:
    return math.prod(d.size for d in node.attr["value"].tensor.tensor_shape.dim)
