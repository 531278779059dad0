"""SavedModels with a hostile part that nothing seems to need, which becomes reachable after all.

Every function in `REACHED` writes a model whose endpoint only computes, beside a function ``write`` that writes
``target``, and then lets something that is needed lead to it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import savedmodels
import tensorflow as tf
from hostile_models import _after, _function, _string, _tf1, changed
from tensorflow.core.protobuf import saved_model_pb2


class _Resource(tf.saved_model.experimental.TrackableResource):
    def _create_resource(self):
        return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)


class _Parts(tf.Module):
    def __init__(self, target: str) -> None:
        super().__init__()
        self.kernel, self.target = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="block0/kernel"), target
        self.table, self.regularization_losses = _Resource(), []

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def __call__(self, x):
        size = tf.raw_ops.LookupTableSizeV2(table_handle=self.table.resource_handle)
        return x @ self.kernel + tf.cast(size, tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 2])])
    def write(self, x):
        return _after(tf.io.write_file(self.target, "x"), x)


def parts(path: pathlib.Path, target: str) -> None:
    """An endpoint that only computes, beside a function that writes a file."""
    model = _Parts(target)
    tf.saved_model.save(model, str(path), signatures={"infer": model.__call__, "write": model.write})


Change = Callable[[Any, Any, Any], None]  # of (meta graph, the endpoint's body, the hostile function's name)
REACHED: dict[str, tuple[Change, dict[str, Any]]] = {}


def _reached(**options: Any) -> Callable[[Change], Change]:
    def keep(change: Change) -> Change:
        REACHED[change.__name__] = (change, options)
        return change

    return keep


def make(name: str, path: pathlib.Path, target: str) -> dict[str, Any]:
    """Write one of `REACHED`; returns the options to open it with."""
    parts(path, target)
    change, options = REACHED[name]
    with changed(path) as meta:
        change(meta, _function(meta, "inference___call__"), _function(meta, "__inference_write_").signature.name)
    return options


@_reached()
def by_a_text(meta, body, hostile):
    body.node_def[0].attr["some_name"].s = hostile.encode()


@_reached()
def by_a_list_of_texts(meta, body, hostile):
    body.node_def[0].attr["some_names"].list.s.append(hostile.encode())


@_reached()
def by_a_function_in_an_attribute(meta, body, hostile):
    body.node_def.add(name="hidden", op="NoOp").attr["f"].func.name = hostile


@_reached()
def by_a_list_of_functions(meta, body, hostile):
    body.node_def.add(name="hidden", op="NoOp").attr["branches"].list.func.add(name=hostile)


@_reached()
def by_an_attribute_of_a_named_function(meta, body, hostile):
    meta.graph_def.library.function.add().signature.name = "outer"
    outer = body.node_def.add(name="hidden", op="NoOp").attr["f"].func
    outer.name = "outer"
    outer.attr["inner"].func.name = hostile


@_reached()
def by_a_call_behind_a_call(meta, body, hostile):
    library = meta.graph_def.library.function
    for i in range(3):
        library.add().signature.name = f"step{i}"
        call = library[-1].node_def.add(name="call", op="StatefulPartitionedCall")
        call.attr["f"].func.name = hostile if i == 2 else f"step{i + 1}"
    body.node_def.add(name="hidden", op="PartitionedCall").attr["f"].func.name = "step0"
    body.node_def[0].input.append("^hidden")


@_reached(signature="write")
def by_a_signature(meta, body, hostile):
    pass


@_reached(signature="keep.write")
def by_a_path(meta, body, hostile):
    objects = meta.object_graph_def.nodes
    node = next(i for i, n in enumerate(objects) if hostile in n.function.concrete_functions)
    objects[0].children.add(local_name="keep", node_id=len(objects))
    objects.add().user_object.identifier = "_generic_user_object"
    objects[-1].children.add(local_name="write", node_id=node)


def _resource_function(name: str) -> Change:
    def change(meta, body, hostile):
        objects = meta.object_graph_def.nodes
        node = next(i for i, n in enumerate(objects) if hostile in n.function.concrete_functions)
        resource = next(n for n in objects if n.WhichOneof("kind") == "resource")
        next(c for c in resource.children if c.local_name == name).node_id = node

    change.__name__ = f"by_a_resource{name}"
    return change


for _name in ("_create_resource", "_initialize", "_destroy_resource"):
    _reached()(_resource_function(_name))


@_reached()
def by_restoring_an_object(meta, body, hostile):
    objects = meta.object_graph_def.nodes
    node = next(i for i, n in enumerate(objects) if hostile in n.function.concrete_functions)
    saveable = next(n for n in objects if n.WhichOneof("kind") == "resource").saveable_objects["table"]
    saveable.save_function = saveable.restore_function = node


@_reached()
def by_a_regularization_loss(meta, body, hostile):
    objects = meta.object_graph_def.nodes
    node = next(i for i, n in enumerate(objects) if hostile in n.function.concrete_functions)
    losses = next(c.node_id for c in objects[0].children if c.local_name == "regularization_losses")
    objects[losses].children.add(local_name="0", node_id=node)


@_reached()
def by_the_gradient_of_an_operation(meta, body, hostile):
    meta.graph_def.library.registered_gradients.add(gradient_func=hostile, registered_op_type="CustomGradient-7")
    body.node_def[0].attr["_gradient_op_type"].s = b"CustomGradient-7"


@_reached()
def by_the_gradient_of_a_function(meta, body, hostile):
    meta.graph_def.library.gradient.add(function_name=body.signature.name, gradient_func=hostile)


@_reached()
def as_another_implementation(meta, body, hostile):
    """TensorFlow may put either of two functions that implement the same in place of the other."""
    body.attr["api_implements"].s = b"layer"
    _function(meta, "__inference_write_").attr["api_implements"].s = b"layer"


@_reached()
def by_a_captured_tensor(meta, body, hostile):
    objects = meta.object_graph_def
    captured = objects.nodes.add().captured_tensor
    captured.name, captured.concrete_function = "x:0", hostile
    objects.concrete_functions[body.signature.name].bound_inputs.append(len(objects.nodes) - 1)


@_reached()
def by_the_initializer(meta, body, hostile):
    node = meta.graph_def.node.add(name="hidden", op="StatefulPartitionedCall")
    node.attr["f"].func.name = hostile
    next(n for n in meta.graph_def.node if n.name == "NoOp").input.append("^hidden")


@_reached()
def as_the_variant_for_inference(meta, body, hostile):
    """The endpoint has two variants, and the harmless one says that it is for training."""
    function = next(n for n in meta.object_graph_def.nodes if body.signature.name in n.function.concrete_functions)
    function.function.concrete_functions.append(hostile)
    signature = meta.object_graph_def.concrete_functions[body.signature.name].canonicalized_input_signature
    signature.tuple_value.values[0].tuple_value.values.add().bool_value = True


# ------------------------------------------------------------------------------------------------ TF1


def _hidden_write(meta: Any, target: str) -> None:
    nodes = meta.graph_def.node
    nodes.add(name="hidden", op="WriteFile", input=[_string(nodes, "a", target), _string(nodes, "b", "x")])


def tf1_control_input(path: pathlib.Path, target: str) -> None:
    """The output waits for an operation that writes."""

    def change(meta):
        _hidden_write(meta, target)
        next(n for n in meta.graph_def.node if n.name == "features").input.append("^hidden")

    _tf1(path, change)


def tf1_local_variable(path: pathlib.Path, target: str) -> None:
    """Initializers of local variables run at load, where no other initializer is named."""
    from tensorflow.core.framework import variable_pb2

    def change(meta):
        _hidden_write(meta, target)
        variables = meta.collection_def["variables"].bytes_list.value
        local = variable_pb2.VariableDef.FromString(variables[0])
        local.initializer_name = "hidden"
        meta.collection_def["local_variables"].bytes_list.value.append(local.SerializeToString())

    _tf1(path, change)


def tf1_fed_by_control(path: pathlib.Path, target: str) -> None:
    """The tensor is fed, so its operation need not run; but the output waits for it."""

    def change(meta):
        nodes = meta.graph_def.node
        nodes.add(name="hidden", op="ReadFile", input=[_string(nodes, "a", target)])
        for signature in meta.signature_def.values():
            signature.inputs["hidden"].name, signature.inputs["hidden"].dtype = "hidden:0", 7
        next(n for n in nodes if n.name == "features").input.append("^hidden")

    _tf1(path, change)


def _saves_beside(meta: Any, target: str) -> None:
    """A saver with a path of its own, and an operation that gives a value once it has run."""
    nodes = meta.graph_def.node
    saver = next(n for n in nodes if n.name == "save/SaveV2")
    saver.input[0] = _string(nodes, "save/where", target)
    assert any(n.name == "save/control_dependency" and "^save/SaveV2" in n.input for n in nodes)


def _called_in_front(meta: Any, inner: Callable[[Any], None], output: str) -> None:
    """Adds what a function gives to the features; the call has a name that inlining leaves out again."""
    library, nodes = meta.graph_def.library.function, meta.graph_def.node
    body = library.add()
    body.signature.name = "inner"
    body.signature.output_arg.add(name="out", type=tf.float32.as_datatype_enum)
    inner(body.node_def)
    body.ret["out"] = output
    call = nodes.add(name="PartitionedCall", op="PartitionedCall")
    call.attr["f"].func.name = "inner"
    call.attr["Tin"].list.SetInParent()
    call.attr["Tout"].list.type.append(tf.float32.as_datatype_enum)
    total = nodes.add(name="total", op="AddV2", input=["features", "PartitionedCall"])
    total.attr["T"].type = tf.float32.as_datatype_enum
    for signature in meta.signature_def.values():
        signature.outputs["default"].name = "total:0"


def table_with_the_name_of_a_saver(path: pathlib.Path, target: str) -> None:
    """A table in a function is called as what saves: whoever takes the table by its name runs the saver."""

    def inner(nodes):
        table = nodes.add(name="save/control_dependency", op="HashTableV2")
        table.attr["key_dtype"].type, table.attr["value_dtype"].type = 7, 9
        nodes.add(name="size", op="LookupTableSizeV2", input=["save/control_dependency:table_handle:0"])
        cast = nodes.add(name="cast", op="Cast", input=["size:size:0"])
        cast.attr["SrcT"].type, cast.attr["DstT"].type = 9, 1

    _tf1(path, lambda meta: (_saves_beside(meta, target), _called_in_front(meta, inner, "cast:y:0")))


def variable_with_the_name_of_a_saver(path: pathlib.Path, target: str) -> None:
    """What reads a reference variable in a function is called as what saves."""

    def inner(nodes):
        variable = nodes.add(name="v", op="VariableV2")
        variable.attr["dtype"].type = 1
        variable.attr["shape"].shape.SetInParent()
        read = nodes.add(name="save/control_dependency", op="Identity", input=["v:ref:0"])
        read.attr["T"].type = 1

    _tf1(
        path,
        lambda meta: (_saves_beside(meta, target), _called_in_front(meta, inner, "save/control_dependency:output:0")),
    )


NAMED_LIKE_A_SAVER = (table_with_the_name_of_a_saver, variable_with_the_name_of_a_saver)


def _read_in_front(meta: Any, secret: str) -> None:
    """The images come from a file, where no signature feeds what the file says."""
    nodes = meta.graph_def.node
    nodes.add(name="hidden", op="ReadFile", input=[_string(nodes, "a", secret)])
    raw = nodes.add(name="raw", op="DecodeRaw", input=["hidden"])
    raw.attr["out_type"].type = 1
    images = next(n for n in nodes if n.name == "images")
    shape, dtype = images.attr["shape"], images.attr["dtype"]
    images.op = "PlaceholderWithDefault"
    images.input.append("raw")
    images.ClearField("attr")
    images.attr["shape"].CopyFrom(shape)
    images.attr["dtype"].CopyFrom(dtype)


def tf1_fed_by_another_signature(path: pathlib.Path, target: str) -> None:
    """The signature that is called does not feed what another one feeds."""

    def change(meta):
        _read_in_front(meta, target)
        other = meta.signature_def["other"]
        other.CopyFrom(meta.signature_def["default"])
        meta.signature_def["default"].inputs["images"].name = "late:0"
        late = meta.graph_def.node.add(name="late", op="Placeholder")
        late.attr["dtype"].type = 1

    _tf1(path, change)


def tf1_fed_and_run_at_load(path: pathlib.Path, target: str) -> None:
    """What is fed is also part of what runs at load."""

    def change(meta):
        _read_in_front(meta, target)
        meta.collection_def["saved_model_main_op"].node_list.value.append("images")

    _tf1(path, change)


TF1 = {
    make.__name__: make
    for make in (
        tf1_control_input, tf1_local_variable, tf1_fed_by_control, tf1_fed_by_another_signature,
        tf1_fed_and_run_at_load,
    )
}  # fmt: skip


def file_in_front(path: pathlib.Path) -> None:
    """An honest pipeline in front of the network: its signature feeds the images, so no file is ever read."""
    _tf1(path, lambda meta: _read_in_front(meta, "nowhere"))


def two_meta_graphs(path: pathlib.Path, target: str) -> None:
    """A module of TF1 Hub whose meta graph for training writes when its output is computed."""
    savedmodels.slim_tf1(path)
    proto = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for meta in proto.meta_graphs:
        if "train" in meta.meta_info_def.tags:
            _hidden_write(meta, target)
            next(n for n in meta.graph_def.node if n.name == "features").input.append("^hidden")
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())
