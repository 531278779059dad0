"""Calls inside a GraphDef that is not loaded: :class:`CallGraph`.

Hides the many ways in which a graph names a function (calls, branches, loop bodies, gradients, plain texts), and where
a value that enters a function came from.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
_MOST_NODES = 50_000_000  # after every call was put in place of what it calls
_PASSES_ON = frozenset({"Identity", "StopGradient", "DisableCopyOnRead"})


def function_names(node: Any) -> Iterator[str]:
    """Yield the names of the functions a node refers to through its attributes: calls, branches, loop bodies."""
    for value in node.attr.values():
        yield from _names_in(value)


def _names_in(value: Any) -> Iterator[str]:
    functions = [value.func] if value.HasField("func") else value.list.func
    for function in functions:
        if function.name:
            yield function.name
        for inner in function.attr.values():  # a function's own attributes may name functions again
            yield from _names_in(inner)


def _texts(attributes: Mapping[str, Any]) -> Iterator[bytes]:
    for value in attributes.values():
        yield from _texts_in(value)


def _texts_in(value: Any) -> Iterator[bytes]:
    kind = value.WhichOneof("value")
    if kind == "s":
        yield value.s
    elif kind == "func":
        yield from _texts(value.func.attr)
    elif kind == "list":
        yield from value.list.s
        for function in value.list.func:
            yield from _texts(function.attr)


def base_of(ref: str) -> str:
    """Return the node (or argument) that a reference points to, of any form: ``n``, ``n:1``, ``n:out:0``, ``^n``."""
    return ref.lstrip("^").split(":")[0]


def data_inputs(node: Any) -> list[str]:
    """Return what a node reads, without what it only waits for."""
    return [ref for ref in node.input if not ref.startswith("^")]


class CallGraph:
    """The functions of a graph and their callers.

    Args:
        graph_def: The graph, with its library.
    """

    def __init__(self, graph_def: Any) -> None:
        self.graph_def = graph_def
        self.nodes = {node.name: node for node in graph_def.node}
        self.library = {f.signature.name: f for f in graph_def.library.function}
        self._by_text = {name.encode(): name for name in self.library}
        self._bodies = {name: {n.name: n for n in f.node_def} for name, f in self.library.items()}
        self._callers: dict[str, list[tuple[str, Any]]] = collections.defaultdict(list)
        self._calls: dict[str, list[str]] = {}
        self._otherwise: set[str] = set()  # referred to, but not by a plain call
        for place, node in self.every_node():
            for name in self.called_by(node):
                if node.op in CALLS or node.op == name:
                    self._callers[name].append((place, node))
                else:
                    self._otherwise.add(name)

    def every_node(self) -> Iterator[tuple[str, Any]]:
        """Yield (function, node) for all nodes; the function is empty for those of the graph itself."""
        for node in self.graph_def.node:
            yield "", node
        for function in self.graph_def.library.function:
            for node in function.node_def:
                yield function.signature.name, node

    def called_by(self, node: Any) -> list[str]:
        """Return the functions that a node refers to, also those that are missing in the library."""
        return [*function_names(node), *([node.op] if node.op in self.library else [])]

    def upstream(self, names: Iterable[str], fed: Iterable[str] = ()) -> set[str]:
        """Return the nodes of the graph that must run for others, themselves included, where some are fed."""
        seen: set[str] = set()
        fed = {base_of(name) for name in fed}
        todo = [base_of(name) for name in names if name]
        while todo:
            name = todo.pop()
            if name in self.nodes and name not in seen and name not in fed:
                seen.add(name)
                todo += [base_of(ref) for ref in self.nodes[name].input]
        return seen

    def functions_of(self, nodes: Iterable[str]) -> set[str]:
        """Return all functions that some nodes of the graph reach."""
        return self.closure(f for name in nodes for f in self.called_by(self.nodes[name]))

    def closure(self, start: Iterable[str]) -> set[str]:
        """Return functions and all that they reach."""
        seen: set[str] = set()
        todo = list(start)
        while todo:
            name = todo.pop()
            if name in self.library and name not in seen:
                seen.add(name)
                todo += [f for node in self.library[name].node_def for f in self.called_by(node)]
        return seen

    def named_otherwise(self) -> set[str]:
        """Return functions that are reached by other means than a node: as gradients, or by their name as a text."""
        nodes = {text for _, node in self.every_node() for text in _texts(node.attr)}
        functions = {name for function in self.library for name in self._named_by(function)}
        return self._unasked() | self._with_names(nodes) | functions

    def reached(self, functions: Iterable[str], nodes: Iterable[str]) -> set[str]:
        """Return all functions that others, or nodes of the graph, reach in any way, also by a name in a text."""
        nodes = list(nodes)
        start = {*functions, *self._unasked(), *self.functions_of(nodes)}
        start |= self._with_names(text for name in nodes for text in _texts(self.nodes[name].attr))
        seen: set[str] = set()
        while new := self.closure(start) - seen:
            seen |= new
            for name in new:
                start |= self._named_by(name)
                start |= self._with_names(text for n in self.library[name].node_def for text in _texts(n.attr))
        return seen

    def _unasked(self) -> set[str]:
        """Functions that TensorFlow may run without anybody naming them."""
        library = self.graph_def.library
        found = {name for g in library.gradient for name in (g.function_name, g.gradient_func)}
        found |= {gradient.gradient_func for gradient in library.registered_gradients}
        # TensorFlow may put one function in place of another that implements the same.
        return found | {f.signature.name for f in library.function if "api_implements" in f.attr}

    def _named_by(self, function: str) -> set[str]:
        """Functions that the attributes of a function or of its arguments name, in any way."""
        proto = self.library[function]
        attributes = [proto.attr, *(argument.attr for argument in proto.arg_attr.values())]
        found = {name for one in attributes for value in one.values() for name in _names_in(value)}
        return found | self._with_names(text for one in attributes for text in _texts(one))

    def _with_names(self, texts: Iterable[bytes]) -> set[str]:
        """Functions whose names are among some texts."""
        return {name for text in texts if (name := self._by_text.get(text))}

    # ------------------------------------------------------------------------- size

    def endless_calls(self) -> list[str]:
        """Return which functions call themselves, or grow too large when their calls are inlined."""
        size: dict[str, int] = {}
        for root in self.library:
            stack = [(root, iter(self._calls_of(root)))]
            inside = {root}
            while stack:
                name, rest = stack[-1]
                below = next((f for f in rest if f not in size), None)
                if below is None:
                    stack.pop()
                    inside.discard(name)
                    calls = self._calls_of(name)
                    size[name] = min(len(self._bodies[name]) + sum(size.get(f, 0) for f in calls), _MOST_NODES)
                elif below in inside:
                    return [f"the function {below} calls itself"]
                else:
                    inside.add(below)
                    stack.append((below, iter(self._calls_of(below))))
        total = sum(size.get(f, 0) for node in self.graph_def.node for f in self.called_by(node))
        largest = max(size, key=size.__getitem__, default="")
        if total >= _MOST_NODES or (largest and size[largest] >= _MOST_NODES):
            return [f"functions that call functions, {_MOST_NODES:,} operations and more when opened ({largest})"]
        return []

    def _calls_of(self, name: str) -> list[str]:
        if name not in self._calls:
            nodes = self.library[name].node_def
            self._calls[name] = [f for node in nodes for f in self.called_by(node) if f in self.library]
        return self._calls[name]

    # ----------------------------------------------------------------------- origin

    def origins(
        self,
        place: str,
        ref: str,
        accepts: Callable[[str, str], bool],
        bound: Mapping[str, list[list[bool]]],
        entered: str = "",
    ) -> list[str]:
        """Return where a value comes from that should come from nowhere else; empty where all is well.

        Args:
            place: Function in which it is read, empty for the graph itself.
            ref: Reference to it.
            accepts: Whether a node of the graph is right, given the node that the value enters by.
            bound: For functions that are called from outside of the graph, whether each captured argument is right.
            entered: The node of the graph that reads it, where it is read there.
        """
        wrong: list[str] = []
        seen: set[tuple[str, str]] = set()
        todo = [(place, ref, entered)]
        while todo:
            where, what, entry = todo.pop()
            name = base_of(what)
            if (where, f"{name} {entry}") in seen:
                continue
            seen.add((where, f"{name} {entry}"))
            node = self._bodies[where].get(name) if where else self.nodes.get(name)
            if not where and accepts(name, entry):
                continue
            if node is not None and node.op in _PASSES_ON and data_inputs(node):
                todo.append((where, data_inputs(node)[0], entry))
            elif node is not None and not where and node.op == "ReadVariableOp":
                found = self._assigned(node)
                todo += [("", assigned, entry) for assigned in found or ()]
                wrong += [] if found else [f"{name} ({node.op})"]
            elif node is not None or not where:
                wrong.append(f"{'/'.join(filter(None, [where, name]))} ({node.op if node is not None else 'missing'})")
            else:
                entering, trouble = self._entering(where, name, bound)
                todo += [(caller, given, entry or by) for caller, given, by in entering]
                wrong += trouble
        return wrong

    def _entering(
        self, function: str, argument: str, bound: Mapping[str, list[list[bool]]]
    ) -> tuple[list[tuple[str, str, str]], list[str]]:
        """What an argument is given: (caller, reference, node of the graph it enters by); and what is wrong."""
        arguments = self.library[function].signature.input_arg
        names = [a.name for a in arguments]
        if argument not in names:
            return [], [f"{function}/{argument} (missing)"]
        position, given, wrong = names.index(argument), [], []
        if function in self._otherwise or any(a.number_attr or a.type_list_attr for a in arguments):
            wrong.append(f"{function}/{argument} (an argument of a branch or a loop)")
        for place, node in self._callers[function]:
            inputs = data_inputs(node)
            if position < len(inputs):
                given.append((place, inputs[position], "" if place else node.name))
            else:
                wrong.append(f"{node.name} (calls {function} without it)")
        for captured in bound.get(function, ()):
            at = position - (len(names) - len(captured))
            if at < 0 or not captured[at]:
                wrong.append(f"{function}/{argument} (an argument)")
        return given, wrong

    def _assigned(self, read: Any) -> list[str]:
        """What a variable of the graph is set to, where nothing else can set it."""
        handle = self.nodes.get(base_of(read.input[0])) if read.input else None
        if handle is None or handle.op != "VarHandleOp":
            return []
        shared = handle.attr["shared_name"].s
        alike = [n for _, n in self.every_node() if n.op == "VarHandleOp" and n.attr["shared_name"].s == shared]
        users = [n for n in self.graph_def.node if handle.name in [base_of(ref) for ref in data_inputs(n)]]
        expected = {"ReadVariableOp", "AssignVariableOp", "VarIsInitializedOp", "DisableCopyOnRead"}
        if (shared and len(alike) > 1) or {n.op for n in users} - expected:
            return []
        return [data_inputs(n)[1] for n in users if n.op == "AssignVariableOp" and len(data_inputs(n)) > 1]
