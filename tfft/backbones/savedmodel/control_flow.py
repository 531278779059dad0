"""Loops and conditions in the form of TF1 become ``While`` and ``If``: :func:`with_functions`.

Graphs of TF1 write a loop as a cycle (``Enter``, ``Merge``, ``Switch``, ``NextIteration``, ``Exit``) and a condition as
two ways that join (``Switch``, ``Merge``). Neither can be cut, nor differentiated without Python objects of the process
that made it. Conditions on a constant (the learning phase) are folded first; each remaining loop and condition becomes
one node with functions, from the inside out.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph, data_inputs, node_of, split_ref, symbolic_graph, tensor_name
from tfft.errors import SavedModelError, join_names

_MERGE, _SWITCH = frozenset({"Merge", "RefMerge"}), frozenset({"Switch", "RefSwitch"})
_ENTER, _EXIT = frozenset({"Enter", "RefEnter"}), frozenset({"Exit", "RefExit"})
_NEXT = frozenset({"NextIteration", "RefNextIteration"})
_OLD = _MERGE | _SWITCH | _ENTER | _EXIT | _NEXT | {"LoopCond"}
_SMALL = 1024  # elements of a constant that may decide a condition

_Values = Mapping[str, Any]

_FOLDED: dict[str, Callable[..., Any]] = {
    "Identity": lambda x: x,
    "PlaceholderWithDefault": lambda x: x,
    "StopGradient": lambda x: x,
    "LogicalNot": np.logical_not,
    "LogicalAnd": np.logical_and,
    "LogicalOr": np.logical_or,
    "Equal": np.equal,
    "NotEqual": np.not_equal,
    "Greater": np.greater,
    "Less": np.less,
}


def with_functions(flat: FlatGraph) -> FlatGraph:
    """Return the graph with every loop and condition of TF1 replaced; the same graph where there are none.

    Raises:
        SavedModelError: A loop or condition is not of the form that TF1 writes.
    """
    if not any(node.op in _OLD for node in flat.graph_def.node):
        return flat
    flat = _reading_outside(_folded(flat))
    while True:
        needed = flat.ancestors(flat.outputs)
        old = [node for node in flat.graph_def.node if node.op in _OLD and node.name in needed]
        if not old:
            return flat
        replaced = next((done for node in old if (done := _converted(flat, node)) is not None), None)
        if replaced is None:
            shown = join_names([f"{node.name} ({node.op})" for node in old], limit=3)
            raise SavedModelError(
                "The graph holds loops or conditions in the form of TF1 that cannot be turned into functions: "
                f"{shown}. Convert the model with tf.compat.v1 and tf.function, or choose an output in front of them "
                "with output=."
            )
        flat = replaced


def _converted(flat: FlatGraph, node: Any) -> FlatGraph | None:
    if node.op == "LoopCond":
        return _loop(flat, node)
    return _condition(flat, node) if node.op in _MERGE else None


# ------------------------------------------------------------------ constant conditions


def _folded(flat: FlatGraph) -> FlatGraph:
    """Follow the way that each condition on a constant takes."""
    known: dict[str, Any] = {}
    dead: set[str] = set()  # references that never get a value, and nodes that never run
    alias: dict[str, str] = {}
    kept = []
    for source in flat.graph_def.node:
        node = tf.compat.v1.NodeDef()
        node.CopyFrom(source)
        refs = [alias.get(tensor_name(ref), ref) for ref in data_inputs(node)]
        alive = [ref for ref in refs if dead.isdisjoint((tensor_name(ref), node_of(ref)))]
        waits = [ref for ref in node.input if ref.startswith("^") and ref[1:] not in dead]
        gone = len(alive) + len(waits) < len(node.input)
        if node.op in _MERGE and alive and len(alive) < len(refs):
            node.op = "Identity"
            refs = alive[:1]
            del node.attr["N"]
        elif gone and (node.op not in _MERGE or not alive):
            dead.add(node.name)
            continue
        elif node.op in _SWITCH and node_of(refs[1]) in known:
            taken = int(bool(known[node_of(refs[1])]))
            alias[f"{node.name}:{taken}"] = refs[0]
            dead.add(f"{node.name}:{1 - taken}")
            continue
        _note_value(node, refs, known, flat)
        del node.input[:]
        node.input.extend(refs)
        kept.append(node)
    outputs = [alias.get(tensor_name(ref), ref) for ref in flat.outputs]
    return _rebuilt(dataclasses.replace(flat, outputs=outputs), kept)


def _note_value(node: Any, refs: Sequence[str], known: dict[str, Any], flat: FlatGraph) -> None:
    if node.op == "Const" and np.prod([d.size for d in node.attr["value"].tensor.tensor_shape.dim]) <= _SMALL:
        known[node.name] = tf.make_ndarray(node.attr["value"].tensor)
    elif node.op in _FOLDED and node.name not in flat.inputs and refs and all(node_of(r) in known for r in refs):
        known[node.name] = _FOLDED[node.op](*(known[node_of(r)] for r in refs))


def _reading_outside(flat: FlatGraph) -> FlatGraph:
    """Read variables in front of loops and conditions: the handles inside one have no gradient once stored."""

    def handle(ref: str) -> str | None:
        name = node_of(ref)
        while name not in flat.variables:
            node = flat.nodes[name]
            if node.op not in _ENTER | _SWITCH | {"Identity"}:
                return None
            name = node_of(node.input[0])
        return name

    nodes = []
    for source in flat.graph_def.node:
        node = tf.compat.v1.NodeDef()
        node.CopyFrom(source)
        if node.op == "ReadVariableOp" and (variable := handle(node.input[0])) is not None:
            node.input[0] = variable
        nodes.append(node)
    return _rebuilt(flat, nodes)


# --------------------------------------------------------------------- loops, conditions


def _loop(flat: FlatGraph, decision: Any) -> FlatGraph | None:
    """Turn the loop that a ``LoopCond`` ends into a ``While``; None while it still holds others."""
    switches = [flat.nodes[n] for n in dict.fromkeys(flat.consumers[decision.name]) if flat.nodes[n].op in _SWITCH]
    merges = [flat.nodes[node_of(switch.input[0])] for switch in switches]
    entering, leaving = [], []
    for merge in merges:
        refs = data_inputs(merge)
        ends = [ref for ref in refs if flat.nodes[node_of(ref)].op in _NEXT]
        starts = [ref for ref in refs if flat.nodes[node_of(ref)].op in _ENTER]
        if merge.op not in _MERGE or len(ends) != 1 or len(starts) != 1:
            return None
        entering.append(data_inputs(flat.nodes[node_of(starts[0])])[0])
        leaving.append(data_inputs(flat.nodes[node_of(ends[0])])[0])
    own = {f"{m.name}:0": i for i, m in enumerate(merges)} | {f"{s.name}:1": i for i, s in enumerate(switches)}
    test = _Region(flat, data_inputs(decision)[:1], own)
    body = _Region(flat, leaving, own)
    if not (test.ready and body.ready):
        return None
    fixed = list(dict.fromkeys([*test.external, *body.external]))

    def build(values: _Values, free: bool) -> Sequence[tf.Tensor]:
        first = [values[tensor_name(ref)] for ref in entering]
        found = tf.while_loop(
            lambda *state: tf.reshape(test.run(state, values)[0], []),
            lambda *state: body.run(state, values),
            first,
            shape_invariants=[tf.TensorShape(None) if free else t.shape for t in first],
        )
        return found if isinstance(found, (list, tuple)) else [found]

    exits: dict[str, int] = {}
    for i, switch in enumerate(switches):
        exits |= {n: i for n in flat.consumers[switch.name] if flat.nodes[n].op in _EXIT}
    return _replaced(flat, [*entering, *fixed], build, exits)


def _condition(flat: FlatGraph, merge: Any) -> FlatGraph | None:
    """Turn one result of a condition into an ``If``; None while its ways still hold others."""
    refs = data_inputs(merge)
    if len(refs) != 2 or any(flat.nodes[node_of(ref)].op in _NEXT | _ENTER for ref in refs):
        return None
    if any(
        split_ref(r)[1] == 1
        for n in flat.consumers[merge.name]
        for r in flat.nodes[n].input
        if node_of(r) == merge.name
    ):
        return None  # something asks which of the two ways it was
    ways = [_Region(flat, [ref], {}, at_switches=True) for ref in refs]
    decides = {switch.input[1] for way in ways for switch in way.switches}
    if len(decides) != 1 or not all(way.ready for way in ways):
        return None
    (decision,) = decides
    sides = [{split_ref(ref)[1] for ref in way.borders} for way in ways]
    otherwise, then = ways if 1 in sides[1] or 0 in sides[0] else ways[::-1]
    external = list(dict.fromkeys([decision, *then.external, *otherwise.external]))

    def build(values: _Values, free: bool) -> Sequence[tf.Tensor]:
        decided = tf.reshape(values[tensor_name(decision)], [])
        return [tf.cond(decided, lambda: then.run((), values)[0], lambda: otherwise.run((), values)[0])]

    return _replaced(flat, external, build, {merge.name: 0})


class _Region:
    """Nodes between the ends of a loop's body (or one way of a condition) and where values enter it.

    Args:
        flat: The graph that holds it.
        ends: References of its results.
        state: References that stand for the loop's variables, with their positions.
        at_switches: Whether values enter through ``Switch`` nodes (a condition) or ``Enter`` nodes (a loop).
    """

    def __init__(self, flat: FlatGraph, ends: Sequence[str], state: Mapping[str, int], at_switches: bool = False):
        self._flat, self._ends, self._state = flat, list(ends), dict(state)
        self._sources: dict[str, str] = {}  # reference where a value enters -> reference outside
        self.switches: list[Any] = []
        self.borders: list[str] = []
        self.ready = True
        self._inside: set[str] = set()
        doors = _SWITCH if at_switches else _ENTER
        todo = list(ends)
        while todo:
            ref = todo.pop()
            node = flat.nodes[node_of(ref)]
            if tensor_name(ref) in self._state or tensor_name(ref) in self._sources or node.name in self._inside:
                continue
            if node.op in doors:
                self._sources[tensor_name(ref)] = data_inputs(node)[0]
                self.switches += [node] if at_switches else []
                self.borders.append(ref)
            elif node.name in flat.captures or node.name in flat.inputs or _reads_variable(flat, node):
                self._sources[tensor_name(ref)] = ref
            elif node.op in _OLD:
                self.ready = False
                return
            else:
                self._inside.add(node.name)
                todo += data_inputs(node)

    @property
    def external(self) -> list[str]:
        """References outside that it reads."""
        return sorted(set(self._sources.values()))

    def run(self, state: Sequence[tf.Tensor], values: _Values) -> list[tf.Tensor]:
        """Compute its results in the graph that is being traced."""
        entering = {ref: state[i] for ref, i in self._state.items()}
        entering |= {ref: values[tensor_name(source)] for ref, source in self._sources.items()}
        names = {ref: f"tfft_value_{i}" for i, ref in enumerate(entering)}
        part = tf.compat.v1.GraphDef(versions=self._flat.graph_def.versions)
        part.library.CopyFrom(self._flat.graph_def.library)
        used = set()
        for source in self._flat.graph_def.node:
            if source.name in self._inside:
                node = part.node.add()
                node.CopyFrom(source)
                refs = data_inputs(source)
                used |= {tensor_name(ref) for ref in refs if tensor_name(ref) in names}
                del node.input[:]
                node.input.extend(names.get(tensor_name(ref), ref) for ref in refs)
        for ref in used:
            part.node.add(name=names[ref], op="Placeholder").attr["dtype"].type = entering[ref].dtype.as_datatype_enum
        inside = [tensor_name(ref) for ref in self._ends if tensor_name(ref) not in entering]
        target = tf.compat.v1.get_default_graph()  # an import takes values of its own graph only
        feeds = {f"{names[ref]}:0": target.capture(entering[ref]) for ref in used}
        imported = tf.graph_util.import_graph_def(part, input_map=feeds, return_elements=inside, name="tf1")
        found = dict(zip(inside, imported, strict=True))
        return [
            tf.identity(entering[ref]) if (ref := tensor_name(end)) in entering else found[ref] for end in self._ends
        ]


def _reads_variable(flat: FlatGraph, node: Any) -> bool:
    return node.op == "ReadVariableOp" and node_of(node.input[0]) in flat.variables


# ------------------------------------------------------------------------- replacement


def _replaced(
    flat: FlatGraph,
    external: Sequence[str],
    build: Callable[[_Values, bool], Sequence[tf.Tensor]],
    results: Mapping[str, int],
) -> FlatGraph:
    """Put what ``build`` traces in place of some nodes.

    Args:
        flat: The graph.
        external: References that it reads.
        build: Makes the results of the values of those references; a second try leaves all shapes open.
        results: Nodes that are replaced, with the position of the result that each gives.
    """
    wanted = list(dict.fromkeys(tensor_name(ref) for ref in external))
    handles = {f"{name}:0": v.handle for name, v in flat.variables.items() if f"{name}:0" in wanted}
    symbolic = symbolic_graph(flat.graph_def, flat.variables)
    plain = [ref for ref in wanted if ref not in handles]
    tensors = [symbolic.get_tensor_by_name(ref) for ref in plain]
    specs = [tf.TensorSpec(t.shape, t.dtype) for t in tensors]

    def trace(free: bool) -> Any:
        def run(*given: tf.Tensor) -> list[tf.Tensor]:
            return [tf.identity(t) for t in build(dict(zip(plain, given, strict=True)) | handles, free)]

        return tf.function(run, autograph=False).get_concrete_function(*specs).graph

    try:
        graph = trace(False)
    except ValueError:  # a value changes its shape in the loop, which TF1 knew and the file does not say
        graph = trace(True)
    return _spliced(flat, graph, dict(zip(plain, graph.inputs, strict=False)), results)


def _spliced(flat: FlatGraph, graph: Any, given: Mapping[str, Any], results: Mapping[str, int]) -> FlatGraph:
    made = _with_own_names(graph.as_graph_def())
    by_handle = {id(v.handle): name for name, v in flat.variables.items()}
    entering = {tensor.op.name: ref for ref, tensor in given.items()}
    entering |= {placeholder.op.name: by_handle[id(external)] for external, placeholder in graph.captures}
    prefix = min(results)
    names = {node.name: f"{prefix}/{node.name}" for node in made.node}
    names |= entering
    outputs = [t.op.name for t in graph.outputs]
    nodes = [node for node in flat.graph_def.node if node.name not in results]
    for node in made.node:
        if node.name in entering:
            continue
        refs = data_inputs(node)
        del node.input[:]
        node.input.extend(_moved(ref, names) for ref in refs)
        node.name = names[node.name]
        nodes.append(node)
    for name, position in results.items():
        node = tf.compat.v1.NodeDef(name=name, op="Identity", input=[names[outputs[position]]])
        node.attr["T"].CopyFrom(flat.nodes[name].attr["T"])
        nodes.append(node)
    flat.graph_def.library.MergeFrom(made.library)
    return _rebuilt(flat, nodes)


def _moved(ref: str, names: Mapping[str, str]) -> str:
    name, index = split_ref(ref)
    moved = names[name]
    return moved if not index else f"{moved}:{index}"


def _with_own_names(graph_def: Any) -> Any:
    """Names the functions of a graph by their content: numbers of this process would clash in another one."""
    content = hashlib.sha256(graph_def.library.SerializeToString(deterministic=True)).hexdigest()[:12]
    renamed = {f.signature.name: f"{f.signature.name}_{content}" for f in graph_def.library.function}

    def rename(value: Any) -> None:
        for function in [value.func] if value.HasField("func") else value.list.func:
            function.name = renamed.get(function.name, function.name)
            for inner in function.attr.values():
                rename(inner)

    for function in graph_def.library.function:
        function.signature.name = renamed[function.signature.name]
    for nodes in [graph_def.node, *(f.node_def for f in graph_def.library.function)]:
        for node in nodes:
            node.op = renamed.get(node.op, node.op)
            for value in node.attr.values():
                rename(value)
    return graph_def


def _rebuilt(flat: FlatGraph, nodes: Sequence[Any]) -> FlatGraph:
    """Return a graph of other nodes: what nothing reads is left out, and what is read comes first."""
    by_name = {node.name: node for node in nodes}
    order: dict[str, None] = {}
    for root in [*flat.inputs, *flat.captures, *(node_of(ref) for ref in flat.outputs)]:
        stack = [(root, iter(_forward(by_name, root)))] if root in by_name else []
        open_ = {root}
        while stack:
            name, rest = stack[-1]
            below = next((n for n in rest if n not in order and n not in open_), None)
            if below is None:
                stack.pop()
                order[name] = None
            else:
                open_.add(below)
                stack.append((below, iter(_forward(by_name, below))))
    out = tf.compat.v1.GraphDef(versions=flat.graph_def.versions)
    out.library.CopyFrom(flat.graph_def.library)
    for name in order:
        out.node.add().CopyFrom(by_name[name])
    return dataclasses.replace(flat, graph_def=out, updates=[u for u in flat.updates if u in order])


def _forward(nodes: Mapping[str, Any], name: str) -> list[str]:
    return [node_of(ref) for ref in data_inputs(nodes[name])]
