"""Shapes of inputs that a SavedModel leaves open, read off the first operation that needs them: :func:`settle_shapes`.

A placeholder of TF1 often has no rank at all, and a function may take images with any number of channels although
its first kernel takes three.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import tensorflow as tf

from tfft.backbones.savedmodel.endpoint import Endpoint
from tfft.backbones.savedmodel.graph import FlatGraph, attribute, data_inputs, node_of
from tfft.backbones.savedmodel.partition import Analysis

# The last axis of what leaves these is the last axis of what enters them.
_KEEPS_WIDTH = frozenset(
    """Identity Cast StopGradient CheckNumerics EnsureShape Snapshot Sub Add AddV2 Mul RealDiv Div Maximum Minimum
    ClipByValue Neg Square Sqrt Rsqrt Tanh Relu Relu6 Sigmoid Pad PadV2 MirrorPad ResizeBilinear ResizeBicubic
    ResizeNearestNeighbor ResizeArea ExpandDims Squeeze SpaceToBatchND""".split()
)
_CONVOLUTIONS = {"Conv2D": 4, "DepthwiseConv2dNative": 4, "Conv3D": 5}
_BY_CHANNEL = frozenset({"BiasAdd", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})


def settle_shapes(endpoint: Endpoint, flat: FlatGraph) -> tuple[Endpoint, tuple[str, ...]]:
    """Fill in ranks and widths that an endpoint leaves open.

    Args:
        endpoint: Any.
        flat: Its graph.

    Returns:
        The endpoint with the shapes that its graph asks for, and a note for each that is not certain.
    """
    specs, notes = [], []
    for key, spec, placeholder in zip(endpoint.input_keys, endpoint.specs, flat.inputs, strict=True):
        found, note = _settled(spec, flat, placeholder)
        specs.append(tf.TensorSpec(found, spec.dtype, spec.name))
        notes += [f"The input {key!r} {note}"] if note else []
    if all(old.shape.rank == new.shape.rank and old == new for old, new in zip(endpoint.specs, specs, strict=True)):
        return endpoint, ()
    return dataclasses.replace(endpoint, specs=tuple(specs)), tuple(notes)


def _settled(spec: tf.TensorSpec, flat: FlatGraph, placeholder: str) -> tuple[tf.TensorShape, str]:
    if spec.shape.rank is not None and (spec.shape.rank < 2 or spec.shape[-1] is not None or spec.dtype == tf.string):
        return spec.shape, ""
    if spec.shape.rank is None and spec.dtype == tf.string:
        return tf.TensorShape([None]), "has no rank, and is taken as a batch of strings."
    # A reshape says nothing of an input that has a rank: it may well change the last axis.
    used = list(_first_uses(flat, placeholder, reshapes=spec.shape.rank is None))
    if spec.shape.rank is None:
        if used:
            shape = used[0]
            return shape, f"has no rank; the first operation that needs one takes {tuple(shape.as_list())}."
        return tf.TensorShape([None, None]), "has no rank, and is taken as a batch of rows of any length."
    widths = {shape[-1] for shape in used if shape[-1] is not None and shape.rank == spec.shape.rank}
    if len(widths) != 1:
        return spec.shape, ""
    return tf.TensorShape([*spec.shape[:-1], widths.pop()]), ""


def _first_uses(flat: FlatGraph, placeholder: str, reshapes: bool) -> Iterator[tf.TensorShape]:
    """Shapes that the first operations behind an input ask of it."""
    known = Analysis(flat, flat.outputs[0]) if len(flat.outputs) == 1 else None
    analyses = [known] if known else [Analysis(flat, output) for output in flat.outputs]
    analysis = next((a for a in analyses if placeholder in a.data), None)
    if analysis is None:
        return
    todo, seen = [(placeholder, 0)], set()
    while todo:
        name, added = todo.pop(0)
        if name in seen:
            continue
        seen.add(name)
        for consumer in flat.consumers[name]:
            node = flat.nodes[consumer]
            refs = data_inputs(node)
            if not refs or consumer not in analysis.data or node_of(refs[0]) != name:
                continue
            if node.op == "Reshape" and not reshapes:
                continue
            shape = _asked(analysis, consumer, refs, added)
            if shape is not None:
                yield shape
            elif node.op in _KEEPS_WIDTH:
                todo.append((consumer, added + {"ExpandDims": 1, "Squeeze": -1}.get(node.op, 0)))


def _asked(analysis: Analysis, name: str, refs: Sequence[str], added: int) -> tf.TensorShape | None:
    """Shape that an operation asks of its first input, less the axes added on the way; None if any will do."""
    node = analysis.flat.nodes[name]
    if len(refs) < 2:
        return None
    other = analysis.tensor(refs[1]).shape
    channels_first = attribute(node, "data_format").s.startswith(b"NC")
    if node.op == "MatMul" and not attribute(node, "transpose_a").b and other.rank == 2 and not added:
        return tf.TensorShape([None, other[1 if attribute(node, "transpose_b").b else 0]])
    if (
        node.op in ("BatchMatMulV2", "BatchMatMulV3")
        and not attribute(node, "adj_x").b
        and other.rank == 2
        and not added
    ):
        return tf.TensorShape(
            [None, other[1 if attribute(node, "adj_y").b else 0]]
        )  # what an input without a rank gets
    if node.op in _CONVOLUTIONS and not channels_first and other.rank == _CONVOLUTIONS[node.op]:
        return tf.TensorShape([None] * (other.rank - 1 - added) + [other[-2]])
    if node.op in _BY_CHANNEL and not channels_first and other.rank == 1 and node.op != "BiasAdd" and not added:
        return tf.TensorShape([None, None, None, other[0]])
    if node.op == "Reshape" and not added:
        target = tf.get_static_value(analysis.tensor(refs[1]))
        if target is not None and len(target) > 1 and target[0] == -1 and all(n > 0 for n in target[1:]):
            return tf.TensorShape([None, *target[1:].tolist()])  # itself, where it has that shape already
    return None
