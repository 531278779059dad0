"""A traced function as one flat graph: every nested call inlined, every capture explained.

TensorFlow saves a model as functions that call functions; nothing can be cut there. :func:`flatten`
expands all calls into a single GraphDef in topological order, turns captured constants into Const
nodes, and says which placeholder stands for which variable or lookup table. The rest of the package
works on the resulting :class:`FlatGraph` only.

Inlining is done here rather than by TensorFlow's optimizer because names, control outputs and custom
gradients must survive it in a known way.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.call_graph import data_inputs, function_names
from tfft.errors import SavedModelError
from tfft.keras_compat import op_definition

_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_UPDATES = ("Assign", "ResourceScatter", "ResourceApply")
_LOOKUPS = ("LookupTable", "WordpieceTokenizeWithOffsets")
_SENTENCEPIECE = "Sentencepiece"
_MERGES, _BACK_EDGES = frozenset({"Merge", "RefMerge"}), frozenset({"NextIteration", "RefNextIteration"})


def split_ref(ref: str) -> tuple[str, int | None]:
    """Split ``"node:1"`` into node and output index; a control input ``"^node"`` has index None."""
    if ref.startswith("^"):
        return ref[1:], None
    name, _, index = ref.partition(":")
    return name, int(index or 0)


def node_of(ref: str) -> str:
    """Return the node a reference points to."""
    return split_ref(ref)[0]


def tensor_name(ref: str) -> str:
    """Return ``"node:0"`` for ``"node"``."""
    return ref if ":" in ref else f"{ref}:0"


def attribute(node: Any, name: str) -> Any:
    """Return an attribute of a node, an empty one where it has none: indexing would add that to the node."""
    return node.attr[name] if name in node.attr else _NO_ATTRIBUTE


_NO_ATTRIBUTE = tf.compat.v1.AttrValue()


@dataclasses.dataclass(eq=False)
class FlatGraph:
    """A function without nested calls.

    Attributes:
        graph_def: Nodes in topological order; its library holds only bodies of loops and branches.
        inputs: Placeholder names of the function's arguments, in flattened order.
        outputs: References of the flattened results.
        structure: Nest of the results, as the function returns it.
        variables: Placeholder name -> the variable whose handle it stands for.
        tables: Placeholder name -> handle of a lookup table.
        updates: Names of the ops that change variables when the function runs.
        lifted: Identities of the variables that were nodes of the graph; they belong to no object of the SavedModel.
    """

    graph_def: Any
    inputs: list[str]
    outputs: list[str]
    structure: Any
    variables: dict[str, tf.Variable]
    tables: dict[str, tf.Tensor]
    updates: list[str]
    lifted: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        self.nodes = {node.name: node for node in self.graph_def.node}
        self.consumers: dict[str, list[str]] = collections.defaultdict(list)
        for node in self.graph_def.node:
            for ref in node.input:
                self.consumers[node_of(ref)].append(node.name)

    @property
    def captures(self) -> set[str]:
        """Placeholders that stand for resources."""
        return set(self.variables) | set(self.tables)

    def behind_identities(self, ref: str) -> Any:
        """Return the node that a reference points to, or the one whose value its Identity passes on."""
        node = self.nodes[node_of(ref)]
        while node.op == "Identity":
            node = self.nodes[node_of(data_inputs(node)[0])]
        return node

    def ancestors(self, refs: Sequence[str], stop: frozenset[str] = frozenset()) -> set[str]:
        """Return the nodes that the references are computed from, not going beyond ``stop``."""
        seen: set[str] = set()
        todo = [node_of(ref) for ref in refs]
        while todo:
            name = todo.pop()
            if name in seen or name in stop:
                continue
            seen.add(name)
            todo += [node_of(ref) for ref in data_inputs(self.nodes[name])]
        return seen


def flatten(
    function: Callable[..., Any], specs: Sequence[tf.TensorSpec], variables: Sequence[tf.Variable]
) -> FlatGraph:
    """Traces a function of flat tensors and inlines everything it calls.

    Args:
        function: Takes one tensor for each spec and returns a nest of tensors.
        specs: Shapes and types of the arguments.
        variables: Further variables the function may capture (those it watches are found anyway).

    Returns:
        The flat graph.

    Raises:
        SavedModelError: When the function captures a resource that is neither a variable nor a
            lookup table.
    """
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    graph = traced.graph
    flat, renamed, outputs, controls = _Inliner(graph.as_graph_def()).run(
        [t.name for t in graph.outputs], [op.name for op in graph.control_outputs]
    )
    # Keras 2 lists tables among the variables of its preprocessing layers; restored, they are None.
    by_handle = {id(v.handle): v for v in [*traced.variables, *variables] if v is not None}
    captured_variables, tables = {}, {}
    nodes = {node.name: node for node in flat.node}
    for external, placeholder in graph.captures:
        name = renamed[placeholder.op.name]
        if external.dtype != tf.resource:
            _make_const(nodes[name], external)
        elif id(external) in by_handle:
            captured_variables[name] = by_handle[id(external)]
        else:
            tables[name] = external
    count = len(graph.inputs) - len(graph.captures)
    result = FlatGraph(
        graph_def=flat,
        inputs=[renamed[t.op.name] for t in graph.inputs[:count]],
        outputs=outputs,
        structure=traced.structured_outputs,
        variables=captured_variables,
        tables=tables,
        updates=_reachable_updates(nodes, outputs, controls),
    )
    _check_tables(result)
    return result


def symbolic_graph(graph_def: Any, variables: Mapping[str, tf.Variable]) -> tf.Graph:
    """Import the nodes of a flat graph, for the shapes and types of its tensors."""
    graph = tf.Graph()
    with graph.as_default():
        # A bare placeholder for a variable's handle would hide the variable's shape from all that follows.
        handles = {f"{name}:0": tf.raw_ops.VarHandleOp(dtype=v.dtype, shape=v.shape) for name, v in variables.items()}
        tf.graph_util.import_graph_def(graph_def, input_map=handles, name="")
    return graph


def consumers_through_identity(flat: FlatGraph, name: str) -> Iterator[Any]:
    """Yield the nodes that use a resource handle, looking through Identity nodes."""
    for consumer in flat.consumers[name]:
        node = flat.nodes[consumer]
        if node.op == "Identity" and node.attr["T"].type == tf.resource.as_datatype_enum:
            yield from consumers_through_identity(flat, consumer)
        else:
            yield node


def _check_tables(flat: FlatGraph) -> None:
    for name in flat.tables:
        users = sorted({node.op for node in consumers_through_identity(flat, name)})
        if users and not all(op.startswith((*_LOOKUPS, _SENTENCEPIECE)) for op in users):
            raise SavedModelError(
                f"The model captures a resource ({name}) that is neither a variable nor a lookup table; it is used by "
                f"{', '.join(users)}. Such a model cannot be rebuilt without its original object."
            )


def _make_const(node: Any, value: tf.Tensor) -> None:
    name, dtype = node.name, node.attr["dtype"].type
    node.Clear()
    node.name, node.op = name, "Const"
    node.attr["dtype"].type = dtype
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value.numpy(), dtype=dtype, shape=value.shape))


def _reachable_updates(nodes: dict[str, Any], outputs: Sequence[str], controls: Sequence[str]) -> list[str]:
    # The function's control outputs alone are not enough: wrapped TF1 graphs tie their updates to the
    # outputs by control edges. Whatever the function would run is reachable from either.
    reached = reachable(nodes, [*outputs, *controls])
    return [name for name, node in nodes.items() if name in reached and node.op.startswith(_UPDATES)]


def reachable(nodes: Mapping[str, Any], refs: Iterable[str], stop: Iterable[str] = ()) -> set[str]:
    """Return the nodes that references are computed from or wait for, and those of ``stop``, at which the search ends.

    Args:
        nodes: Nodes of the graph by name.
        refs: References to begin with.
        stop: Names of nodes.
    """
    seen, todo = set(stop), [node_of(ref) for ref in refs]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += [node_of(ref) for ref in nodes[name].input]
    return seen


class _Inliner:
    """Expands every function call of a graph, one call at a time, in topological order."""

    def __init__(self, graph_def: Any) -> None:
        self._source = graph_def
        self._library = {f.signature.name: f for f in graph_def.library.function}
        self._flat = tf.compat.v1.GraphDef(versions=graph_def.versions)
        self._used: set[str] = set()
        self._effects: dict[str, list[str]] = {}  # call -> nodes that must run when it runs
        self._emitted: dict[str, Any] = {}

    def run(self, outputs: Sequence[str], controls: Sequence[str]) -> tuple[Any, dict[str, str], list[str], list[str]]:
        """Return the flat graph, its names for the top-level nodes, the outputs, and the nodes that must run."""
        scope = _Scope(self, list(self._source.node), "", {}, {}, [])
        scope.expand()
        refs = [scope.tensors[split_ref(o)] for o in outputs]  # type: ignore[index]  # outputs are not control inputs
        run = [name for c in controls for name in self._effects.get(c, scope.controls[c])]
        self._keep_bodies()
        renamed = {name: ref for (name, index), ref in scope.tensors.items() if index == 0}
        return self._flat, renamed, refs, list(dict.fromkeys(run))

    def _keep_bodies(self) -> None:
        """Copy the functions that loops and branches still refer to."""
        todo = [name for node in self._flat.node for name in function_names(node)]
        kept: set[str] = set()
        while todo:
            name = todo.pop()
            if name in kept or name not in self._library:
                continue
            kept.add(name)
            body = self._library[name]
            self._flat.library.function.add().CopyFrom(body)
            todo += [n for node in body.node_def for n in [*function_names(node), node.op]]

    def unique(self, name: str) -> str:
        candidate, n = name, 0
        while candidate in self._used:
            n += 1
            candidate = f"{name}_{n}"
        self._used.add(candidate)
        return candidate

    def called(self, node: Any) -> Any | None:
        if node.op in _CALLS:
            return self._library.get(node.attr["f"].func.name)
        return self._library.get(node.op)

    def output_offsets(self, node: Any) -> dict[str, int]:
        """Names of a node's outputs -> position of the first tensor of each."""
        known = self._library.get(node.op)
        definition = known.signature if known is not None else op_definition(node.op)
        if definition is None:
            raise SavedModelError(
                f"The graph uses the operation {node.op!r}, which this TensorFlow does not know. If it comes from a "
                "package (tensorflow_text, for instance), import that package first."
            )
        offsets, position = {}, 0
        for argument in definition.output_arg:
            offsets[argument.name] = position
            if argument.number_attr:
                position += node.attr[argument.number_attr].i
            elif argument.type_list_attr:
                position += len(node.attr[argument.type_list_attr].list.type)
            else:
                position += 1
        return offsets

    def emit(self, node: Any, scope: str, inputs: list[str]) -> str:
        copy = self._flat.node.add()
        copy.CopyFrom(node)
        copy.name = self.unique(scope + node.name)
        del copy.input[:]
        copy.input.extend(inputs)
        for stale in ("_class", "_XlaMustCompile"):  # colocation names no longer exist; compiled calls are opened
            if stale in copy.attr:
                del copy.attr[stale]
        self._emitted[copy.name] = copy
        return copy.name

    def close_loop(self, merge: str, ref: str) -> None:
        """Add the edge that leads back to the start of a loop, once its end was emitted."""
        node = self._emitted[merge]
        entering = data_inputs(node)
        control = node.input[len(entering) :]
        del node.input[:]
        node.input.extend([*entering, ref, *control])


class _Scope:
    """One level of the expansion: the main graph or the body of one call."""

    def __init__(
        self,
        inliner: _Inliner,
        nodes: list[Any],
        prefix: str,
        tensors: dict[tuple[str, int], str],
        controls: dict[str, list[str]],
        run_after: list[str],
    ) -> None:
        self._inliner, self._prefix, self._run_after = inliner, prefix, run_after
        self._nodes = {node.name: node for node in nodes}
        self.tensors = tensors  # (local node, output index) -> flat reference
        self.controls = controls  # local node -> flat nodes that stand for it in control inputs

    def expand(self) -> None:
        done = set(self.controls)
        opened: set[str] = set()
        for root in self._nodes:
            stack = [root]
            while stack:
                name = stack[-1]
                if name in done:
                    stack.pop()
                    continue
                needed = (self._local(ref) for ref in self._forward(self._nodes[name]))
                missing = [n for n in needed if n not in done and n in self._nodes]
                if not opened.isdisjoint(missing):  # what was opened and is not done waits for this node
                    raise SavedModelError(
                        f"The graph of the model has a cycle that is not a loop, through {name!r} "
                        f"({self._nodes[name].op}), so it cannot be computed. The SavedModel is damaged; copy "
                        "or download it again."
                    )
                if missing:
                    opened.add(name)
                    stack.extend(missing)
                    continue
                stack.pop()
                self._place(self._nodes[name])
                done.add(name)
                opened.discard(name)
        for node in self._nodes.values():
            for ref in [ref for ref in node.input if ref not in self._forward(node)]:
                self._inliner.close_loop(self.tensors[(node.name, 0)], *self.resolve(ref))

    def _forward(self, node: Any) -> list[str]:
        """The inputs of a node without the edges by which a loop in the form of TF1 leads back to its start."""
        if node.op not in _MERGES:
            return list(node.input)
        nodes = self._nodes
        back = {n for n in map(self._local, node.input) if n in nodes and nodes[n].op in _BACK_EDGES}
        return [ref for ref in node.input if self._local(ref) not in back]

    @staticmethod
    def _local(ref: str) -> str:
        return ref[1:] if ref.startswith("^") else ref.split(":")[0]

    def resolve(self, ref: str) -> list[str]:
        """A local reference as flat ones (``node``, ``node:1``, ``node:output:0`` or ``^node``)."""
        if ref.startswith("^"):
            return ["^" + name for name in self.controls[ref[1:]]]
        parts = ref.split(":")
        index = int(parts[1]) if len(parts) == 2 else 0
        if len(parts) == 3:
            index = self._inliner.output_offsets(self._nodes[parts[0]])[parts[1]] + int(parts[2])
        found = self.tensors.get((parts[0], index))
        if found is None:  # a plain node: its outputs are numbered
            base = self.tensors[(parts[0], 0)]
            found = base if index == 0 else f"{base}:{index}"
        return [found]

    def _place(self, node: Any) -> None:
        inputs = [flat for ref in self._forward(node) for flat in self.resolve(ref)]
        data = [ref for ref in inputs if not ref.startswith("^")]
        control = sorted({ref for ref in inputs if ref.startswith("^")})
        body = self._inliner.called(node)
        if body is None:
            if not inputs:
                control = sorted(self._run_after)
            name = self._inliner.emit(node, self._prefix, data + control)
            self.tensors[(node.name, 0)] = name
            self.controls[node.name] = [name]
            return
        arguments = [a.name for a in body.signature.input_arg]
        inner = _Scope(
            self._inliner,
            list(body.node_def),
            f"{self._prefix}{node.name}/",
            {(a, 0): ref for a, ref in zip(arguments, data, strict=True)},
            {a: [node_of(ref)] for a, ref in zip(arguments, data, strict=True)},
            control or self._run_after,
        )
        inner.expand()
        results = [inner.resolve(body.ret[a.name])[0] for a in body.signature.output_arg]
        effects = self._inliner._effects
        run = [n for c in body.control_ret.values() for n in effects.get(inner._prefix + c, inner.controls[c])]
        for index, ref in enumerate(results):
            self.tensors[(node.name, index)] = ref
        self.controls[node.name] = run + sorted({node_of(ref) for ref in results})
        effects[self._prefix + node.name] = run
