"""Which tensor of a graph is the features: an output, what goes into the classifier at its end, or a block's end."""

from __future__ import annotations

import dataclasses
from typing import Any

from tfft.backbones.savedmodel.graph import data_inputs, node_of
from tfft.backbones.savedmodel.partition import Analysis, variable_paths

PROBABILITIES = "probabilities"  # value of output= for what a classifier gives in the end
_ACTIVATIONS = {"Softmax": "Softmax", "LogSoftmax": "LogSoftmax", "Sigmoid": "Sigmoid"}
_SAME = frozenset({"Identity", "StopGradient", "Reshape", "Squeeze", "ExpandDims", "Cast", "CheckNumerics"})
_RANKED = _SAME | {"TopKV2"}  # the best scores in their order, as an Estimator gives them
_SHIFTS = frozenset({"BiasAdd", "Add", "AddV2", "Sub", "Mul", "RealDiv"})
_MANY = 5  # numbers that a dense layer gives at least where it is taken for a classifier without a Softmax
_PRODUCTS = frozenset({"MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Conv2D"})
_TRANSPOSED = "Conv2DBackpropInput"  # reads the shape of its result, its kernel and the data, in this order


@dataclasses.dataclass(frozen=True)
class Classifier:
    """The last layer of a classifier.

    Attributes:
        features: Reference of the tensor that goes into it.
        activation: ``"Softmax"``, ``"LogSoftmax"``, ``"Sigmoid"`` or ``"ArgMax"``.
        kernel: Name of its kernel.
        learned: Whether the features depend on any variable; False for a linear model of the raw inputs.
    """

    features: str
    activation: str
    kernel: str
    learned: bool


def find_classifier(analysis: Analysis) -> Classifier | None:
    """Return the classifier that a graph's output ends in; None where it ends in something else.

    That is a matrix product, or a convolution over single positions, with a kernel of its own, then a bias, then
    Softmax or Sigmoid; reshaping between them does not matter. A model that gives integers, such as the number of
    a class or of an action, ends in the ArgMax behind such a layer, or behind any convolution: what goes into that is
    the last tensor that can be features.
    """
    flat = analysis.flat
    restored = False
    if analysis.tensor(analysis.output).dtype.is_floating:
        ref, restored = _back(analysis, analysis.output, _RANKED)
        activation, ref = _activation(analysis, ref)
    else:
        activation, ref = _choice(analysis)
    if not activation:
        return None
    ref, reshaped = _back(analysis, ref, _SAME | _SHIFTS)
    node = flat.nodes[node_of(ref)]
    chosen = activation == "ArgMax"
    if node.op not in (_PRODUCTS | {_TRANSPOSED} if chosen else _PRODUCTS):
        return None
    reads = data_inputs(node)[1:] if node.op == _TRANSPOSED else data_inputs(node)[:2]
    data, *others = [r for r in reads if analysis.data[node_of(r)]] or [""]
    kernels = analysis.own[node.name]
    if not data or others or not kernels:
        return None
    if node.op == "Conv2D" and not chosen and not _covers_one_position(analysis, node, data):
        return None
    # A dense layer over several positions is flattened before and restored after, also behind the activation.
    if (reshaped or restored) and node.op == "MatMul":
        data, _ = _back(analysis, data, frozenset({"Reshape", "Transpose"}))
    kernel = min(variable_paths(flat)[placeholder] for placeholder in kernels)
    tensor = analysis.tensor(data)
    learned = analysis.tainted[node_of(data)] and tensor.dtype.is_floating and bool(tensor.shape.rank)
    return Classifier(data, activation, kernel, learned)


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores that a classifier gives its classes.

    Attributes:
        ref: Reference of the tensor; empty where there is none.
        activation: What follows: ``"Softmax"``, ``"LogSoftmax"``, ``"Sigmoid"``, or nothing: the model gives scores.
    """

    ref: str = ""
    activation: str = ""


def scores_of(analysis: Analysis) -> Scores:
    """Return the scores that a graph's output is made of, one row for each image.

    A dense layer of five and more numbers at the end counts as a classifier that leaves the Softmax to its users; with
    fewer, it may be a box or the angle of a wheel.
    """
    if not analysis.tensor(analysis.output).dtype.is_floating:
        return Scores()
    ref, _ = _back(analysis, analysis.output, _RANKED)
    activation, ref = _activation(analysis, ref)
    shape = analysis.tensor(ref).shape
    if shape.rank != 2:
        return Scores()
    if activation:
        return Scores(ref, activation) if find_classifier(analysis) is not None else Scores()
    end, _ = _back(analysis, ref, _SAME | frozenset({"BiasAdd", "Add", "AddV2"}))
    node = analysis.flat.nodes[node_of(end)]
    is_layer = node.op == "MatMul" and bool(analysis.own[node.name])
    return Scores(ref) if is_layer and (shape[1] or 0) >= _MANY else Scores()


def last_product(analysis: Analysis) -> str:
    """Return the node that a graph's output ends in, before activation and bias."""
    ref, _ = _back(analysis, analysis.output, _RANKED)
    _, ref = _activation(analysis, ref)
    return node_of(_back(analysis, ref, _SAME | _SHIFTS)[0])


def _back(analysis: Analysis, ref: str, through: frozenset[str]) -> tuple[str, bool]:
    """Follow a tensor back through operations with one data input; also returns whether one of them reshaped it."""
    reshaped = False
    while True:
        node = analysis.flat.nodes[node_of(ref)]
        data = [r for r in data_inputs(node) if analysis.data[node_of(r)]]
        # What a reshape takes its target from depends on the data as well; its tensor comes first.
        if node.op not in through or not data or (len(data) > 1 and node.op in _SHIFTS):
            return ref, reshaped
        reshaped |= node.op == "Reshape"
        ref = data[0]


def _activation(analysis: Analysis, ref: str) -> tuple[str, str]:
    """The activation that makes a tensor, and what goes into it."""
    node: Any = analysis.flat.nodes[node_of(ref)]
    inputs = data_inputs(node)
    if node.op in _ACTIVATIONS:
        return _ACTIVATIONS[node.op], inputs[0]
    exponential = analysis.flat.nodes[node_of(inputs[0])] if node.op == "RealDiv" else None
    if exponential is None or exponential.op != "Exp" or not analysis.data[node_of(inputs[1])]:
        return "", ref
    shifted = analysis.flat.nodes[node_of(data_inputs(exponential)[0])]  # exp(x - max) / sum, as Keras 2 writes it
    inside = data_inputs(shifted)[0] if shifted.op == "Sub" else data_inputs(exponential)[0]
    return "Softmax", inside


def _choice(analysis: Analysis) -> tuple[str, str]:
    """The nearest ArgMax that a tensor of integers comes from, and the scores that go into it."""
    todo: list[str] = [analysis.output]
    seen: set[str] = set()
    for ref in todo:  # grows: from the output back to the inputs, one step at a time
        node = analysis.flat.nodes[node_of(ref)]
        inputs = [r for r in data_inputs(node) if analysis.data[node_of(r)]]
        if node.op == "ArgMax" and inputs:
            scores, _ = _back(analysis, inputs[0], _SAME | _SHIFTS | {"Sum"})  # a mean over a distribution of values
            return "ArgMax", _activation(analysis, scores)[1]
        todo += [r for r in inputs if r not in seen]
        seen.update(inputs)
    return "", analysis.output


def _covers_one_position(analysis: Analysis, node: Any, data: str) -> bool:
    kernel, entering = analysis.tensor(data_inputs(node)[1]).shape, analysis.tensor(data).shape
    if kernel.rank != 4:
        return False
    sides = entering[1:3].as_list() if entering.rank == 4 else []
    return kernel[:2].as_list() in ([1, 1], sides)
