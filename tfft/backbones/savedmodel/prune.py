"""SavedModels without the code that is never run: :func:`pruned`, :func:`write_pruned`.

Many honest SavedModels hold more than a model. ``adapt_step`` of Keras' preprocessing layers reads an iterator; TF1
graphs hold the optimizer, summaries and the input pipeline; a model for devices holds ``save`` and ``restore``. The
scan refuses them for operations that no prediction runs. Here such code is cut out of the proto. What is left is
scanned in full and written to a folder of its own, and TensorFlow loads that folder. What was not scanned does not
exist in the process, so no name, gradient, signature or resource can reach it.

Implementation notes: whole functions, signatures and nodes are cut out. Kept, and so scanned, is all that TensorFlow
runs by itself at load (initializers, restore, tables, creators of resources), all that tfft calls (regularization
losses), and all that a kept function names in any way. Where the default endpoint itself is at fault, nothing is cut
out and the model is refused.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from tfft.backbones.savedmodel import folder_scan
from tfft.backbones.savedmodel.call_graph import CallGraph
from tfft.errors import join_names

INITIALIZER = "__saved_model_init_op"

# Collections of TF1 that TensorFlow needs to restore the variables and to initialize the model.
_COLLECTIONS = frozenset(
    {"variables", "trainable_variables", "local_variables", "model_variables", "table_initializer"}
    | {"saved_model_main_op", "legacy_init_op", "saved_model_assets", "asset_filepaths", "cond_context"}
    | {"while_context", "regularization_losses"}
)
_RUN_AT_LOAD = frozenset({"_create_resource", "_initialize", "_destroy_resource", "_deserialize_from_proto"})
# What tfft calls by default is the first of these that there is.
_DEFAULT_FUNCTIONS = ("__call__", "serve")
_DEFAULT_SIGNATURES = ("serving_default", "default", "image_feature_vector")


@dataclasses.dataclass(frozen=True)
class Fault:
    """An operation that the scan refuses.

    Attributes:
        place: Function that holds it; empty for the graph itself.
        node: Name of the operation's node.
        op: Its type.
        text: The finding as a sentence.
    """

    place: str
    node: str
    op: str
    text: str


@dataclasses.dataclass(frozen=True, eq=False)
class Pruned:
    """A meta graph without what the scan refused.

    Attributes:
        meta: The proto.
        left_out: What was cut out, in words.
    """

    meta: Any
    left_out: tuple[str, ...]


def pruned(meta: Any, faults: Collection[Fault], signature: str | None = None) -> Pruned | None:
    """Return a meta graph without functions, signatures and nodes that hold faults.

    Args:
        meta: Proto of the meta graph; not changed.
        faults: From the scan.
        signature: Signature or function that will be called; None for the default.

    Returns:
        The smaller meta graph, which is still to be scanned; None where the endpoint, or something that TensorFlow runs
        by itself, holds a fault.
    """
    copy = type(meta)()
    copy.CopyFrom(meta)
    return _Pruning(copy, faults).result(signature)


def write_pruned(meta: Any, folder: pathlib.Path) -> pathlib.Path:
    """Write a SavedModel with one meta graph, the variables and the assets of another one.

    Args:
        meta: Proto of the meta graph.
        folder: SavedModel with the variables and assets. Files are linked where the system allows it, else copied.
            Variables beside ``saved_model.pb`` go to where TensorFlow looks for them.

    Returns:
        A new folder; the caller removes it.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    target = pathlib.Path(tempfile.mkdtemp(prefix="tfft-savedmodel-"))
    try:
        proto = saved_model_pb2.SavedModel(saved_model_schema_version=1)
        proto.meta_graphs.append(meta)
        (target / "saved_model.pb").write_bytes(proto.SerializeToString())
        for part in ("variables", "assets"):
            if (folder / part).is_dir():
                shutil.copytree(folder / part, target / part, copy_function=_link)
        if folder_scan.checkpoint_folder(folder) == folder:
            (target / "variables").mkdir()
            for file in [folder / "variables.index", *folder.glob("variables.data-*")]:
                _link(str(file), str(target / "variables" / file.name))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another disk, or a system without links
        shutil.copyfile(source, target)


class _Pruning:
    """Steps of one pruning, on a proto that it may change."""

    def __init__(self, meta: Any, faults: Collection[Fault]) -> None:
        self.meta, self.calls = meta, CallGraph(meta.graph_def)
        self.ops: dict[str, set[str]] = {}  # refused types by function
        for fault in faults:
            if fault.place:
                self.ops.setdefault(fault.place, set()).add(fault.op)
        self.nodes = {fault.node: fault.op for fault in faults if not fault.place}
        self.objects = meta.object_graph_def.nodes
        self.dropped: dict[str, set[str]] = {}  # refused types by the name of what is cut out

    def result(self, signature: str | None) -> Pruned | None:
        refused = {name for name in self.calls.library if self._ops_of(self.calls.closure([name]))}
        gone = self._objects_with(refused)
        if gone is None:
            return None
        self._prune_collections()  # the training step is in one, and would keep the input pipeline
        self._cut_at_inputs()
        kept_signatures = self._prune_signatures()
        if not self._callable(signature, gone, kept_signatures):
            return None
        self._prune_objects(gone)
        keep = self._prune_nodes()
        self._prune_library(keep)
        left_out = [f"{name} ({join_names(sorted(ops), limit=3)})" for name, ops in sorted(self.dropped.items())]
        return Pruned(self.meta, tuple(left_out))

    def _ops_of(self, functions: Iterable[str]) -> set[str]:
        return {op for name in functions for op in self.ops.get(name, ())}

    # ------------------------------------------------------------------ functions of the object graph

    def _objects_with(self, refused: set[str]) -> set[int] | None:
        """Numbers of the functions that hold faults; None where one of them runs without being asked for."""
        gone = {at for at, node in enumerate(self.objects) if refused & set(_concrete(node))}
        if any(node.captured_tensor.concrete_function in refused for node in self.objects):  # lifted out of it at load
            return None
        for parent in self.objects:
            for child in parent.children:
                if child.node_id in gone and child.local_name in _RUN_AT_LOAD:
                    return None
            for saver in parent.saveable_objects.values():
                if {saver.save_function, saver.restore_function} & gone:
                    return None
        root = self.objects[0] if len(self.objects) else None
        for losses in [c.node_id for c in root.children if c.local_name == "regularization_losses"] if root else []:
            if gone & {child.node_id for child in self.objects[losses].children}:
                return None
        return gone

    def _prune_objects(self, gone: set[int]) -> None:
        from tensorflow.core.framework import versions_pb2

        for parent in self.objects:
            for child in [c for c in parent.children if c.node_id in gone]:
                ops = self._ops_of(self.calls.closure(_concrete(self.objects[child.node_id])))
                if not child.local_name.startswith("trace_"):  # a function is listed once more for each of its traces
                    self.dropped.setdefault(child.local_name, set()).update(ops)
                parent.children.remove(child)
        for at in gone:
            node = self.objects[at]
            node.ClearField(node.WhichOneof("kind"))
            node.user_object.identifier = "_generic_user_object"
            node.user_object.version.CopyFrom(versions_pb2.VersionDef(producer=1, min_consumer=1))
        used = {name for node in self.objects for name in _concrete(node)}
        functions = self.meta.object_graph_def.concrete_functions
        for name in [name for name in functions if name not in used]:
            del functions[name]

    def _callable(self, signature: str | None, gone: set[int], signatures: Mapping[str, bool]) -> bool:
        """Whether what tfft will call is left: what was asked for, or the default and no other in its place."""
        functions = {}
        for child in self.objects[0].children if len(self.objects) else ():
            if _concrete(self.objects[child.node_id]):
                functions[child.local_name] = child.node_id not in gone
        if signature is not None:
            return functions.get(signature, True) and signatures.get(signature, True)
        for names, known in ((_DEFAULT_FUNCTIONS, functions), (_DEFAULT_SIGNATURES, signatures)):
            for name in names:
                if name in known:
                    return known[name]
        return any(functions.values()) or any(signatures.values())

    # ------------------------------------------------------------------------------ the graph itself

    def _cut_at_inputs(self) -> None:
        """Make placeholders of what signatures feed, where it comes from code at fault, such as an input pipeline."""
        signatures, saver = self.meta.signature_def.values(), self.meta.saver_def
        inputs = [info for signature in signatures for info in signature.inputs.values()]
        run = self.calls.upstream([*collected(self.meta), saver.restore_op_name, saver.save_tensor_name])
        for signature in signatures:  # the nodes that it runs without feeding them
            fed = [info.name for info in signature.inputs.values()]
            run |= self.calls.upstream(signature_outputs(signature), fed)
        kept = run | self.calls.upstream(info.name for info in inputs)
        read = {ref for name in kept for ref in self.calls.nodes[name].input}  # what only labels read does not count
        for info in inputs:
            name, _, index = info.name.partition(":")
            node = self.calls.nodes.get(name)
            alone = not any(ref.startswith(f"{name}:") and ref != f"{name}:0" for ref in read)
            if node is None or index not in ("", "0") or not alone or f"^{name}" in read or name in run:
                continue
            before = self.calls.upstream([name])
            ops = {self.nodes[one] for one in before & self.nodes.keys()}
            if ops and not self._ops_of(self.calls.functions_of(before)):
                self.dropped.setdefault(f"what is in front of the input {name!r}", set()).update(ops)
                self.nodes.pop(name, None)
                node.Clear()
                node.name, node.op = name, "Placeholder"
                node.attr["dtype"].type = info.dtype
                node.attr["shape"].shape.CopyFrom(info.tensor_shape)

    def _prune_signatures(self) -> dict[str, bool]:
        """Cut out signatures that hold faults; return whether each is left."""
        left = {}
        for key in [key for key in self.meta.signature_def if key != INITIALIZER]:
            nodes = self.calls.upstream(signature_outputs(self.meta.signature_def[key]))
            ops = {self.nodes[name] for name in nodes & self.nodes.keys()} | self._ops_of(
                self.calls.functions_of(nodes)
            )
            left[key] = not ops
            if ops:
                self.dropped.setdefault(key, set()).update(ops)
                del self.meta.signature_def[key]
        return left

    def _prune_collections(self) -> None:
        collections = self.meta.collection_def
        for name in [name for name in collections if name not in _COLLECTIONS]:
            del collections[name]

    def _prune_nodes(self) -> set[str]:
        """Cut out the nodes that neither a signature nor the loader needs; return the others."""
        meta = self.meta
        saver = meta.saver_def
        ends = [saver.filename_tensor_name, saver.save_tensor_name, saver.restore_op_name]
        ends += [ref for signature in meta.signature_def.values() for ref in signature_outputs(signature)]
        ends += [info.name for signature in meta.signature_def.values() for info in signature.inputs.values()]
        ends += [asset.tensor_info.name for asset in folder_scan.assets_of(meta)]
        ends += [node.constant.operation for node in self.objects if node.WhichOneof("kind") == "constant"]
        ends += list(collected(meta))
        keep = self.calls.upstream(ends)
        for name in self.nodes.keys() - keep:
            self.dropped.setdefault("operations that nothing needs", set()).add(self.nodes[name])
        kept = [node for node in meta.graph_def.node if node.name in keep]
        del meta.graph_def.node[:]
        meta.graph_def.node.extend(kept)
        self._prune_contexts(keep)
        return keep

    def _prune_contexts(self, keep: Collection[str]) -> None:
        """Take out the contexts of conditions and loops whose nodes are gone: TensorFlow looks the nodes up."""
        from tensorflow.core.protobuf import control_flow_pb2

        kinds = {"cond_context": control_flow_pb2.CondContextDef, "while_context": control_flow_pb2.WhileContextDef}
        for key in kinds.keys() & set(self.meta.collection_def):
            values = self.meta.collection_def[key].bytes_list.value
            left = [value for value in values if _context_nodes(kinds[key].FromString(value)) <= set(keep)]
            del values[:]
            values.extend(left)

    def _prune_library(self, nodes: Collection[str]) -> None:
        """Cut out functions that nothing kept reaches: by a call, as a gradient, or by its name in a text."""
        library = self.meta.graph_def.library
        keep = self.calls.reached({name for node in self.objects for name in _concrete(node)}, nodes)
        kept = [function for function in library.function if function.signature.name in keep]
        del library.function[:]
        library.function.extend(kept)


def collected(meta: Any) -> Iterator[str]:
    """Yield the nodes that TF1 collections name: initializers of tables, local variables and the model run at load."""
    from tensorflow.core.framework import variable_pb2

    for collection in meta.collection_def.values():
        yield from collection.node_list.value
        for value in collection.bytes_list.value:
            variable = variable_pb2.VariableDef()
            try:
                variable.ParseFromString(value)
            except Exception:  # some other proto
                continue
            yield from (variable.initializer_name, variable.snapshot_name, variable.initial_value_name)
            yield variable.variable_name


def _context_nodes(context: Any) -> set[str]:
    """Names of the nodes of a condition or a loop of TF1."""
    names = [context.pivot_name, *context.values_def.values, *context.values_def.external_values.values()]
    if hasattr(context, "pred_name"):
        names.append(context.pred_name)
    else:
        names += [*context.loop_enter_names, *context.loop_exit_names]
    return {name.split(":")[0].lstrip("^") for name in names if name}


def has_endpoint(meta: Any) -> bool:
    """Whether a meta graph has a signature or a function, whatever it holds."""
    functions = any(_concrete(node) for node in meta.object_graph_def.nodes)
    return functions or any(key != INITIALIZER for key in meta.signature_def)


def signature_outputs(signature: Any) -> Iterator[str]:
    """Yield the tensors that a signature gives."""
    for info in signature.outputs.values():
        yield info.name
        yield from (info.coo_sparse.values_tensor_name, info.coo_sparse.indices_tensor_name)
        yield info.coo_sparse.dense_shape_tensor_name
        yield from (part.name for part in info.composite_tensor.components)


def _concrete(node: Any) -> list[str]:
    """Names of the functions that an object of the object graph can run."""
    kind = node.WhichOneof("kind")
    if kind == "function":
        return list(node.function.concrete_functions)
    return [node.bare_concrete_function.concrete_function_name] if kind == "bare_concrete_function" else []
