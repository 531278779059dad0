"""Cuts a flat graph into pieces, one for each block, and matches the pieces of the training graph.

A node is *data* if it depends on a model input and *tainted* if it is data and depends on a variable.
The dominators of the output among the tainted nodes are the places to cut. Side paths without
variables (attention masks) are not tainted: a later piece recomputes them from the raw inputs.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Collection, Sequence
from typing import Any

import tensorflow as tf

from tfft.backbones import blocks as block_cuts
from tfft.backbones.savedmodel.graph import (
    FlatGraph,
    consumers_through_identity,
    data_inputs,
    node_of,
    split_ref,
    symbolic_graph,
    tensor_name,
)
from tfft.backbones.savedmodel.scan import function_names

_PLACEHOLDER = "Placeholder"
PRODUCTS = {
    **dict.fromkeys(("MatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"), "dense"),
    **dict.fromkeys(("Conv2D", "Conv3D"), "conv"),
    "DepthwiseConv2dNative": "depthwise_conv",
}
_ADDITIONS = frozenset({"Add", "AddV2", "BiasAdd"})
_AUTOMATIC = r"(matmul|add|conv2d|depthwise|biasadd|einsum)(_\d+)?/"  # scopes that TensorFlow made up
_BARE = re.compile(rf"^({_AUTOMATIC}[^/]+|(variable|const|unknown|w|b|weights?)(_\d+)?|\d+)$", re.I)


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A part of a flat graph between two cuts.

    Attributes:
        name: Name of the block it becomes.
        start: Reference of the tensor it continues from; None for the first piece.
        start_dtype: Type of that tensor.
        end: Reference of the tensor it produces.
        inputs: Placeholders of the model's own inputs that it reads besides.
        captures: Placeholders of the variables and tables it uses.
        updates: Ops that change variables when it runs (training graphs).
        note: Why it is not cut further; empty where it is as small as it gets.
    """

    name: str
    start: str | None
    end: str
    inputs: tuple[str, ...]
    captures: tuple[str, ...]
    updates: tuple[str, ...] = ()
    note: str = ""
    start_dtype: tf.DType = tf.float32


class Analysis:
    """What depends on what in a flat graph, for one of its outputs."""

    def __init__(self, flat: FlatGraph, output: str) -> None:
        self.flat, self.output = flat, output
        needed = flat.ancestors([output])
        self.order = [node.name for node in flat.graph_def.node if node.name in needed]
        inputs = set(flat.inputs)
        self.reads = {name: [node_of(r) for r in data_inputs(flat.nodes[name])] for name in self.order}
        self.data: dict[str, bool] = {}
        self.behind: dict[str, frozenset[str]] = {}  # variables a node without data is made of
        self.own: dict[str, frozenset[str]] = {}  # variables that join the data at a node
        self.tainted: dict[str, bool] = {}
        for name in self.order:
            reads = self.reads[name]
            self.data[name] = name in inputs or any(self.data[r] for r in reads)
            aside = frozenset().union(*(self.behind[r] for r in reads if not self.data[r]))
            own_capture = {name} if name in flat.variables else set()
            self.behind[name] = frozenset() if self.data[name] else aside | own_capture
            self.own[name] = aside if self.data[name] else frozenset()
            self.tainted[name] = self.data[name] and (bool(aside) or any(self.tainted[r] for r in reads))

    @functools.cached_property
    def symbolic(self) -> tf.Graph:
        """The graph imported once, for the shapes and types of its tensors."""
        return symbolic_graph(importable(self.flat.graph_def), self.flat.variables)

    def tensor(self, ref: str) -> tf.Tensor:
        """The symbolic tensor of a reference."""
        return self.symbolic.get_tensor_by_name(tensor_name(ref))

    @functools.cached_property
    def cuts(self) -> list[str]:
        """References of the tensors through which the whole computation passes; the output is last."""
        heavy = [name for name in self.order if self.tainted[name]]
        sink = node_of(self.output)
        if not heavy or not self.tainted[sink]:
            return [self.output]
        chain = block_cuts.dominator_chain(heavy, self.reads, sink)
        refs = [self._cut_at(name) for name in chain[:-1] if not self._lacks_bias(name)]
        return [ref for ref in refs if ref] + [self.output]

    def _lacks_bias(self, name: str) -> bool:
        """Whether all that a node's result enters is the addition of a bias."""
        if self.flat.nodes[name].op not in PRODUCTS or len(self.flat.consumers[name]) != 1:
            return False
        (adds,) = self.flat.consumers[name]
        if self.flat.nodes[adds].op not in _ADDITIONS or adds not in self.own or len(self.own[adds]) != 1:
            return False
        (bias,) = self.own[adds]
        return self.flat.variables[bias].shape.rank == 1

    def _cut_at(self, name: str) -> str | None:
        """The one float tensor that leaves a node, or None where a cut is not possible."""
        used = {
            split_ref(ref)[1]
            for consumer in self.flat.consumers[name]
            if consumer in self.tainted
            for ref in data_inputs(self.flat.nodes[consumer])
            if node_of(ref) == name
        }
        if len(used) != 1:
            return None
        index = used.pop()
        ref = name if index == 0 else f"{name}:{index}"
        tensor = self.tensor(ref)
        # Scalars and shapes are not activations; TensorList variants and integers cannot be layer outputs.
        # Keras needs to know the rank of what passes between layers.
        return ref if tensor.dtype.is_floating and tensor.shape.rank else None

    def segments(self) -> list[list[str]]:
        """For each cut the variables (placeholders) that join on the way to it, in order of first use."""
        names = [node_of(ref) for ref in self.cuts]
        heavy = [name for name in self.order if self.tainted[name]]
        level = block_cuts.segment_levels(heavy, self.reads, names)
        found: list[dict[str, None]] = [{} for _ in names]
        for name in heavy:
            at = min(level[name], len(names) - 1)
            found[at].update(dict.fromkeys(sorted(self.own[name], key=self._rank)))
        return [list(segment) for segment in found]

    def _rank(self, placeholder: str) -> int:
        return self._positions[placeholder]

    @functools.cached_property
    def _positions(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.order)}

    def upstream(self, ref: str) -> frozenset[int]:
        """Identities of the variables that a tensor is computed from."""
        nodes = self.flat.ancestors([ref])
        return frozenset(id(self.flat.variables[n]) for n in nodes if n in self.flat.variables)


def find_pieces(analysis: Analysis) -> list[Piece]:
    """Cut the graph at every block boundary.

    Returns:
        Pieces in order of computation; every variable that the output needs is in exactly one.
    """
    flat, cuts = analysis.flat, analysis.cuts
    segments = analysis.segments()
    paths = variable_paths(flat) | _paths_of_bare_names(analysis)
    fixed = {paths[p] for p, v in flat.variables.items() if not (v.trainable and v.dtype.is_floating)}
    groups = block_cuts.group_segments(
        [[paths[p] for p in segment] for segment in segments], [_scope_of(node_of(cut)) for cut in cuts], fixed
    )
    pieces: list[Piece] = []
    start = None
    for group in groups:
        end = cuts[group.stop - 1]
        pieces.append(_piece(analysis, group.name, start, end, note=group.note))
        start = end
    return pieces


def whole(analysis: Analysis, name: str, note: str) -> Piece:
    """The graph as one piece."""
    return _piece(analysis, name, None, analysis.output, (), note)


def _piece(
    analysis: Analysis, name: str, start: str | None, end: str, updates: Sequence[str] = (), note: str = ""
) -> Piece:
    flat = analysis.flat
    stop = frozenset() if start is None else frozenset({node_of(start)})
    nodes = flat.ancestors([end, *updates], stop)
    inputs = tuple(n for n in flat.inputs if n in nodes)
    captures = tuple(n.name for n in flat.graph_def.node if n.name in nodes and n.name in flat.captures)
    dtype = tf.float32 if start is None else analysis.tensor(start).dtype
    return Piece(name, start, end, inputs, captures, tuple(updates), note, dtype)


def piece_graph(flat: FlatGraph, piece: Piece, start_name: str) -> Any:
    """Extracts a piece as a GraphDef whose start tensor is a placeholder called ``start_name``."""
    start = None if piece.start is None else node_of(piece.start)
    nodes = flat.ancestors([piece.end, *piece.updates], frozenset({start} if start else ()))
    out = tf.compat.v1.GraphDef(versions=flat.graph_def.versions)
    if start:
        node = out.node.add(name=start_name, op=_PLACEHOLDER)
        node.attr["dtype"].type = piece.start_dtype.as_datatype_enum
    for source in flat.graph_def.node:
        if source.name not in nodes:
            continue
        node = out.node.add()
        node.CopyFrom(source)
        refs = data_inputs(source)
        del node.input[:]
        node.input.extend(start_name if piece.start and _same(ref, piece.start) else ref for ref in refs)
        rank = _rank_of_fusible(flat, source)
        if rank is not None:
            _check_rank(out, node, rank)
    out.library.CopyFrom(flat.graph_def.library)
    return importable(out)


def _same(a: str, b: str) -> bool:
    return split_ref(a) == split_ref(b)


def importable(graph_def: Any) -> Any:
    """Return a copy without marks that stop it from being imported and differentiated.

    ``_gradient_op_type`` names a Python function of the process that saved the model; without it the
    plain derivative of the body is taken, which is the same for every honest custom gradient (the
    opener compares the two once and freezes the model where they differ).
    """
    out = tf.compat.v1.GraphDef()
    out.CopyFrom(graph_def)
    for nodes in [out.node, *(f.node_def for f in out.library.function)]:
        for node in nodes:
            if "_gradient_op_type" in node.attr:
                del node.attr["_gradient_op_type"]
    if not any(True for node in out.node for _ in function_names(node)):
        del out.library.function[:]
    return out


def _rank_of_fusible(flat: FlatGraph, activation: Any) -> int | None:
    """Return the rank of what a Tanh or Softplus reads if TensorFlow would fuse both with a convolution; else None.

    With oneDNN, TensorFlow fuses a convolution, its normalization or addition, and a Tanh or a Mish (which has a
    Softplus) into an operation that it has no kernel for ("Fusion is not implemented: [FusedBatchNorm,Tanh]").
    """
    if activation.op not in ("Tanh", "Softplus"):
        return None
    before = flat.behind_identities(data_inputs(activation)[0])
    if before.op.startswith("FusedBatchNorm"):
        return len(before.attr["data_format"].s or b"NHWC")
    for summand in data_inputs(before) if before.op in ("Add", "AddV2") else ():
        bias = flat.behind_identities(summand)
        if bias.op == "BiasAdd" and flat.behind_identities(data_inputs(bias)[0]).op == "Conv2D":
            return 4
    return None


def _check_rank(graph_def: Any, reader: Any, rank: int) -> None:
    """Put an EnsureShape in front of a node: it passes its input on, and the optimizer keeps it and does not fuse."""
    check = graph_def.node.add(name=f"{reader.name}/ensure_shape", op="EnsureShape", input=[reader.input[0]])
    check.attr["T"].CopyFrom(reader.attr["T"])
    check.attr["shape"].shape.CopyFrom(tf.TensorShape([None] * rank).as_proto())
    reader.input[0] = check.name


class NoMatch(Exception):
    """The training graph cannot be cut where the inference graph is; the text says why."""


def match_pieces(inference: Analysis, pieces: Sequence[Piece], training: Analysis) -> list[Piece]:
    """Cut the training graph into pieces that do the same jobs as those of the inference graph.

    Tensors of two traces are never matched by name. The end of a piece is the last cut before the
    variables of the next piece join, so both graphs are cut at the last dominator that depends on
    the same variables (of those that both outputs depend on).

    Raises:
        NoMatch: Where that tensor does not exist or the pieces would not own the same variables.
    """
    shared = inference.upstream(inference.output) & training.upstream(training.output)
    ends: dict[frozenset[int], str] = {}
    for ref in training.cuts:
        ends[training.upstream(ref) & shared] = ref
    matched: list[Piece] = []
    start = None
    owner = {
        id(inference.flat.variables[c]): p.name for p in pieces for c in p.captures if c in inference.flat.variables
    }
    changed = {update: updated_variable(training.flat, update) for update in training.flat.updates}
    for piece in pieces:
        last = piece is pieces[-1]
        end = training.output if last else ends.get(inference.upstream(piece.end) & shared)
        if end is None:
            raise NoMatch(f"the training graph has no tensor like the one between {piece.name!r} and the next block")
        ours, theirs = inference.tensor(piece.end).shape, training.tensor(end).shape
        if not ours.is_compatible_with(theirs):
            raise NoMatch(f"after {piece.name!r} the training graph has shape {theirs}, the inference graph {ours}")
        here = _read_between(training.flat, start, end)
        updates = [u for u, v in changed.items() if v is not None and (owner.get(v) == piece.name or v in here)]
        found = _piece(training, piece.name, start, end, updates)
        _check_owner(training.flat, found, owner)
        matched.append(found)
        start = end
    return matched


def updated_variable(flat: FlatGraph, update: str) -> int | None:
    """Identity of the variable that an op changes."""
    variable = flat.variables.get(flat.behind_identities(data_inputs(flat.nodes[update])[0]).name)
    return None if variable is None else id(variable)


def _read_between(flat: FlatGraph, start: str | None, end: str) -> set[int]:
    """Identities of the variables that are read on the way from one cut to the next, random generators too."""
    stop = frozenset() if start is None else frozenset({node_of(start)})
    return {id(flat.variables[n]) for n in flat.ancestors([end], stop) if n in flat.variables}


def _check_owner(flat: FlatGraph, piece: Piece, owner: dict[int, str]) -> None:
    for capture in piece.captures:
        variable = flat.variables.get(capture)
        if variable is not None and owner.setdefault(id(variable), piece.name) != piece.name:
            raise NoMatch(
                f"in the training graph {piece.name!r} also uses {variable.name}, which belongs to another block"
            )


_CALL_SCOPE = re.compile(r"^(Stateful)?PartitionedCall(_\d+)?$")


def variable_paths(flat: FlatGraph) -> dict[str, str]:
    """Return a readable path for each captured variable, by placeholder.

    That is the variable's own name where it has scopes (``block1/conv/kernel``); Keras 3 and others
    save bare names (``kernel``), then the scope of the op that reads the variable is put in front.
    """
    paths: dict[str, str] = {}
    owner: dict[str, Any] = {}
    for placeholder, variable in flat.variables.items():
        name = variable.name.split(":")[0]
        path = name if "/" in name else _reader_scope(flat, placeholder) + name
        unique, n = path, 1
        while owner.setdefault(unique, variable) is not variable:
            unique, n = f"{path}_{n}", n + 1
        paths[placeholder] = unique
    return paths


def _paths_of_bare_names(analysis: Analysis) -> dict[str, str]:
    """Paths for the variables without names, neither themselves nor the operations that read them.

    They are numbered by the layers that they make, as Keras does it: ``dense``, ``dense_1``.
    """
    flat, paths = analysis.flat, variable_paths(analysis.flat)
    units: dict[str, str] = {}  # product -> unit
    found: dict[str, str] = {}
    for name in analysis.order:
        op = flat.nodes[name].op
        bare = [p for p in sorted(analysis.own[name]) if _BARE.match(paths[p]) and p not in found]
        if not bare or op not in PRODUCTS | dict.fromkeys(_ADDITIONS):
            continue
        unit = next((units[read] for read in analysis.reads[name] if read in units), None)
        if op in PRODUCTS:
            count = sum(flat.nodes[n].op in PRODUCTS and PRODUCTS[flat.nodes[n].op] == PRODUCTS[op] for n in units)
            unit = units[name] = PRODUCTS[op] + (f"_{count}" if count else "")
        if unit is not None:
            found |= {p: f"{unit}/{paths[p].split('/')[-1]}" for p in bare}
    return found


def _reader_scope(flat: FlatGraph, placeholder: str) -> str:
    for node in consumers_through_identity(flat, placeholder):
        scope = _scope_of(node.name)
        if scope:
            return scope + "/"
    return ""


def _scope_of(name: str) -> str:
    """The scopes of a node, without the calls it was inlined from and the op itself."""
    scope = [part for part in name.split("/")[:-1] if not _CALL_SCOPE.match(part)]
    return "/".join(scope[:-1] if len(scope) > 2 else scope)


def random_ops(flat: FlatGraph, names: Collection[str]) -> list[str]:
    """Return those of some nodes that draw random numbers, as in dropout."""
    plain = {"StatefulUniform", "TruncatedNormal", "Multinomial"}
    return [name for name in names if "Random" in flat.nodes[name].op or flat.nodes[name].op in plain]
