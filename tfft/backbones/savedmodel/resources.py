"""What a graph looks things up in: lookup tables and SentencePiece models, as plain contents and back.

Hides that both live outside of the graph, made by code of the SavedModel and from its assets. Their contents travel in
the config of a layer instead.
"""

from __future__ import annotations

import base64
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from tfft.backbones.savedmodel.graph import FlatGraph, consumers_through_identity, data_inputs, node_of
from tfft.backbones.text_ops import load_text_ops
from tfft.errors import SavedModelError, UnsafeModelError, join_names
from tfft.keras_compat import op_definition, resource_creators

_SENTENCEPIECE = "sentencepiece"
_CREATES = "SentencepieceOp"
_KEEPS_WORDS = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "StringLower", "StringStrip", "Cast"})
_FEW = 16  # strings of a constant that may be paths; vocabularies are longer


def resource_contents(loaded: Any, flat: FlatGraph, capture: str) -> dict[str, str]:
    """Return what a captured resource holds, as JSON values.

    Args:
        loaded: The restored SavedModel.
        flat: Its graph.
        capture: The placeholder that stands for the resource.
    """
    users = list(consumers_through_identity(flat, capture))
    if any(node.op.startswith("Sentencepiece") for node in users):
        return {_SENTENCEPIECE: _text(_sentencepiece_model(loaded, flat.tables[capture]))}
    finder = next((n for n in users if "Tin" in n.attr and "Tout" in n.attr), None)
    keys_dtype, values_dtype = tf.string, tf.int64  # what the operations of tensorflow-text look up
    if finder is not None:
        keys_dtype, values_dtype = (tf.as_dtype(finder.attr[name].type) for name in ("Tin", "Tout"))
    keys, values = tf.raw_ops.LookupTableExportV2(
        table_handle=flat.tables[capture], Tkeys=keys_dtype, Tvalues=values_dtype
    )
    contents = {}
    for part, tensor in (("keys", keys), ("values", values)):
        contents[part] = _text(tf.io.serialize_tensor(tensor).numpy())
        contents[f"{part}_dtype"] = tensor.dtype.name
    return contents


def known_keys(flat: FlatGraph) -> list[list[Any]]:
    """Return two keys of the table that each input of a graph is looked up in; none where it is not.

    Args:
        flat: The graph.
    """
    return [_keys_for(flat, name) for name in flat.inputs]


def _keys_for(flat: FlatGraph, name: str) -> list[Any]:
    """Follow an input through whatever reshapes or cleans its words to the table that they are looked up in."""
    waiting, seen = [name], {name}
    while waiting:
        source = waiting.pop(0)
        for user in flat.consumers[source]:
            node = flat.nodes[user]
            if node.op.startswith("LookupTableFind") and node_of(data_inputs(node)[1]) == source:
                return _first_keys(flat, node)
            if node.op in _KEEPS_WORDS and user not in seen:
                seen.add(user)
                waiting.append(user)
    return []


def _first_keys(flat: FlatGraph, finder: Any) -> list[Any]:
    """Return two keys of the table of a look-up."""
    table = flat.behind_identities(data_inputs(finder)[0]).name
    if table not in flat.tables:
        return []
    keys, _ = tf.raw_ops.LookupTableExportV2(
        table_handle=flat.tables[table], Tkeys=finder.attr["Tin"].type, Tvalues=finder.attr["Tout"].type
    )
    return list(keys.numpy()[:2])


def make_resource(contents: Mapping[str, str]) -> Any:
    """Make a resource again from :func:`resource_contents`' result; it has a ``resource_handle``."""
    if _SENTENCEPIECE in contents:
        return SentencePieceModel(base64.b64decode(contents[_SENTENCEPIECE]))
    handles = {"variant", "resource"} & {contents["keys_dtype"], contents["values_dtype"]}
    if handles:
        raise UnsafeModelError("A table in the file holds handles instead of keys and values; refused.")
    keys, values = (
        tf.io.parse_tensor(base64.b64decode(contents[part]), tf.as_dtype(contents[f"{part}_dtype"]))
        for part in ("keys", "values")
    )
    default = "" if values.dtype == tf.string else tf.zeros([], values.dtype)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), default)


class SentencePieceModel(tf.saved_model.experimental.TrackableResource):
    """The model of a SentencePiece tokenizer, for the operations of tensorflow-text.

    Args:
        model: The serialized ``ModelProto``.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        load_text_ops([_CREATES], "A SentencePiece tokenizer")
        self._graph = tf.compat.v1.GraphDef()
        node = self._graph.node.add(name="sentencepiece", op=_CREATES)
        node.attr["model"].s = model
        # Two models of one name would share one resource.
        node.attr["shared_name"].s = f"sentencepiece_{hashlib.sha256(model).hexdigest()}".encode()
        _ = self.resource_handle  # makes it

    def _create_resource(self) -> tf.Tensor:
        def create() -> tf.Tensor:
            # Through a graph: the function that TensorFlow makes of an operation belongs to the package, which may
            # not be importable where its operations are.
            return tf.graph_util.import_graph_def(self._graph, return_elements=["sentencepiece:0"], name="")[0]

        return tf.function(create, autograph=False)() if tf.executing_eagerly() else create()


def check_carried(graph_def: Any, where: str) -> None:
    """Refuse a graph that needs something which its config does not carry.

    In the process that loaded the SavedModel, such a graph computes all the same: tables and variables that are nodes
    live in the process, and the assets are still in their folder. So running it would not show what is missing.

    Args:
        graph_def: Graph of a block, with placeholders for the variables and tables that it carries.
        where: What it belongs to, for the message.

    Raises:
        SavedModelError: With everything that would be missing elsewhere.
    """
    missing = []
    for nodes in [graph_def.node, *(f.node_def for f in graph_def.library.function)]:
        for node in nodes:
            definition = op_definition(node.op)
            shared = definition is not None and any(a.name == "shared_name" for a in definition.attr)
            if shared and node.op != _CREATES:  # a SentencePiece model is an attribute of its node
                missing.append(f"{node.name} ({node.op})")
            elif node.op == "Const" and node.attr["dtype"].type == tf.string.as_datatype_enum:
                missing += [f"{node.name} (the file {path})" for path in _files_of(node)]
    if missing:
        raise SavedModelError(
            f"The graph of {where} depends on resources outside of it that cannot be stored: {join_names(missing)}. "
            "It would fail in any other process. Choose an output that does not need it with output=, or save the "
            "model again with TensorFlow 2."
        )


def _files_of(node: Any) -> list[str]:
    texts = [value.decode("utf-8", "replace") for value in node.attr["value"].tensor.string_val[:_FEW]]
    return [text for text in texts if os.path.isabs(text) and "\0" not in text and _in_savedmodel(pathlib.Path(text))]


def _in_savedmodel(path: pathlib.Path) -> bool:
    return path.is_file() and any((folder / "saved_model.pb").is_file() for folder in path.parents)


def _sentencepiece_model(loaded: Any, handle: tf.Tensor) -> bytes:
    """The model behind a handle, from the function that makes it when the SavedModel is loaded."""
    for function in resource_creators(loaded, handle):
        for node in function.graph.as_graph_def().node:
            if node.op == _CREATES and node.attr["model"].s:
                return node.attr["model"].s
    raise SavedModelError("The model uses a SentencePiece tokenizer that is not stored with it.")


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")
