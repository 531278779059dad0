"""Check of a foreign graph against an allow list, before any of it is loaded.

A SavedModel is a program, and can write files even while it is being loaded. Whatever only computes is allowed;
operations that read or write files, open sockets, call Python, or carry a whole program as bytes are refused, and so
is every operation that is not on the list. A model that passes is *scanned*, not safe: kernels have bugs of their own.

Two kinds of operations belong to every SavedModel and still touch files. Those of the saver are let through where
nothing but the saver runs them; what runs at load may only read, and only the path that the loader gives. Those that
read a vocabulary are let through where their path can be followed back to an asset, through every call.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tfft.backbones.savedmodel import folder_scan
from tfft.backbones.savedmodel.allowlist import (
    READS_CHECKPOINT,
    READS_VOCABULARY,
    WRITES_CHECKPOINT,
    allowed,
    reason_against,
)
from tfft.backbones.savedmodel.call_graph import CallGraph, base_of, data_inputs, function_names
from tfft.backbones.savedmodel.packages import functions_that_need
from tfft.backbones.savedmodel.prune import INITIALIZER, Fault, collected, has_endpoint, pruned, signature_outputs
from tfft.console.profile import stage
from tfft.errors import SavedModelError, UnsafeModelError, join_names

__all__ = ["check_graph", "check_savedmodel", "function_names", "read_meta_graphs"]

_SAVER = WRITES_CHECKPOINT | READS_CHECKPOINT
_NO_ENDPOINT = (
    " That alone does not open it: it has no signature and no function, so nothing says what goes in and what comes "
    "out. Save it again with a signature (tf.compat.v1.saved_model.simple_save), or freeze its graph into a .pb file "
    "and open that with output=, the name of a node."
)
_MOST_PADDING = 2**30  # bytes that constants may claim beyond those that are stored


def check_graph(graph_def: Any, where: str, remedy: str) -> None:
    """Refuse a graph with operations that reach outside of it.

    Args:
        graph_def: The graph, with its library.
        where: What it belongs to, for the message.
        remedy: What the user writes to run it all the same.

    Raises:
        UnsafeModelError: With every such operation and its place.
    """
    calls = CallGraph(graph_def)
    found = list(_form_findings(calls))
    for place, node in calls.every_node():
        found += [] if _computes(node, calls) else [_told(node, place)]
    if found:
        raise UnsafeModelError(
            f"The graph of {where} holds operations that may reach outside of it: {join_names(found)}. "
            f"If you trust where it comes from, pass {remedy}."
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Judged:
    """A SavedModel that passed the scan.

    Attributes:
        meta_graphs: All of them, as they are in the file.
        pruned: The only part that may be loaded, for :func:`tfft.backbones.savedmodel.prune.write_pruned`; None where
            the whole model passed.
        left_out: What is in the file and not in that part, in words.
    """

    meta_graphs: list[Any]
    pruned: Any = None
    left_out: tuple[str, ...] = ()


@stage("scan the SavedModel")
def check_savedmodel(
    path: str | os.PathLike[str], *, tags: Sequence[str] | None = None, signature: str | None = None
) -> Judged:
    """Parse a SavedModel and refuse one that does more than compute; nothing of it is loaded.

    Code at fault that neither loading nor the endpoint reaches is left out, and what remains is scanned on its own.

    Args:
        path: The folder.
        tags: Tags of the meta graph that will be loaded.
        signature: Signature or function that will be called; None for the default.

    Returns:
        What may be loaded.

    Raises:
        SavedModelError: When the folder holds no readable ``saved_model.pb``, or less than its checkpoint declares.
        UnsafeModelError: With everything that was found.
    """
    folder = pathlib.Path(path)
    found = list(folder_scan.findings(folder))
    meta_graphs = read_meta_graphs(folder)
    scanned = [_MetaGraph(meta) for meta in meta_graphs]
    for meta, graph in zip(meta_graphs, scanned, strict=True):
        found += [*folder_scan.asset_findings(meta, folder), *graph.malformed()]
    faults = {} if found else {at: faults for at, graph in enumerate(scanned) if (faults := graph.faults())}
    judged = Judged(meta_graphs)
    if faults:
        chosen = meta_graphs.index(chosen_meta_graph(meta_graphs, tags, folder))
        part = pruned(meta_graphs[chosen], faults.get(chosen, ()), signature)
        rest = None if part is None else _MetaGraph(part.meta)
        if part is not None and rest is not None and not [*rest.malformed(), *rest.faults()]:
            others = [
                f"the meta graph {sorted(m.meta_info_def.tags)}" for m in meta_graphs if m is not meta_graphs[chosen]
            ]
            judged = Judged(meta_graphs, part.meta, (*part.left_out, *others))
        else:
            found += [fault.text for one in faults.values() for fault in one]
    if not found:
        folder_scan.check_checkpoint(folder)
        judged = _without_foreign_types(judged, tags, folder, signature)
    else:
        called = any(has_endpoint(meta) for meta in meta_graphs)
        raise UnsafeModelError(
            f"The SavedModel {str(folder)!r} may reach outside of itself, so it was not loaded: "
            f"{join_names(dict.fromkeys(found))}. "
            "If you trust where it comes from, pass trust=True (on the command line: --trust), or pin exactly this "
            f"one by its digest: tfft.backbones.digest(folder).{_never_read(meta_graphs) if called else _NO_ENDPOINT}"
        )
    return judged


def _never_read(meta_graphs: Sequence[Any]) -> str:
    """Names signatures of TF1 whose inputs nothing reads: copies of what the input pipeline gives to the network."""
    named = []
    for meta in meta_graphs:
        calls = CallGraph(meta.graph_def)
        for key, signature in meta.signature_def.items():
            fed = {base_of(info.name) for info in signature.inputs.values()}
            if fed and fed.isdisjoint(calls.upstream(signature_outputs(signature))):
                named.append(f"{key!r} ({join_names(sorted(fed))})")
    if not named:
        return ""
    return (
        f" That alone does not open it: no output reads the inputs of the signature {join_names(named)}, which are "
        "copies of what the input pipeline gives. Save it again with the tensors that the network reads."
    )


def _without_foreign_types(
    judged: Judged, tags: Sequence[str] | None, folder: pathlib.Path, signature: str | None
) -> Judged:
    """Leave out functions whose types belong to packages that are not there; what is left is scanned once more."""
    meta = judged.pruned or chosen_meta_graph(judged.meta_graphs, tags, folder)
    faults = [Fault(name, "", f"types of {package}", "") for name, package in functions_that_need(meta).items()]
    part = pruned(meta, faults, signature) if faults else None
    if part is None:
        return judged
    rest = _MetaGraph(part.meta)
    if [*rest.malformed(), *rest.faults()]:
        return judged
    return Judged(judged.meta_graphs, part.meta, (*judged.left_out, *part.left_out))


def chosen_meta_graph(meta_graphs: Sequence[Any], tags: Sequence[str] | None, folder: pathlib.Path) -> Any:
    """Return the meta graph with some tags; by default the one for serving, else the one without tags or the first.

    Raises:
        SavedModelError: When there is none with these tags.
    """
    known = [sorted(meta.meta_info_def.tags) for meta in meta_graphs]
    if tags is None:
        tags = [] if [] in known else ["serve"] if ["serve"] in known else known[0]
    if sorted(tags) not in known:
        raise SavedModelError(f"{str(folder)!r} has no meta graph with tags {list(tags)}. It has: {known}.")
    return meta_graphs[known.index(sorted(tags))]


def read_meta_graphs(folder: pathlib.Path) -> list[Any]:
    """Parse ``saved_model.pb`` without loading the model."""
    from tensorflow.core.protobuf import saved_model_pb2

    proto = saved_model_pb2.SavedModel()
    data = folder_scan.read_proto(folder)
    try:
        proto.ParseFromString(data)
    except Exception as error:
        raise SavedModelError(f"{str(folder / 'saved_model.pb')!r} cannot be parsed: {error}") from error
    if not proto.meta_graphs:
        raise SavedModelError(f"{str(folder / 'saved_model.pb')!r} holds no model (no meta graph).")
    return list(proto.meta_graphs)


def _told(node: Any, place: str, what: str = "") -> str:
    return f"{node.op} ({'/'.join(filter(None, [place, node.name]))}: {what or reason_against(node.op)})"


def _computes(node: Any, calls: CallGraph) -> bool:
    return allowed(node.op) or node.op in calls.library


def _form_findings(calls: CallGraph) -> Iterator[str]:
    """What is wrong with the form of a graph, whatever its operations do."""
    from tfft.keras_compat import op_definition

    graph = calls.graph_def
    yield from _twice([n.name for n in graph.node], "nodes of the graph")
    yield from _twice([f.signature.name for f in graph.library.function], "functions")
    for function in graph.library.function:
        names = [a.name for a in function.signature.input_arg] + [n.name for n in function.node_def]
        yield from _twice(names, f"nodes of {function.signature.name}")
        if op_definition(function.signature.name) is not None:
            yield f"the function {function.signature.name} has the name of an operation"
    yield from calls.endless_calls()
    padding = 0
    for place, node in calls.every_node():
        for name in function_names(node):
            if name not in calls.library:
                yield _told(node, place, f"calls {name}, which the graph does not hold")
        if node.op == "Const":
            tensor = node.attr["value"].tensor
            if tensor.resource_handle_val or tensor.variant_val:
                yield _told(node, place, "a constant that is a handle instead of a value")
            padding += _padding(tensor)
    if padding > _MOST_PADDING:
        yield f"constants that claim {padding:,} bytes more than are stored for them"


def _twice(names: Iterable[str], what: str) -> Iterator[str]:
    twice = [name for name, count in collections.Counter(names).items() if count > 1]
    if twice:
        yield f"{what} with one name: {join_names(twice, limit=3)}"


def _padding(tensor: Any) -> int:
    """Bytes that a constant claims beyond those that it brings: one stored number stands for any number of them."""
    import tensorflow as tf

    count = math.prod(max(d.size, 0) for d in tensor.tensor_shape.dim)
    if count < 2**18:
        return 0
    try:
        size = tf.as_dtype(tensor.dtype).size or 24  # a string in memory
    except (TypeError, KeyError):
        size = 24
    return max(0, count * size - tensor.ByteSize())


class _MetaGraph:
    """What is found in one meta graph.

    Args:
        meta: Its proto.
    """

    def __init__(self, meta: Any) -> None:
        self._meta = meta
        self._calls = calls = CallGraph(meta.graph_def)
        saver = meta.saver_def
        self._filename = base_of(saver.filename_tensor_name)
        self._restoring = calls.upstream([saver.restore_op_name])
        self._saving = calls.upstream([saver.save_tensor_name]) - self._restoring
        self._served = calls.upstream(self._outputs(lambda key: key != INITIALIZER))
        # Whatever may run, at load or when the model is used. The saver of another meta graph is in none of these.
        self._running = calls.upstream([*self._outputs(lambda key: True), *collected(meta)])
        self._assets = {base_of(asset.tensor_info.name) for asset in folder_scan.assets_of(meta)}
        self._bound = self._captures()

    def malformed(self) -> Iterator[str]:
        """Yield what is wrong with the form of the graph, whatever its operations do."""
        return _form_findings(self._calls)

    def faults(self) -> list[Fault]:
        """Return every operation that reaches, or may reach, outside of the model."""
        return [Fault(place, node.name, node.op, text) for place, node, text in self._findings()]

    def _findings(self) -> Iterator[tuple[str, Any, str]]:
        calls = self._calls
        outside = [n for n in calls.nodes if n not in self._saving and n not in self._restoring]
        others = calls.closure([*self._bound, *calls.named_otherwise()]) | calls.functions_of(outside)
        restoring = calls.functions_of(self._restoring)
        saving = calls.functions_of(self._saving) - restoring - others
        for place, node in calls.every_node():
            if node.op in _SAVER:
                if place:
                    saves, restores = place in saving, place in restoring and place not in others
                else:
                    saves = node.name not in self._running and node.name not in self._restoring
                    restores = node.name in self._restoring and node.name not in self._running
                yield from ((place, node, text) for text in self._saver_finding(node, place, saves, restores))
            elif node.op in READS_VOCABULARY:
                yield from ((place, node, text) for text in self._vocabulary_finding(node, place))
            elif not _computes(node, calls):
                yield place, node, _told(node, place)

    def _saver_finding(self, node: Any, place: str, saves: bool, restores: bool) -> Iterator[str]:
        if saves:  # runs only where somebody asks the model to be saved
            return
        if not restores or node.op not in READS_CHECKPOINT or not node.input:
            yield _told(node, place)
            return
        wrong = self._calls.origins(place, node.input[0], lambda name, _: name == self._filename, {})
        if wrong:
            yield _told(node, place, f"reads a path that is not the checkpoint: {join_names(wrong, limit=3)}")

    def _vocabulary_finding(self, node: Any, place: str) -> Iterator[str]:
        inputs, position = data_inputs(node), READS_VOCABULARY[node.op]
        wrong = ["nothing"]
        if position < len(inputs):
            entered = "" if place else node.name
            wrong = self._calls.origins(place, inputs[position], self._is_asset, self._bound, entered)
        if wrong:
            yield _told(node, place, f"reads a path that is not an asset: {join_names(wrong, limit=3)}")

    def _is_asset(self, name: str, entered: str) -> bool:
        # Assets are put in where the model is initialized. A signature would read what the constant says.
        return name in self._assets and entered not in self._served

    def _captures(self) -> dict[str, list[list[bool]]]:
        """For each function that the loaded object has: which of its captured arguments are assets."""
        objects = self._meta.object_graph_def
        kinds = [node.WhichOneof("kind") for node in objects.nodes]
        found: dict[str, list[list[bool]]] = {}
        for name, function in objects.concrete_functions.items():
            captured = [0 <= i < len(kinds) and kinds[i] == "asset" for i in function.bound_inputs]
            found.setdefault(name, []).append(captured)
        for node in objects.nodes:
            kind = node.WhichOneof("kind")
            names = list(node.function.concrete_functions) if kind == "function" else []
            if kind == "bare_concrete_function":
                names.append(node.bare_concrete_function.concrete_function_name)
            for name in names:
                found.setdefault(name, [[]])
        return found

    def _outputs(self, wanted: Any) -> Iterator[str]:
        for key, signature in self._meta.signature_def.items():
            if wanted(key):
                yield from signature_outputs(signature)
