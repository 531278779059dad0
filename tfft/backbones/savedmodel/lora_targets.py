"""Which variables of a piece of a graph are kernels that a low-rank update fits.

Hidden here: how a variable's value travels from its handle to a matrix product or a convolution.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfft.layers.lora import einsum_split

_PRODUCTS = {"MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"}
_CONVOLUTIONS = {"Conv2D", "Conv3D", "Conv2DBackpropInput"}
_SAME_VALUES = {"Identity", "Cast", "Reshape", "Transpose", "ExpandDims", "Squeeze"}
_READ = "ReadVariableOp"


class Uses:
    """Who uses what in a GraphDef.

    Args:
        graph_def: A piece of a graph.
    """

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {node.name: node for node in graph_def.node}
        self._users: dict[str, list[tuple[Any, int]]] = {}
        for node in graph_def.node:
            for position, ref in enumerate(r for r in node.input if not r.startswith("^")):
                self._users.setdefault(ref.removesuffix(":0"), []).append((node, position))

    def reads(self, handle: str) -> list[str] | None:
        """Return the ops that read a variable and are used; None where something else uses its handle."""
        found = [node for node, _ in self._through(handle, {"Identity"})]
        if any(node.op != _READ for node in found):
            return None
        return list(dict.fromkeys(node.name for node in found if self._users.get(node.name)))

    def split(self, handle: str, shape: Sequence[int]) -> int | None:
        """Return how many axes of a kernel are its rows; None where it feeds no product and no convolution."""
        if len(shape) < 2:
            return None
        for read in self.reads(handle) or ():
            for node, position in self._through(read, _SAME_VALUES):
                if node.op in _PRODUCTS | _CONVOLUTIONS:
                    return self._rows_after_reshape(read, shape) or len(shape) - 1
                if node.op == "Einsum":
                    equation = node.attr["equation"].s.decode()
                    return self._rows_after_reshape(read, shape) or _direct(equation, position, shape)
        return None

    def _through(self, name: str, ops: set[str]) -> Iterator[tuple[Any, int]]:
        """Yield the nodes that use a tensor and their operand's position, looking through some ops."""
        for node, position in self._users.get(name, ()):
            if node.op in ops and position == 0:
                yield from self._through(node.name, ops)
            else:
                yield node, position

    def _rows_after_reshape(self, read: str, shape: Sequence[int]) -> int | None:
        """The number of axes that a reshape to a matrix joins into rows; transformers fold their heads so."""
        for node, _ in self._users.get(read, ()):
            target = self._nodes.get(node.input[1].removesuffix(":0")) if node.op == "Reshape" else None
            if target is None or target.op != "Const":
                continue
            sizes = tf.make_ndarray(target.attr["value"].tensor).tolist()
            total = math.prod(shape)
            if len(sizes) == 2:
                rows = sizes[0] if sizes[0] > 0 else total // max(sizes[1], 1)
                return next((k for k in range(1, len(shape)) if math.prod(shape[:k]) == rows), None)
        return None


def _direct(equation: str, position: int, shape: Sequence[int]) -> int:
    return einsum_split(equation, position) or len(shape) - 1
