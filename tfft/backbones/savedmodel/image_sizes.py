"""SavedModels of images of one size, opened for images of another: :func:`free_size`.

Hides how such a graph is made to take images of any size. A convolution knows nothing of the size of its input: the
number is an attribute of the trace only, so it is freed, and the result is checked on images of the asked size.
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
from tfft.errors import BackboneError, join_names, reason_of

# Operations on feature maps that do the same at every size. All others may hold a number of the traced size.
_ANY_SIZE = frozenset({
    "Conv2D", "DepthwiseConv2dNative", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "BiasAdd", "MaxPool",
    "AvgPool", "Pad", "PadV2", "MirrorPad", "Identity", "IdentityN", "Cast", "ConcatV2", "Add", "AddV2", "AddN", "Sub",
    "Mul", "RealDiv", "Maximum", "Minimum", "SquaredDifference", "Square", "Sqrt", "Rsqrt", "Neg", "Exp", "Erf", "Pow",
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid", "Tanh", "Softplus", "Softsign", "StopGradient",
})  # fmt: skip
_POOLED = frozenset({"Mean", "Max", "Shape"})  # behind these there is one value for each map, or its shape


def free_size(
    endpoint: Endpoint, flat_of: Callable[[Endpoint], FlatGraph], size: tuple[int, int]
) -> tuple[Endpoint, FlatGraph]:
    """Return an endpoint of images of one size with images of any size, and its graph.

    Args:
        endpoint: Endpoint whose only input is a batch of images of a fixed size, [B, H, W, C].
        flat_of: Makes the graph of an endpoint.
        size: Height and width in pixels on which it is tried.

    Raises:
        BackboneError: The graph is not convolutions only; with the operations that depend on the size.
    """
    inner = endpoint.specs[0]
    specs = (tf.TensorSpec([inner.shape[0], None, None, inner.shape[3]], inner.dtype, inner.name),)
    free = FreeSize(**{**fields_of(endpoint), "specs": specs}, inner=endpoint)
    flat = flat_of(free)
    bound = [f"{name} ({flat.nodes[name].op})" for name in _depends_on_size(flat)]
    why = f"these operations may depend on the size: {join_names(bound, limit=3)}" if bound else ""
    why = why or _fault(flat, specs, size)
    if why:
        raise BackboneError(
            f"The SavedModel takes images of {inner.shape[1]} x {inner.shape[2]} pixels only. Received: "
            f"image_size={size!r}, and its graph cannot be used at another size: {why}. Leave image_size= out: images "
            "of any size are resized to what it takes."
        )
    return free, flat


def has_fixed_size(endpoint: Endpoint, size: tuple[int, int]) -> bool:
    """Whether an endpoint takes a batch of images of one size only, and that is not the given one."""
    shape = endpoint.specs[0].shape
    return len(endpoint.specs) == 1 and shape.rank == 4 and None not in shape[1:3] and tuple(shape[1:3]) != size


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FreeSize(Endpoint):
    """An endpoint of images of one size, freed.

    Attributes:
        inner: The endpoint itself.
    """

    inner: Endpoint

    @property
    def checked_specs(self) -> tuple[tf.TensorSpec, ...]:
        """Images of the size that the SavedModel itself takes."""
        return self.inner.specs

    def call(self, tensors: Sequence[tf.Tensor], training: bool = False) -> Any:
        """Call the SavedModel itself, which takes one size."""
        return self.inner.call(tensors, training)

    def flat(self, variables: Sequence[tf.Variable], training: bool = False) -> FlatGraph:
        """Traces the SavedModel's own function and frees the size in its graph."""
        return _freed(self.inner.flat(variables, training))


def _freed(flat: FlatGraph) -> FlatGraph:
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(flat.graph_def)
    for node in graph_def.node:
        if node.name in flat.inputs:
            for axis in (1, 2):
                node.attr["shape"].shape.dim[axis].size = -1
        if "_output_shapes" in node.attr:
            del node.attr["_output_shapes"]

    def free(leaf: Any) -> Any:
        maps = isinstance(leaf, (tf.Tensor, tf.TensorSpec)) and leaf.shape.rank == 4
        return tf.TensorSpec([leaf.shape[0], None, None, leaf.shape[3]], leaf.dtype) if maps else leaf

    return dataclasses.replace(flat, graph_def=graph_def, structure=tf.nest.map_structure(free, flat.structure))


def _depends_on_size(flat: FlatGraph) -> list[str]:
    """Names of operations on feature maps that may depend on the size."""
    seen, found = set(flat.inputs), []
    for node in flat.graph_def.node:
        if node.name in seen or not any(node_of(ref) in seen for ref in data_inputs(node)):
            continue
        if node.op in _ANY_SIZE:
            seen.add(node.name)
        elif node.op not in _POOLED:
            found.append(node.name)
    return found


def _fault(flat: FlatGraph, specs: Sequence[tf.TensorSpec], size: tuple[int, int]) -> str:
    """Why a graph gives no result of its own for each image of a size; empty if it does."""
    [spec] = parity.sample_batch([tf.TensorSpec([3, *size, specs[0].shape[3]], specs[0].dtype)])
    try:
        together = run_graph(flat, flat.outputs, [spec])
        alone = run_graph(flat, flat.outputs, [spec[1:2]])
    except (ValueError, TypeError, tf.errors.OpError) as error:
        return reason_of(error)
    for many, one in zip(together, alone, strict=True):
        if many.shape.rank == 0 or many.shape[0] != 3 or not np.allclose(many[1:2], one, atol=1e-3):
            return "its result for an image depends on the other images of the batch"
    return ""
