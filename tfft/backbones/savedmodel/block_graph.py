"""A piece of a graph that can be written into a config, and run as a function of tensors.

Hidden here: the wire format, and how a GraphDef is imported so that gradients reach the variables and
loops survive it.
"""

from __future__ import annotations

import base64
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.backbones.savedmodel.graph import tensor_name
from tfft.backbones.savedmodel.lora_targets import Uses
from tfft.errors import SavedModelError, UnsafeModelError
from tfft.layers.lora import Pair

_MOST_BYTES, _SMALL, _MOST_RATIO = 2**31 - 1, 2**26, 200  # of an unpacked graph: protobuf's limit, any, to packed
START = "tfft_start"  # placeholder of the tensor that a piece continues from


@dataclasses.dataclass(frozen=True, eq=False)
class BlockGraph:
    """A piece of a graph in a form that can be written into a config.

    Attributes:
        graph_def: The piece, with placeholders for everything that enters.
        feeds: Placeholder -> position among the layer's inputs.
        variables: Placeholder -> position among the layer's variables.
        tables: Placeholder -> position among the layer's lookup tables.
        end: Reference of the result; empty for graphs that give none.
        updates: Ops that must run with it.
    """

    graph_def: Any
    feeds: Mapping[str, int]
    variables: Mapping[str, int]
    tables: Mapping[str, int]
    end: str
    updates: tuple[str, ...] = ()

    @property
    def input_dtypes(self) -> dict[int, tf.DType]:
        """Types that the layer's inputs must have, by position."""
        nodes = {node.name: node for node in self.graph_def.node if node.name in self.feeds}
        return {p: tf.as_dtype(nodes[n].attr["dtype"].type) for n, p in self.feeds.items() if n in nodes}

    def to_config(self) -> dict[str, Any]:
        """Return JSON values; the graph is compressed and base64-encoded."""
        packed = zlib.compress(self.graph_def.SerializeToString(deterministic=True), 9)
        return {
            "graph": base64.b64encode(packed).decode("ascii"),
            "feeds": dict(self.feeds),
            "variables": dict(self.variables),
            "tables": dict(self.tables),
            "end": self.end,
            "updates": list(self.updates),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BlockGraph:
        """Build the graph from :meth:`to_config`'s result, without running anything of it."""
        graph_def = tf.compat.v1.GraphDef()
        try:
            graph_def.ParseFromString(_unpacked(base64.b64decode(config["graph"])))
        except SavedModelError:
            raise
        except Exception as error:  # zlib, base64 and protobuf each have their own class
            raise SavedModelError(f"The graph inside the file is damaged: {error}") from error
        rest = {k: v for k, v in config.items() if k not in ("graph", "updates")}
        return cls(graph_def, updates=tuple(config["updates"]), **rest)


def _unpacked(packed: bytes) -> bytes:
    """Unpack a graph, up to what an honest one unpacks to: a megabyte of zlib can hold a gigabyte of zeros."""
    most = min(_MOST_BYTES, max(_SMALL, _MOST_RATIO * len(packed)))
    stream = zlib.decompressobj()
    data = stream.decompress(packed, most)
    if not stream.eof:
        if stream.unconsumed_tail:
            raise UnsafeModelError(
                f"The graph inside the file ({len(packed):,} bytes) unpacks to more than {most:,} bytes; refused."
            )
        raise EOFError("its end is missing")
    return data


class ImportedGraph:
    """A piece of a graph as a Python function of tensors, to be traced by ``tf.function``.

    An object rather than a closure: TensorFlow counts retracings by code object, and closures of all
    blocks would share one, so that building a model of many blocks would warn of retracing.

    Args:
        graph: The piece.
        variables: The layer's variables, in order.
        tables: The layer's lookup tables, in order.
        shape: Shape of the result where the graph alone does not tell it, or None.
        updates: Low-rank updates of kernels, by position among the variables.
    """

    def __init__(
        self,
        graph: BlockGraph,
        variables: Sequence[keras.Variable],
        tables: Sequence[Any],
        shape: Sequence[int | None] | None,
        updates: Mapping[int, Pair] | None = None,
    ) -> None:
        self._graph, self._variables, self._tables, self._shape = graph, variables, tables, shape
        self._updates = dict(updates or {})

    def __call__(self, *tensors: tf.Tensor) -> tf.Tensor:
        """Import the piece into the graph being traced, on the tensors of that graph."""
        if not self._graph.graph_def.library.function:
            return self._run(*tensors)
        # The gradient of a loop looks its body up in the graph it was imported into. Only wrap_function
        # registers the imported bodies where that search finds them; a plain tf.function does not.
        return tf.compat.v1.wrap_function(self._run, [tf.TensorSpec(t.shape, t.dtype) for t in tensors])(*tensors)

    def _run(self, *tensors: tf.Tensor) -> tf.Tensor:
        graph, target = self._graph, tf.compat.v1.get_default_graph()
        feeds = {f"{name}:0": tensors[i] for name, i in graph.feeds.items()}
        for name, i in graph.variables.items():
            variable = _component(self._variables[i].value)
            target.watch_variable(variable)  # else the gradient tape never hears of it
            feeds[f"{name}:0"] = target.capture(variable.handle)
        for name, i in graph.tables.items():
            feeds[f"{name}:0"] = target.capture(self._tables[i].resource_handle)
        feeds |= self._updated_reads()
        fetches = [tensor_name(graph.end), *graph.updates]
        result, *updates = tf.graph_util.import_graph_def(
            graph.graph_def, input_map=feeds, return_elements=fetches, name=""
        )
        if self._shape is not None:
            result.set_shape(self._shape)  # lookups and splits lose it
        if not updates:
            return result
        with tf.control_dependencies(updates):
            return tf.identity(result)

    def _updated_reads(self) -> dict[str, tf.Tensor]:
        """What the readings of kernels with a low-rank update give in place of the variable's value."""
        placeholders = {n: i for n, i in self._graph.variables.items() if i in self._updates}
        feeds: dict[str, tf.Tensor] = {}
        if not placeholders:
            return feeds
        uses = Uses(self._graph.graph_def)
        for name, i in placeholders.items():
            pair = self._updates[i]
            kernel = tf.convert_to_tensor(_component(self._variables[i].value))
            update = pair.update(*(tf.convert_to_tensor(_component(v.value)) for v in (pair.first, pair.second)))
            updated = kernel + tf.cast(update, kernel.dtype)
            feeds |= {f"{read}:0": updated for read in uses.reads(name) or ()}
        return feeds


def _component(variable: Any) -> Any:
    # Keras builds models symbolically outside of replicas; there, one replica's component stands for all.
    if isinstance(variable, tf.distribute.DistributedValues) and tf.distribute.in_cross_replica_context():
        return variable.values[0]
    return variable


def count_multiply_adds(graph: tf.Graph) -> int:
    """Return the multiply-adds of a graph's matrix products and convolutions for one example.

    Unknown dimensions count as one, so the result is per example and a lower bound where shapes are
    not known.
    """
    total = 0
    for op in graph.get_operations():
        if op.type in {"Conv2D", "DepthwiseConv2dNative", "Conv3D"}:
            filters, out = op.inputs[1].shape, op.outputs[0].shape
            if filters.rank is None or out.rank is None:
                continue
            area = _product(out[1:-1]) if op.get_attr("data_format") != b"NCHW" else _product(out[2:])
            total += area * _product(filters)
        elif op.type in {"MatMul", "BatchMatMulV2", "BatchMatMulV3"}:
            left, out = op.inputs[0].shape, op.outputs[0].shape
            if left.rank is None or out.rank is None:
                continue
            transposed = op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x")
            total += _product(out) * int(left[-2 if transposed else -1] or 1)
        elif op.type == "Einsum" and len(op.inputs) == 2:
            total += _einsum_multiply_adds(op)
    return total


def _einsum_multiply_adds(op: tf.Operation) -> int:
    """One multiply-add for each combination of the equation's letters; the attention of most transformers."""
    letters: dict[str, int | None] = {}
    rest = 1
    for term, tensor in zip(op.get_attr("equation").decode().split("->")[0].split(","), op.inputs, strict=True):
        if tensor.shape.rank is None:
            return 0
        sizes, start = list(tensor.shape), term.find("...")
        if start >= 0:
            stop = start + len(sizes) - (len(term) - 3)
            rest = max(rest, _product(sizes[start:stop]))
            del sizes[start:stop]
        for letter, size in zip(term.replace("...", ""), sizes, strict=True):
            letters[letter] = size or letters.get(letter)
    return rest * _product(letters.values())


def _product(dimensions: Any) -> int:
    out = 1
    for n in dimensions:
        out *= int(n or 1)
    return out
