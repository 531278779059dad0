"""SavedModels that take serialized ``tf.train.Example`` messages, as Estimators and TFX export them.

A network cannot be trained through a parser of strings, so the graph is cut behind it: :func:`parsed_endpoint` makes
the parsed features the inputs. Features of variable length become rows that are filled up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel.endpoint import Endpoint, fields_of
from tfft.backbones.savedmodel.graph import FlatGraph, attribute, data_inputs, node_of, reachable, tensor_name
from tfft.backbones.savedmodel.partition import Analysis
from tfft.errors import SavedModelError, join_names

_PARSERS = frozenset({"ParseExample", "ParseExampleV2", "ParseSingleExample"})
_PASSES = frozenset({"Identity", "Reshape", "ExpandDims", "Squeeze"})
_SCOPE = "tfft_features"


@dataclasses.dataclass(frozen=True)
class Feature:
    """One feature that a parser gives.

    Attributes:
        key: Its name in the messages.
        dtype: Name of its type.
        shape: Its shape for one example, where it is dense.
        kind: ``"dense"``, ``"sparse"`` or ``"ragged"``.
        outputs: What the parser gives for it, as references: the values, or indices, values and shape, or values and
            splits.
        splits: Name of the type of the splits.
    """

    key: str
    dtype: str
    shape: tuple[int | None, ...]
    kind: Literal["dense", "sparse", "ragged"]
    outputs: tuple[str, ...]
    splits: str = "int64"

    @property
    def missing(self) -> Any:
        """The value that rows of variable length are filled up with, as feature columns of TensorFlow do it."""
        return b"" if self.dtype == "string" else 0.0 if self.dtype == "float32" else -1

    def spec(self, batched: bool, rows: int | None = None) -> tf.TensorSpec:
        """The input that the feature becomes."""
        shape = self.shape if self.kind == "dense" else (None,)
        return tf.TensorSpec([rows, *shape] if batched else list(shape), tf.as_dtype(self.dtype), self.key)

    def __str__(self) -> str:
        """The feature with its shape and type."""
        shape = self.shape if self.kind == "dense" else "of any length"
        return f"{self.key}: {self.dtype} {shape}"


def parsed_endpoint(endpoint: Endpoint, flat: FlatGraph) -> ParsedExamples | None:
    """Return an endpoint that takes features instead of serialized examples; None where there is no parser.

    Args:
        endpoint: Any.
        flat: Its graph.
    """
    found = _parsers(flat)
    if not found:
        return None
    places = {flat.inputs.index(placeholder) for placeholder in found.values()}
    if len(places) > 1:
        raise SavedModelError("The SavedModel takes serialized examples in several inputs, which is not supported.")
    (place,) = places
    features = _features(flat, list(found))
    batched = all(_takes_vector(flat, flat.nodes[name]) for name in found)
    alone = _alone(endpoint.specs[place], batched)
    keys, specs = list(endpoint.input_keys), list(endpoint.specs)
    keys[place : place + 1] = [feature.key for feature in features]
    specs[place : place + 1] = [feature.spec(batched, 1 if alone else None) for feature in features]
    changed = {"input_keys": tuple(keys), "specs": tuple(specs), "single": len(specs) == 1}
    return ParsedExamples(
        **{**fields_of(endpoint), **changed}, inner=endpoint, features=tuple(features), place=place, batched=batched
    )


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ParsedExamples(Endpoint):
    """An endpoint behind the parser of its serialized examples.

    Attributes:
        inner: The endpoint itself.
        features: What its parsers give.
        place: Position of the serialized examples among its inputs.
        batched: False where it takes one example at a time.
    """

    inner: Endpoint
    features: tuple[Feature, ...]
    place: int
    batched: bool

    @property
    def alone(self) -> bool:
        """Whether it takes one message without a batch around it."""
        return _alone(self.inner.specs[self.place], self.batched)

    def call(self, tensors: Sequence[tf.Tensor], training: bool = False) -> Any:
        """Call the SavedModel with serialized examples that hold the features."""
        stop = self.place + len(self.features)
        values = [np.asarray(tensor) for tensor in tensors[self.place : stop]]
        if self.batched:
            messages = [self._message([v[i] for v in values]) for i in range(len(values[0]))]
        else:
            messages = [self._message(values)]
        serialized = tf.constant(messages[0] if self.alone else messages)
        return self.inner.call([*tensors[: self.place], serialized, *tensors[stop:]], training)

    def flat(self, variables: Sequence[tf.Variable], training: bool = False) -> FlatGraph:
        """Traces the SavedModel's own function and leaves the parser out."""
        return _without_parser(self.inner.flat(variables, training), self)

    def _message(self, values: Sequence[np.ndarray]) -> bytes:
        example = tf.train.Example()
        for feature, value in zip(self.features, values, strict=True):
            row = np.ravel(value)
            row = row if feature.kind == "dense" else row[row != feature.missing]
            held = example.features.feature[feature.key]
            lists = {"string": held.bytes_list, "float32": held.float_list, "int64": held.int64_list}
            lists[feature.dtype].value.extend(row.tolist())
        return example.SerializeToString()


def _alone(serialized: tf.TensorSpec, batched: bool) -> bool:
    """Whether an input takes one message; where its shape was not saved, the parser says so."""
    return serialized.shape.rank == 0 or (serialized.shape.rank is None and not batched)


def _parsers(flat: FlatGraph) -> dict[str, str]:
    """The parsers of a graph, with the input that each reads."""
    found = {}
    for node in flat.graph_def.node:
        if node.op in _PARSERS:
            name = node_of(data_inputs(node)[0])
            while flat.nodes[name].op in _PASSES:
                name = node_of(data_inputs(flat.nodes[name])[0])
            if name in flat.inputs:
                found[node.name] = name
    return found


def _takes_vector(flat: FlatGraph, parser: Any) -> bool:
    """Whether a parser takes a vector of messages; one of them otherwise."""
    if parser.op != "ParseExampleV2":
        return parser.op == "ParseExample"
    return Analysis(flat, parser.name).tensor(data_inputs(parser)[0]).shape.rank != 0


def _features(flat: FlatGraph, parsers: Sequence[str]) -> list[Feature]:
    found: dict[str, Feature] = {}
    for name in parsers:
        for feature in _features_of(flat, flat.nodes[name]):
            if feature.key in found:
                raise SavedModelError(
                    f"The SavedModel parses the feature {feature.key!r} twice, which is not supported."
                )
            found[feature.key] = feature
    if not found:
        raise SavedModelError("The SavedModel parses serialized examples and takes no feature from them.")
    return [found[key] for key in sorted(found)]


def _features_of(flat: FlatGraph, node: Any) -> Iterator[Feature]:
    refs = data_inputs(node)
    types, dense_types = _types(node, "sparse_types"), _types(node, "Tdense")
    shapes = [
        tuple(d.size if d.size >= 0 else None for d in shape.dim)
        for shape in attribute(node, "dense_shapes").list.shape
    ]
    ragged_types, split_types = _types(node, "ragged_value_types"), _types(node, "ragged_split_types")
    sparse_keys, dense_keys, ragged_keys = _keys(flat, node, refs, len(types), len(dense_types))

    def outputs(*indices: int) -> tuple[str, ...]:
        return tuple(node.name if i == 0 else f"{node.name}:{i}" for i in indices)

    count, behind = len(types), 3 * len(types) + len(dense_types)
    for i, (key, dtype) in enumerate(zip(sparse_keys, types, strict=True)):
        yield Feature(key, dtype, (), "sparse", outputs(i, i + count, i + 2 * count))
    for i, (key, dtype, shape) in enumerate(zip(dense_keys, dense_types, shapes, strict=True)):
        yield Feature(key, dtype, shape, "dense", outputs(3 * count + i))
    for i, (key, dtype, splits) in enumerate(zip(ragged_keys, ragged_types, split_types, strict=True)):
        yield Feature(key, dtype, (), "ragged", outputs(behind + i, behind + len(ragged_types) + i), splits)


def _types(node: Any, name: str) -> list[str]:
    return [tf.as_dtype(t).name for t in attribute(node, name).list.type]


def _keys(flat: FlatGraph, node: Any, refs: Sequence[str], sparse: int, dense: int) -> tuple[list[str], ...]:
    """Keys of the sparse, the dense and the ragged features of a parser."""
    if node.op == "ParseSingleExample":
        listed_keys = [[key.decode() for key in attribute(node, name).list.s] for name in ("sparse_keys", "dense_keys")]
        return (*listed_keys, [])
    if node.op == "ParseExample":
        keys = [_strings(flat, ref)[0] for ref in refs[2 : 2 + sparse + dense]]
        return keys[:sparse], keys[sparse:], []
    return tuple(_strings(flat, ref) for ref in refs[2:5])


def _strings(flat: FlatGraph, ref: str) -> list[str]:
    node = flat.behind_identities(ref)
    if node.op != "Const":
        raise SavedModelError(
            "The SavedModel parses serialized examples with keys that it computes; it cannot be cut there."
        )
    return [key.decode() for key in np.ravel(tf.make_ndarray(attribute(node, "value").tensor))]


def _without_parser(flat: FlatGraph, parsed: ParsedExamples) -> FlatGraph:
    found = _parsers(flat)
    features = _features(flat, list(found))
    serialized = flat.inputs[parsed.place]
    graph = tf.Graph()
    with graph.as_default():
        placeholders: list[str] = []
        replaced: dict[str, tf.Tensor] = {}
        for feature in features:
            spec = feature.spec(parsed.batched)
            with tf.name_scope(_SCOPE):
                placeholder = tf.compat.v1.placeholder(spec.dtype, spec.shape)
                made = _as_parsed(feature, placeholder, parsed.batched)
            placeholders.append(placeholder.op.name)
            replaced |= {tensor_name(ref): tensor for ref, tensor in zip(feature.outputs, made, strict=True)}
        with tf.name_scope(_SCOPE):  # what else depends on the strings wants their number
            first = graph.get_tensor_by_name(f"{placeholders[0]}:0")
            replaced[f"{serialized}:0"] = tf.constant(b"") if parsed.alone else tf.fill(tf.shape(first)[:1], b"")
        used = {tensor_name(ref) for node in flat.graph_def.node for ref in data_inputs(node)}
        used |= {tensor_name(ref) for ref in flat.outputs}
        ends = {ref: replaced[tensor_name(ref)] for ref in flat.outputs if tensor_name(ref) in replaced}
        plain = [tensor_name(ref) for ref in flat.outputs if ref not in ends]
        input_map = {name: tensor for name, tensor in replaced.items() if name in used}
        tf.graph_util.import_graph_def(flat.graph_def, input_map=input_map, return_elements=plain, name="")
    outputs = [ends[ref].name if ref in ends else ref for ref in flat.outputs]
    inputs = [*flat.inputs[: parsed.place], *placeholders, *flat.inputs[parsed.place + 1 :]]
    return dataclasses.replace(
        flat, graph_def=_needed(graph.as_graph_def(), [*outputs, *flat.updates], {*inputs, *flat.captures}),
        inputs=inputs, outputs=[o.removesuffix(":0") for o in outputs],
    )  # fmt: skip


def _as_parsed(feature: Feature, dense: tf.Tensor, batched: bool) -> tuple[tf.Tensor, ...]:
    """What the parser would give for the values of an input."""
    if feature.kind == "dense":
        return (dense,)
    indices = tf.where(tf.not_equal(dense, tf.constant(feature.missing, dense.dtype)))
    values = tf.gather_nd(dense, indices)
    if feature.kind == "sparse":
        return indices, values, tf.shape(dense, tf.int64)
    rows = tf.shape(dense, tf.int64)[0] if batched else tf.constant(1, tf.int64)
    splits = tf.searchsorted(indices[:, 0], tf.range(rows + 1))
    return values, tf.cast(splits, tf.as_dtype(feature.splits))


def _needed(graph_def: Any, ends: Sequence[str], always: set[str]) -> Any:
    """A graph without the nodes that nothing needs, the parser among them."""
    nodes = {node.name: node for node in graph_def.node}
    needed = reachable(nodes, ends, always)
    out = tf.compat.v1.GraphDef(versions=graph_def.versions)
    out.library.CopyFrom(graph_def.library)
    for node in graph_def.node:
        if node.name in needed:
            out.node.add().CopyFrom(node)
    return out


def described(parsed: ParsedExamples) -> str:
    """Return a sentence about the parser that was left out."""
    fills: Mapping[str, str] = {"string": "''", "int64": "-1", "float32": "0"}
    filled = sorted({fills[f.dtype] for f in parsed.features if f.kind != "dense"})
    taken = join_names(parsed.features)
    note = f"It takes serialized tf.Examples; its parser is left out, and the features are the inputs: {taken}."
    return note + (f" Rows of any length are filled up with {' or '.join(filled)}." if filled else "")
