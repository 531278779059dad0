"""What a graph does to the values of its input before the first layer: :func:`find_scaling`.

Follows the input through arithmetic with constants, resizing, padding and shuffling of channels up to the first
convolution or matrix product, and keeps for each channel the factor and the offset that it has got by then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel.graph import attribute, data_inputs, node_of, split_ref
from tfft.backbones.savedmodel.partition import Analysis
from tfft.backbones.savedmodel.running import run_graph

LAYERS = frozenset("Conv2D DepthwiseConv2dNative Conv3D MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum".split())
_BATCH_NORM = frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"})
_SAME = frozenset(
    """Identity StopGradient PreventGradient CheckNumerics Snapshot EnsureShape ResizeBilinear ResizeBicubic
    ResizeNearestNeighbor ResizeArea ScaleAndTranslate CropAndResize ImageProjectiveTransformV2
    ImageProjectiveTransformV3 Pad PadV2 MirrorPad Reshape Squeeze ExpandDims Slice ClipByValue Maximum Minimum
    AvgPool MaxPool SpaceToBatchND Round Rint Floor FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars
    FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4""".split()
)
_REDUCTIONS = frozenset({"Mean", "Sum", "Max", "Min", "Prod", "Square", "SquaredDifference"})
_MOST_VALUES = 2**22  # of a constant that is subtracted, such as a mean image

Kind = Literal["pixels", "statistic", "centered", "standardized"]


@dataclasses.dataclass(frozen=True, eq=False)
class Scaling:
    """What a graph has done to its input at some point.

    Attributes:
        scale: Factor of each channel, in the order of the input.
        shift: What is added after that.
        channel: The input's channel behind each channel here.
        axis: Axis of the channels here.
        kind: ``"standardized"`` for an image minus its own mean, divided by its own standard deviation.
        place: Name of the operation that takes it.
        statistics: Mean and deviation of the input's channels in training, if a BatchNorm has them.
        integers: Whether it became integers without being scaled up.
        largest: Factor and offset where the input was scaled up most; None where it never was.
    """

    scale: np.ndarray
    shift: np.ndarray
    channel: np.ndarray
    axis: int
    kind: Kind = "pixels"
    place: str = ""
    statistics: tuple[np.ndarray, np.ndarray] | None = None
    integers: bool = False
    largest: tuple[np.ndarray, np.ndarray] | None = None

    def by_input(self) -> Scaling:
        """Return the same with the channels in the order of the input."""
        order = np.argsort(self.channel)
        statistics = None if self.statistics is None else (self.statistics[0][order], self.statistics[1][order])
        return dataclasses.replace(
            self, scale=self.scale[order], shift=self.shift[order], channel=self.channel[order], statistics=statistics
        )

    def pick(self, index: Any) -> Scaling:
        """Return the scaling of some of its channels."""
        return dataclasses.replace(self, scale=self.scale[index], shift=self.shift[index], channel=self.channel[index])

    def affine(self, scale: Any, shift: Any) -> Scaling:
        """Return the scaling after one more multiplication and addition."""
        made = dataclasses.replace(self, scale=self.scale * scale, shift=self.shift * scale + shift)
        before = 0.0 if self.largest is None else float(np.abs(self.largest[0]).max())
        if float(np.abs(made.scale).max()) > max(before, 1.01):
            made = dataclasses.replace(made, largest=(made.scale, made.shift))
        return made


def find_scaling(analysis: Analysis, placeholder: str, channels: int) -> Scaling | str:
    """Follow an input of images to the first layer.

    Args:
        analysis: Analysis of the graph.
        placeholder: The input, [B, height, width, channels].
        channels: How many there are.

    Returns:
        What the first layer gets, or the name of the operation behind which it is not known.
    """
    return _Follower(analysis, placeholder, channels).run()


class _Follower:
    def __init__(self, analysis: Analysis, placeholder: str, channels: int) -> None:
        self._analysis, self._flat = analysis, analysis.flat
        one = np.ones(channels)
        self._states: dict[str, Scaling] = {placeholder: Scaling(one, 0 * one, np.arange(channels), 3)}
        self._lost = ""

    def run(self) -> Scaling | str:
        """Goes through the graph in order until a layer takes what was followed."""
        for name in self._analysis.order:
            node = self._flat.nodes[name]
            refs = data_inputs(node)
            entering = [self._states.get(_plain(ref)) for ref in refs]
            if not any(entering) or name in self._states:
                continue
            first = next(state for state in entering if state is not None)
            if node.op in LAYERS and entering[0] is not None and first.kind != "statistic":
                return dataclasses.replace(first.by_input(), place=name)
            if node.op in _BATCH_NORM and entering[0] is not None and not attribute(node, "is_training").b:
                return self._batch_norm(name, first, refs)
            made = self._step(node, refs, entering, first)
            if made is None and not self._lost and self._analysis.tensor(name).dtype.is_floating:
                self._lost = name
            for index, state in enumerate(made or ()):
                self._states[name if index == 0 else f"{name}:{index}"] = state
        return self._lost or "no layer"

    def _step(
        self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None], first: Scaling
    ) -> Sequence[Scaling] | None:
        """The scalings of the outputs of an operation; None where they are not known."""
        if node.op in _REDUCTIONS or all(s is not None and s.kind == "statistic" for s in entering if s is not None):
            return [dataclasses.replace(first, kind="statistic")]
        if node.op == "Cast":
            return self._cast(node, first)
        if node.op in _SAME and entering[0] is not None:
            return [entering[0]]
        if node.op in _ARITHMETIC and len(refs) == 2:
            return self._arithmetic(node, refs, entering)
        if node.op == "Neg":
            return [first.affine(-1.0, 0.0)]
        shuffled = _SHUFFLES.get(node.op)
        return None if shuffled is None else shuffled(self, node, refs, entering)

    def _cast(self, node: Any, state: Scaling) -> Sequence[Scaling] | None:
        target = tf.as_dtype(attribute(node, "DstT").type)
        if target.is_floating:
            return [state]
        return [dataclasses.replace(state, integers=True)] if np.allclose(state.scale, 1) else None

    def _arithmetic(
        self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]
    ) -> Sequence[Scaling] | None:
        left, right = entering
        if left is not None and right is not None:
            return self._between(node.op, left, right)
        state = left or right
        other = refs[1] if left is not None else refs[0]
        if state is None or self._analysis.data[node_of(other)]:
            return None
        value = self._constant(other, state)
        if value is None:
            return None
        if left is None and node.op in ("RealDiv", "Div", "DivNoNan"):
            return None
        if left is None and node.op == "Sub":
            return [state.affine(-1.0, value)]
        with np.errstate(divide="ignore"):
            scale, shift = _ARITHMETIC[node.op](value)
        return [state.affine(scale, shift)]

    @staticmethod
    def _between(op: str, left: Scaling, right: Scaling) -> Sequence[Scaling] | None:
        """An image and its own statistics: what per-image standardization is made of."""
        if right.kind == "statistic" and left.kind != "statistic":
            if op == "Sub":
                return [dataclasses.replace(left, kind="centered")]
            if left.kind == "centered" and op in ("RealDiv", "Div", "DivNoNan", "Mul"):
                return [dataclasses.replace(left, kind="standardized")]
        return None

    def _batch_norm(self, name: str, state: Scaling, refs: Sequence[str]) -> Scaling | str:
        mean, variance = (self._constant(ref, state) for ref in refs[3:5])
        if mean is None or variance is None or np.ndim(mean) == 0:
            return name
        spread = np.sqrt(variance)
        if np.allclose(mean, 0) and np.allclose(spread, 1, atol=1e-2):
            return dataclasses.replace(state.by_input(), place=name)  # never trained: says nothing
        statistics = (mean - state.shift) / state.scale, spread / np.abs(state.scale)
        return dataclasses.replace(state, statistics=statistics, place=name).by_input()

    def _constant(self, ref: str, state: Scaling) -> np.ndarray | None:
        """The value of a tensor that does not depend on the input, one number or one for each channel."""
        tensor = self._analysis.tensor(ref)
        if self._analysis.data[node_of(ref)] or tensor.shape.num_elements() is None:
            return None
        if tensor.shape.num_elements() > _MOST_VALUES or not (tensor.dtype.is_floating or tensor.dtype.is_integer):
            return None
        value = np.asarray(run_graph(self._flat, [ref])[0], np.float64)
        rank, count = 4, len(state.channel)
        axis = state.axis - rank
        if value.size == 1:
            return value.reshape(())
        if value.ndim >= -axis and value.shape[axis] == count:
            others = tuple(i for i in range(value.ndim) if i != value.ndim + axis)
            return value.mean(axis=others)
        return None if value.ndim >= -axis and value.shape[axis] != 1 else value.mean()

    # ------------------------------------------------------------------------ channels

    def _number(self, ref: str) -> Any:
        return tf.get_static_value(self._analysis.tensor(ref))

    def _transpose(
        self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]
    ) -> Sequence[Scaling] | None:
        order, state = self._number(refs[1]), entering[0]
        if order is None or state is None or state.axis not in list(order):
            return None
        return [dataclasses.replace(state, axis=list(order).index(state.axis))]

    def _split(self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]) -> Sequence[Scaling] | None:
        state = entering[1 if node.op == "Split" else 0]
        if state is None:
            return None
        if node.op == "Unpack":
            axis, count, sizes = attribute(node, "axis").i, attribute(node, "num").i, None
        else:
            axis = self._number(refs[0 if node.op == "Split" else 2])
            count = attribute(node, "num_split").i
            sizes = None if node.op == "Split" else self._number(refs[1])
        if axis is None or int(axis) not in (state.axis, state.axis - 4):
            return [state] * count
        ends = np.cumsum(sizes)[:-1] if sizes is not None else count
        return [state.pick(index) for index in np.split(np.arange(len(state.channel)), ends)]

    def _join(self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]) -> Sequence[Scaling] | None:
        parts = [s for s in entering if s is not None]
        axis = attribute(node, "axis").i if node.op == "Pack" else self._number(refs[-1])
        wanted = len(refs) if node.op == "Pack" else len(refs) - 1
        if len(parts) != wanted or axis is None or int(axis) not in (parts[0].axis, parts[0].axis - 4):
            return None
        scale, shift = np.concatenate([p.scale for p in parts]), np.concatenate([p.shift for p in parts])
        channel = np.concatenate([p.channel for p in parts])
        return [dataclasses.replace(parts[0], scale=scale, shift=shift, channel=channel)]

    def _select(self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]) -> Sequence[Scaling] | None:
        """One of two images, such as a mirrored one; known where both are scaled alike."""
        one, other = entering[1:3]
        if one is None or other is None:
            return None
        alike = all(np.array_equal(getattr(one, f), getattr(other, f)) for f in ("scale", "shift", "channel", "axis"))
        return [one] if alike else None

    def _reverse(self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]) -> Sequence[Scaling] | None:
        axes, state = self._number(refs[1]), entering[0]
        if axes is None or state is None:
            return None
        turned = any(int(a) in (state.axis, state.axis - 4) for a in np.ravel(axes))
        return [state.pick(slice(None, None, -1)) if turned else state]

    def _gather(self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]) -> Sequence[Scaling] | None:
        indices, axis, state = self._number(refs[1]), self._number(refs[2]), entering[0]
        if indices is None or axis is None or state is None:
            return None
        return [state.pick(np.ravel(indices)) if int(axis) in (state.axis, state.axis - 4) else state]

    def _strided(self, node: Any, refs: Sequence[str], entering: Sequence[Scaling | None]) -> Sequence[Scaling] | None:
        state, bounds = entering[0], [self._number(ref) for ref in refs[1:4]]
        if state is None or any(b is None for b in bounds):
            return None
        count, ellipsis = len(bounds[0]), attribute(node, "ellipsis_mask").i
        at = count - (4 - state.axis) if ellipsis else state.axis  # behind an ellipsis, axes count from the end
        if not 0 <= at < count or ellipsis >> at & 1 or attribute(node, "new_axis_mask").i:
            return [state]
        begin, end, step = (int(b[at]) for b in bounds)
        if attribute(node, "shrink_axis_mask").i >> at & 1:
            return [state.pick([begin])]
        chosen = slice(
            None if attribute(node, "begin_mask").i >> at & 1 else begin,
            None if attribute(node, "end_mask").i >> at & 1 else end,
            step,
        )
        return [state.pick(chosen)]


def _plain(ref: str) -> str:
    name, index = split_ref(ref)
    return name if not index else f"{name}:{index}"


# What "input op value" does to a scaling: its factor and what is added.
_ARITHMETIC: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "Sub": lambda v: (1.0, -v),
    "Add": lambda v: (1.0, v),
    "AddV2": lambda v: (1.0, v),
    "BiasAdd": lambda v: (1.0, v),
    "Mul": lambda v: (v, 0.0),
    "RealDiv": lambda v: (1.0 / v, 0.0),
    "Div": lambda v: (1.0 / v, 0.0),
    "DivNoNan": lambda v: (1.0 / v, 0.0),
}
_SHUFFLES: dict[str, Callable[..., Sequence[Scaling] | None]] = {
    "Transpose": _Follower._transpose,
    "Split": _Follower._split,
    "SplitV": _Follower._split,
    "Unpack": _Follower._split,
    "ConcatV2": _Follower._join,
    "Pack": _Follower._join,
    "Select": _Follower._select,
    "SelectV2": _Follower._select,
    "ReverseV2": _Follower._reverse,
    "GatherV2": _Follower._gather,
    "StridedSlice": _Follower._strided,
}
