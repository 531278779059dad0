"""Feature maps whose channels come first, turned to channels-last: :func:`turned`.

All that reads feature maps (pooling, heat maps, pyramids) takes the last axis for the channels. Networks that were
converted from other frameworks give them first.
"""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph, attribute, data_inputs, node_of
from tfft.backbones.savedmodel.partition import Analysis

_BY_LAYOUT = frozenset(  # their channels are where ``data_format`` says
    {"Conv2D", "Conv2DBackpropInput", "DepthwiseConv2dNative", "MaxPool", "AvgPool", "BiasAdd"}
    | {"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "DepthToSpace", "SpaceToDepth"}
    | {"ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic"}  # without one: always channels-last
)
_SAME_AXES = frozenset(
    {"Identity", "StopGradient", "Cast", "CheckNumerics", "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Sigmoid"}
    | {"Tanh", "Softplus", "Softsign", "Erf", "Exp", "Neg", "Square", "Sqrt", "Rsqrt", "Maximum", "Minimum"}
    | {"Add", "AddV2", "AddN", "Sub", "Mul", "RealDiv", "ConcatV2", "Pad", "PadV2", "MirrorPad", "StridedSlice"}
    | {"Slice", "ClipByValue", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxArgs"}
)
TURN = (0, 2, 3, 1)  # axes of channels-first, in the order of channels-last


def channels_come_first(analysis: Analysis) -> bool:
    """Whether a graph's output are feature maps with the channels in front of rows and columns."""
    return _channel_axis(analysis, analysis.output) == 1


def turned(analysis: Analysis) -> Analysis:
    """Return the analysis of a graph whose output is turned from channels-first to channels-last."""
    flat, ref = analysis.flat, analysis.output
    graph_def = tf.compat.v1.GraphDef()
    graph_def.CopyFrom(flat.graph_def)
    name = f"{node_of(ref)}/channels_last"
    while name in flat.nodes or f"{name}/perm" in flat.nodes:
        name += "_"
    order = graph_def.node.add(name=f"{name}/perm", op="Const")
    order.attr["dtype"].type = tf.int32.as_datatype_enum
    order.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(TURN, tf.int32))
    turn = graph_def.node.add(name=name, op="Transpose", input=[ref, order.name])
    turn.attr["T"].type = analysis.tensor(ref).dtype.as_datatype_enum
    turn.attr["Tperm"].type = tf.int32.as_datatype_enum
    return Analysis(dataclasses.replace(flat, graph_def=graph_def), name)


def _channel_axis(analysis: Analysis, ref: str) -> int | None:
    """Axis of the channels of a feature map, by the last operation that names one; None where none does."""
    axes = [0, 1, 2, 3]  # of the tensor that is looked at, for each axis of the feature map
    flat: FlatGraph = analysis.flat
    while analysis.tensor(ref).shape.rank == len(axes):
        node = flat.nodes[node_of(ref)]
        if node.op in _BY_LAYOUT:
            return axes.index(1 if attribute(node, "data_format").s.startswith(b"NC") else 3)
        reads = [r for r in data_inputs(node) if analysis.data[node_of(r)]]
        if node.op == "Transpose":
            order = tf.get_static_value(analysis.tensor(data_inputs(node)[1]))
            if order is None:
                return None
            axes = [int(order[axis]) for axis in axes]
        elif node.op not in _SAME_AXES:
            return None
        if not reads:
            return None
        ref = max(reads, key=lambda r: analysis.tensor(r).shape.rank or 0)
    return None
