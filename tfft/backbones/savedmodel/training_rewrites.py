"""The same function in operations whose gradients are quicker to compute: :func:`rewrite_for_training`.

Two rewrites, which change rounding only:

* A BatchNorm with fixed statistics behind a convolution becomes part of its kernel and bias, ``w * s`` and
  ``beta - mean * s`` with ``s = gamma / sqrt(variance + epsilon)``, inside the graph: gradients reach the kernel, gamma
  and beta by the chain rule over small tensors, instead of passes over the activations. (Jacob et al., "Quantization
  and training of neural networks for efficient integer-arithmetic-only inference", 2018, fold for another purpose.)
* A 1x1 convolution of stride 1 becomes a matrix product, and so do its two gradients, which TensorFlow computes more
  slowly as gradients of a convolution on a CPU.

Statistics that move in training keep their operation.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel.block_graph import BlockGraph
from tfft.layers.fast_gradients import LARGE_KERNEL

_CONVOLUTIONS = {"Conv2D", "DepthwiseConv2dNative"}
_NORMS = {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"}
_ELEMENTWISE = {"AddV2", "Add", "Sub", "Mul", "RealDiv", "Rsqrt", "Sqrt", "ReadVariableOp", "Identity"}


def rewrite_for_training(graph: BlockGraph, variable_shapes: Sequence[tuple[int, ...]]) -> BlockGraph:
    """Return a graph that computes the same with quicker gradients on a CPU.

    Args:
        graph: Graph of a block.
        variable_shapes: Shapes of the block's variables, in order.

    Returns:
        A new graph with the same inputs, variables and result; ``graph`` itself if nothing can be rewritten.
    """
    rewriting = _Rewriting(graph, variable_shapes)
    for node in graph.graph_def.node:
        if node.op in _NORMS:
            rewriting.fold(node)
        elif node.op == "Mul":
            rewriting.fold_product(node)
    for node in graph.graph_def.node:
        if node.op == "Conv2D":
            rewriting.multiply(node)
    return rewriting.result()


class _Rewriting:
    """Nodes of a graph by name, and who reads them."""

    def __init__(self, graph: BlockGraph, variable_shapes: Sequence[tuple[int, ...]]) -> None:
        self._graph, self._variable_shapes = graph, variable_shapes
        self._nodes = {node.name: node for node in graph.graph_def.node}
        self._changed: dict[str, list[Any]] = {}
        self._shapes = _kernel_shapes(graph, variable_shapes)
        self._readers: dict[str, list[str]] = collections.defaultdict(list)
        for node in graph.graph_def.node:
            for reference in node.input:
                self._readers[reference.lstrip("^").split(":")[0]].append(reference)
        for reference in (graph.end, *graph.updates):
            self._readers[reference.lstrip("^").split(":")[0]].append(reference)

    def fold(self, norm: Any) -> None:
        """Move a BatchNorm with fixed statistics into the kernel and bias of the convolution in front of it."""
        if norm.attr["is_training"].b or norm.attr["data_format"].s not in (b"NHWC", b""):
            return
        if any(":" in reference or reference.startswith("^") for reference in self._readers[norm.name]):
            return  # somebody reads its statistics
        before, bias = self._linear_before(norm.input[0])
        if before is None:
            return
        name = f"{norm.name}/folded"
        mean, scale = norm.input[3], f"{name}/scale"
        made = [
            _constant(f"{name}/epsilon", np.float32(norm.attr["epsilon"].f)),
            _node(f"{name}/variance", "AddV2", [norm.input[4], f"{name}/epsilon"]),
            _node(f"{name}/rsqrt", "Rsqrt", [f"{name}/variance"]),
            _node(scale, "Mul", [f"{name}/rsqrt", norm.input[1]]),
        ]
        if bias is not None:
            made.append(_node(f"{name}/mean", "Sub", [mean, bias.input[1]]))
            mean = f"{name}/mean"
            self._changed[bias.name] = []
        made += [
            _node(f"{name}/moved", "Mul", [mean, scale]),
            _node(f"{name}/shift", "Sub", [norm.input[2], f"{name}/moved"]),
        ]
        self._scale_kernel(before, scale, name, made)
        self._changed[norm.name] = [_bias_add(norm.name, before.name, f"{name}/shift")]

    def fold_product(self, product: Any) -> None:
        """Move a multiplication by one number for each channel into the kernel and bias in front of it.

        Keras 3 writes a BatchNorm with fixed statistics as a product and a sum.
        """
        if product.attr["T"].type != tf.float32.as_datatype_enum or len(product.input) != 2:  # more wait for others
            return
        for value, scale in (product.input, reversed(product.input)):
            before, bias = self._linear_before(value)
            if before is None or not self._is_channel_vector(scale):
                continue
            name = f"{product.name}/folded"
            self._scale_kernel(before, scale, name, [])
            if bias is None:
                self._changed[product.name] = [_node(product.name, "Identity", [before.name])]
            else:
                moved = _node(f"{name}/bias", "Mul", [bias.input[1], scale])
                self._changed[product.name] = [moved, _bias_add(product.name, before.name, moved.name)]
                self._changed[bias.name] = []
            return

    def _linear_before(self, reference: str) -> tuple[Any, Any]:
        """Return the convolution that gives a tensor, and its bias node or None; (None, None) for anything else."""
        before, bias = self._only_reader(reference), None
        if before is not None and before.op == "BiasAdd":
            bias, before = before, self._only_reader(before.input[0])
        if before is None or before.op not in _CONVOLUTIONS or not self._is_plain(before):
            return None, None
        return (None, None) if before.name in self._changed else (before, bias)

    def _scale_kernel(self, convolution: Any, scale: str, name: str, made: list[Any]) -> None:
        kernel = self._shapes[convolution.name]
        if convolution.op == "DepthwiseConv2dNative":  # channel c * multiplier + m of [height, width, c, m]
            made.append(_constant(f"{name}/channels", np.array(kernel[2:], np.int32)))
            made.append(_reshape(f"{name}/by_channel", scale, f"{name}/channels"))
            scale = f"{name}/by_channel"
        made.append(_node(f"{name}/kernel", "Mul", [convolution.input[1], scale]))
        changed = _copied(convolution)
        changed.input[1] = f"{name}/kernel"
        self._changed[convolution.name] = [*made, changed]

    def _is_channel_vector(self, reference: str) -> bool:
        """Whether a tensor is made of vectors of variables and constants alone, such as gamma / sqrt(variance)."""
        waiting, vectors = [reference], 0
        while waiting:
            name = waiting.pop().split(":")[0]
            node = self._nodes.get(name)
            if node is None or name.startswith("^"):
                return False
            if node.op == "Const":
                rank = len(node.attr["value"].tensor.tensor_shape.dim)
            elif name in self._graph.variables:
                rank = len(self._variable_shapes[self._graph.variables[name]])
            elif node.op in _ELEMENTWISE:
                waiting += node.input
                continue
            else:
                return False
            vectors += rank == 1
            if rank > 1:
                return False
        return vectors > 0

    def multiply(self, convolution: Any) -> None:
        """Make a matrix product of a 1x1 convolution with a large kernel; small ones gain nothing."""
        if not self._is_plain(convolution):
            return
        *sides, channels, filters = self._shapes[convolution.name]
        steps = (*convolution.attr["strides"].list.i, *convolution.attr["dilations"].list.i)
        if (*sides, *steps) != (1,) * (2 + len(steps)) or channels * filters < LARGE_KERNEL:
            return
        if convolution.attr["padding"].s not in (b"SAME", b"VALID"):
            return
        *made, current = self._changed.get(convolution.name, [convolution])
        name = f"{convolution.name}/product"
        product = _node(convolution.name, "Einsum", [current.input[0], f"{name}/kernel"])
        product.attr["equation"].s, product.attr["N"].i = b"bhwc,cf->bhwf", 2
        self._changed[convolution.name] = [
            *made,
            _constant(f"{name}/shape", np.array([channels, filters], np.int32)),
            _reshape(f"{name}/kernel", current.input[1], f"{name}/shape"),
            product,
        ]

    def result(self) -> BlockGraph:
        """Return the graph with the changed nodes."""
        if not self._changed:
            return self._graph
        changed = tf.compat.v1.GraphDef()
        changed.CopyFrom(self._graph.graph_def)
        del changed.node[:]
        for node in self._graph.graph_def.node:
            changed.node.extend(self._changed.get(node.name, [node]))
        return dataclasses.replace(self._graph, graph_def=changed)

    def _only_reader(self, reference: str) -> Any | None:
        """Return the node of a result with a single reader."""
        return self._nodes.get(reference) if len(self._readers[reference.split(":")[0]]) == 1 else None

    def _is_plain(self, convolution: Any) -> bool:
        """Whether a convolution has channels last, 32-bit numbers, and a kernel of known shape."""
        return (
            convolution.attr["data_format"].s in (b"NHWC", b"")
            and convolution.attr["T"].type == tf.float32.as_datatype_enum
            and self._shapes.get(convolution.name) is not None
        )


def _kernel_shapes(graph: BlockGraph, variable_shapes: Sequence[tuple[int, ...]]) -> Mapping[str, tuple[int, ...]]:
    """Return the shapes of the kernels, by name of the convolution, as far as they are known."""
    nodes, found = {node.name: node for node in graph.graph_def.node}, {}
    for node in graph.graph_def.node:
        if node.op not in _CONVOLUTIONS:
            continue
        kernel = nodes.get(node.input[1].split(":")[0])
        while kernel is not None and kernel.op in {"ReadVariableOp", "Identity"}:
            kernel = nodes.get(kernel.input[0].split(":")[0])
        if kernel is not None and kernel.name in graph.variables:
            found[node.name] = tuple(variable_shapes[graph.variables[kernel.name]])
        elif kernel is not None and kernel.op == "Const":
            found[node.name] = tuple(dim.size for dim in kernel.attr["value"].tensor.tensor_shape.dim)
    return found


def _node(name: str, op: str, inputs: Sequence[str]) -> Any:
    """Return a node of 32-bit numbers."""
    node = tf.compat.v1.NodeDef(name=name, op=op, input=inputs)
    node.attr["T"].type = tf.float32.as_datatype_enum
    return node


def _bias_add(name: str, value: str, bias: str) -> Any:
    node = _node(name, "BiasAdd", [value, bias])
    node.attr["data_format"].s = b"NHWC"
    return node


def _reshape(name: str, value: str, shape: str) -> Any:
    node = _node(name, "Reshape", [value, shape])
    node.attr["Tshape"].type = tf.int32.as_datatype_enum
    return node


def _constant(name: str, value: Any) -> Any:
    node = tf.compat.v1.NodeDef(name=name, op="Const")
    node.attr["dtype"].type = tf.as_dtype(np.asarray(value).dtype).as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return node


def _copied(node: Any) -> Any:
    copy = tf.compat.v1.NodeDef()
    copy.CopyFrom(node)
    return copy
