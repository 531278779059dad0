"""SavedModels that reach outside of themselves, each in a way of its own.

Every function in `HOSTILE` writes one into a folder; where it is run, it reads ``secret`` or writes ``target``. They
are real: TensorFlow saved them, or they are an honest model whose ``saved_model.pb`` was changed by hand, since only
that shows what a stranger could write. `REFUSED` says what the message has to name.
"""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import savedmodels
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

SPEC = [tf.TensorSpec([None, 2], tf.float32, name="x")]
Body = Callable[[Any, Any], Any]


class _Model(tf.Module):
    def __init__(self, body: Body, resource: Any = None) -> None:
        super().__init__()
        self.kernel = tf.Variable(tf.ones([2, 2]), name="block0/kernel")
        self.resource, self._body = resource, body

    @tf.function(input_signature=SPEC)
    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        return self._body(self, x)


def _save(path: pathlib.Path, body: Body = lambda m, x: x @ m.kernel, resource: Any = None) -> None:
    model = _Model(body, resource)
    tf.saved_model.save(model, str(path), signatures=model.__call__)


def _after(effect: Any, value: Any) -> Any:
    with tf.control_dependencies([effect]):
        return tf.identity(value)


@contextmanager
def changed(path: pathlib.Path) -> Iterator[Any]:
    """Gives the only meta graph of a SavedModel, and writes it back."""
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    yield proto.meta_graphs[0]
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())


def _string(nodes: Any, name: str, value: str | list[str]) -> str:
    node = nodes.add(name=name, op="Const")
    node.attr["dtype"].type = tf.string.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    return name


def _function(meta: Any, part: str) -> Any:
    return next(f for f in meta.graph_def.library.function if part in f.signature.name)


# ------------------------------------------------------------------------- when called


def writes_when_called(path, secret, target):
    _save(path, lambda m, x: _after(tf.io.write_file(target, "x"), x @ m.kernel))


def reads_when_called(path, secret, target):
    _save(path, lambda m, x: x @ m.kernel + tf.cast(tf.strings.length(tf.io.read_file(secret)), tf.float32))


def writes_in_a_branch(path, secret, target):
    def body(m, x):
        write = lambda: _after(tf.io.write_file(target, "x"), x @ m.kernel)  # noqa: E731
        return tf.cond(tf.reduce_sum(x) > -1e9, write, lambda: x @ m.kernel)

    _save(path, body)


def writes_in_a_loop(path, secret, target):
    def step(i, y):
        return i + 1, _after(tf.io.write_file(target, "x"), y * 1.0)

    _save(path, lambda m, x: tf.while_loop(lambda i, y: i < 2, step, [0, x])[1] @ m.kernel)


def prints_to_a_file(path, secret, target):
    _save(
        path,
        lambda m, x: _after(tf.raw_ops.PrintV2(input="x", output_stream=f"file://{target}"), x @ m.kernel),
    )


def saves_a_checkpoint(path, secret, target):
    save = lambda x: tf.raw_ops.SaveV2(prefix=target, tensor_names=["a"], shape_and_slices=[""], tensors=[x])  # noqa: E731
    _save(path, lambda m, x: _after(save(x), x @ m.kernel))


def restores_another_checkpoint(path, secret, target):
    def body(m, x):
        found = tf.raw_ops.RestoreV2(prefix=secret, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32])
        return x @ m.kernel + tf.reduce_sum(found[0])

    _save(path, body)


def reads_with_a_dataset(path, secret, target):
    def body(m, x):
        lines = tf.data.TextLineDataset(secret).reduce(0, lambda total, line: total + tf.strings.length(line))
        return x @ m.kernel + tf.cast(lines, tf.float32)

    _save(path, body)


def calls_python(path, secret, target):
    def write():
        pathlib.Path(target).touch()
        return 0.0

    _save(path, lambda m, x: x @ m.kernel + tf.cast(tf.numpy_function(write, [], tf.float64), tf.float32))


def lists_files(path, secret, target):
    pattern = f"{os.path.dirname(secret)}/*"
    _save(path, lambda m, x: x @ m.kernel + tf.cast(tf.size(tf.io.matching_files(pattern)), tf.float32))


# ------------------------------------------------------------------------- when loaded


class _Resource(tf.saved_model.experimental.TrackableResource):
    def __init__(self, create: Callable[[], Any] = lambda: None, initialize: Callable[[Any], Any] = lambda t: None):
        super().__init__()
        self._create, self._init = create, initialize
        self._made = self.resource_handle

    def _create_resource(self) -> tf.Tensor:
        self._create()
        return tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64, shared_name="hostile")

    def _initialize(self) -> None:
        self._init(self.resource_handle)

    def _destroy_resource(self) -> None:
        pass


def _with_resource(path: pathlib.Path, **functions: Any) -> None:
    def body(m, x):
        known = tf.raw_ops.LookupTableFindV2(
            table_handle=m.resource.resource_handle, keys=["a"], default_value=tf.constant(0, tf.int64)
        )
        return x @ m.kernel + tf.cast(known, tf.float32)

    _save(path, body, _Resource(**functions))


def writes_when_a_resource_is_made(path, secret, target):
    _with_resource(path, create=lambda: tf.io.write_file(target, "x"))
    pathlib.Path(target).unlink(missing_ok=True)  # it was made here too


def writes_when_a_resource_is_initialized(path, secret, target):
    _with_resource(path, initialize=lambda t: tf.io.write_file(target, "x"))


def _initialize_from(table: Any, name: Any) -> Any:
    return tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=table, filename=name, key_index=-2, value_index=-1, vocab_size=-1, delimiter="\t"
    )


def vocabulary_with_a_path(path, secret, target):
    _with_resource(path, initialize=lambda t: _initialize_from(t, secret))


def vocabulary_with_a_path_through_a_call(path, secret, target):
    """The operation gets its path as an argument, and its caller says a literal."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.resource), tf.TensorSpec([], tf.string)], autograph=False)
    def inner(table, name):
        _initialize_from(table, name)

    _with_resource(path, initialize=lambda t: inner(t, secret))


def vocabulary_captured_as_a_constant(path, secret, target):
    """The captured asset of an honest model becomes a captured constant."""
    savedmodels.lookup(path)
    with changed(path) as meta:
        objects = meta.object_graph_def
        node = next(n for n in objects.nodes if n.WhichOneof("kind") == "asset")
        node.constant.operation = _string(meta.graph_def.node, "asset_path", secret)


def vocabulary_set_by_a_variable(path, secret, target):
    """What TF Serving reads: the variable that holds the asset's path is set once more."""
    savedmodels.lookup(path)
    with changed(path) as meta:
        nodes = meta.graph_def.node
        again = nodes.add(
            name="asset_again", op="AssignVariableOp", input=["Variable", _string(nodes, "asset", secret)]
        )
        again.attr["dtype"].type = tf.string.as_datatype_enum
        next(n for n in nodes if n.name == "NoOp").input.append("^asset_again")


# -------------------------------------------------------------- the saver, TF1, the proto


def saver_in_a_signature(path, secret, target):
    """The model calls the function that saves it, with a path of its own."""
    _save(path)
    with changed(path) as meta:
        save = _function(meta, "traced_save").signature.name
        body = _function(meta, "inference___call__")
        call = body.node_def.add(name="hidden", op="StatefulPartitionedCall")
        call.input.append(_string(body.node_def, "name", target) + ":output:0")
        call.attr["f"].func.name = save
        body.node_def[0].input.append("^hidden")


def saver_writes_at_restore(path, secret, target):
    """The function that restores the model, which TF1 and TF Serving run at load, also writes."""
    _save(path)
    with changed(path) as meta:
        body = _function(meta, "traced_restore")
        node = body.node_def.add(name="hidden", op="SaveV2")
        names = [_string(body.node_def, n, v) + ":output:0" for n, v in (("where", target), ("n", "a"), ("s", ""))]
        node.input.extend([*names, names[0]])


def saver_reads_elsewhere(path, secret, target):
    """The function that restores the model reads another path than the one it is given."""
    _save(path)
    with changed(path) as meta:
        body = _function(meta, "traced_restore")
        node = next(n for n in body.node_def if n.op == "RestoreV2")
        node.input[0] = _string(body.node_def, "where", secret) + ":output:0"


def saver_as_a_gradient(path, secret, target):
    """The function that saves is named as the gradient of an operation."""
    _save(path)
    with changed(path) as meta:
        gradient = meta.graph_def.library.registered_gradients.add(registered_op_type="CustomGradient-1")
        gradient.gradient_func = _function(meta, "traced_save").signature.name


def saver_by_its_name(path, secret, target):
    """A text names the function that saves, as TensorFlow's own gradients do."""
    _save(path)
    with changed(path) as meta:
        name = _function(meta, "traced_save").signature.name
        _function(meta, "inference___call__").attr["forward_function_name"].s = name.encode()


def saver_by_a_list_of_texts(path, secret, target):
    """A list of texts names the function that saves."""
    _save(path)
    with changed(path) as meta:
        name = _function(meta, "traced_save").signature.name
        _function(meta, "inference___call__").node_def[0].attr["names"].list.s.append(name.encode())


def saver_as_an_attribute_of_a_function(path, secret, target):
    """The endpoint itself, not one of its nodes, has the function that saves as an attribute."""
    _save(path)
    with changed(path) as meta:
        name = _function(meta, "traced_save").signature.name
        _function(meta, "inference___call__").attr["again"].func.name = name


def saver_as_an_attribute_of_an_argument(path, secret, target):
    """An argument of the endpoint has it."""
    _save(path)
    with changed(path) as meta:
        name = _function(meta, "traced_save").signature.name
        _function(meta, "inference___call__").arg_attr[0].attr["again"].func.name = name


def _tf1(path: pathlib.Path, change: Callable[[Any], None]) -> None:
    savedmodels.slim_tf1(path)
    proto = saved_model_pb2.SavedModel()
    proto.ParseFromString((path / "saved_model.pb").read_bytes())
    for meta in proto.meta_graphs:
        change(meta)
    (path / "saved_model.pb").write_bytes(proto.SerializeToString())


def _tf1_save(meta: Any, target: str) -> None:
    nodes = meta.graph_def.node
    node = nodes.add(name="hidden", op="SaveV2")
    names = [_string(nodes, f"h{i}", v) for i, v in enumerate((target, ["a"], [""]))]
    node.input.extend([*names, names[0]])
    node.attr["dtypes"].list.type.append(tf.string.as_datatype_enum)


def tf1_collection_of_tables(path, secret, target):
    """No initializer is named, so TensorFlow runs what the collection of tables names."""

    def change(meta):
        _tf1_save(meta, target)
        meta.collection_def["table_initializer"].node_list.value.append("hidden")

    _tf1(path, change)


def tf1_main_op(path, secret, target):
    def change(meta):
        _tf1_save(meta, target)
        meta.collection_def["saved_model_main_op"].node_list.value.append("hidden")

    _tf1(path, change)


def tf1_legacy_init_op(path, secret, target):
    def change(meta):
        nodes = meta.graph_def.node
        names = [_string(nodes, "a", target), _string(nodes, "b", "x")]
        nodes.add(name="hidden", op="WriteFile", input=names)
        meta.collection_def["legacy_init_op"].node_list.value.append("hidden")

    _tf1(path, change)


def tf1_restore_op(path, secret, target):
    def change(meta):
        _tf1_save(meta, target)
        name = meta.saver_def.restore_op_name
        next(n for n in meta.graph_def.node if n.name == name).input.append("^hidden")

    _tf1(path, change)


def tf1_asset_read_by_a_signature(path, secret, target):
    """The constant is declared as an asset, which only an initializer is given; a signature reads what it says."""

    def change(meta):
        nodes = meta.graph_def.node
        table = nodes.add(name="table", op="HashTableV2")
        table.attr["key_dtype"].type = tf.string.as_datatype_enum
        table.attr["value_dtype"].type = tf.int64.as_datatype_enum
        nodes.add(
            name="hidden", op="InitializeTableFromTextFileV2", input=["table", _string(nodes, "asset_path", secret)]
        )
        asset = meta.asset_file_def.add(filename="v.txt")
        asset.tensor_info.name = "asset_path:0"
        next(n for n in nodes if n.name == "features").input.append("^hidden")

    _tf1(path, change)
    (path / "assets").mkdir()
    (path / "assets" / "v.txt").write_text("a\n")


def program_as_bytes(path, secret, target):
    _save(path)
    with changed(path) as meta:
        body = _function(meta, "inference___call__")
        node = body.node_def.add(name="hidden", op="XlaCallModule")
        node.attr["module"].s = b"any program"


def unknown_operation(path, secret, target):
    _save(path)
    with changed(path) as meta:
        _function(meta, "inference___call__").node_def.add(name="hidden", op="SentencepieceOpOfMine")


def function_named_as_an_operation(path, secret, target):
    """A function of the graph has the name of the operation that it hides."""
    _save(path)
    with changed(path) as meta:
        meta.graph_def.library.function.add().signature.name = "WriteFile"
        body = _function(meta, "inference___call__")
        names = [_string(body.node_def, n, target) + ":output:0" for n in ("a", "b")]
        body.node_def.add(name="hidden", op="WriteFile", input=names)


def function_twice(path, secret, target):
    """Two functions of one name: one reader takes the first, another the last."""
    _save(path)
    with changed(path) as meta:
        again = meta.graph_def.library.function.add()
        again.signature.name = _function(meta, "inference___call__").signature.name


def function_that_is_missing(path, secret, target):
    _save(path)
    with changed(path) as meta:
        node = _function(meta, "inference___call__").node_def.add(name="hidden", op="StatefulPartitionedCall")
        node.attr["f"].func.name = "WriteFile"


def function_without_end(path, secret, target):
    _save(path)
    with changed(path) as meta:
        body = _function(meta, "inference___call__")
        call = body.node_def.add(name="hidden", op="StatefulPartitionedCall")
        call.attr["f"].func.name = body.signature.name


def function_bomb(path, secret, target):
    """Forty functions, each of which calls the next one twice."""
    _save(path)
    with changed(path) as meta:
        library = meta.graph_def.library
        for i in range(40):
            function = library.function.add()
            function.signature.name = f"bomb{i}"
            for call in ("a", "b") if i < 39 else ():
                node = function.node_def.add(name=call, op="PartitionedCall")
                node.attr["f"].func.name = f"bomb{i + 1}"


def constant_bomb(path, secret, target):
    """One stored number stands for four terabytes."""
    _save(path)
    with changed(path) as meta:
        node = _function(meta, "inference___call__").node_def.add(name="hidden", op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        tensor = node.attr["value"].tensor
        tensor.dtype = tf.float32.as_datatype_enum
        tensor.tensor_shape.dim.add(size=10**12)
        tensor.float_val.append(1.0)


def constant_that_is_a_handle(path, secret, target):
    _save(path)
    with changed(path) as meta:
        node = _function(meta, "inference___call__").node_def.add(name="hidden", op="Const")
        node.attr["dtype"].type = tf.resource.as_datatype_enum
        handle = node.attr["value"].tensor.resource_handle_val.add()
        handle.name, handle.container = "somebody_elses_table", "localhost"


# --------------------------------------------------------------------------- the folder


def asset_outside(path, secret, target):
    savedmodels.lookup(path)
    with changed(path) as meta:
        meta.asset_file_def[0].filename = "../../secret.txt"


def asset_with_a_whole_path(path, secret, target):
    savedmodels.lookup(path)
    with changed(path) as meta:
        meta.asset_file_def[0].filename = secret


def asset_that_is_a_link(path, secret, target):
    savedmodels.lookup(path)
    (asset,) = (path / "assets").iterdir()
    asset.unlink()
    asset.symlink_to(secret)


def variables_that_are_a_link(path, secret, target):
    _save(path)
    elsewhere = path.parent / "elsewhere"
    shutil.move(path / "variables", elsewhere)
    (path / "variables").symlink_to(elsewhere)


def pipe_in_the_folder(path, secret, target):
    """Reading it would wait for ever."""
    _save(path)
    (path / "fingerprint.pb").unlink()
    os.mkfifo(path / "fingerprint.pb")


def second_model_as_text(path, secret, target):
    _save(path)
    (path / "saved_model.pbtxt").write_text("")


# ------------------------------------------------------------- code that looks as if nothing reached it


class _WithStep(_Model):
    """A model beside a function that writes and that no endpoint calls: honest, until something names the function."""

    def __init__(self, target: str) -> None:
        super().__init__(lambda m, x: x @ m.kernel)
        self._target = target

    @tf.function(input_signature=SPEC)
    def step(self, x: tf.Tensor) -> tf.Tensor:
        return _after(tf.io.write_file(self._target, "x"), x * 1.0)


def with_step(path: pathlib.Path, target: str, **signatures: str) -> None:
    """Saves it with signatures by the names of its functions; without any its ``__call__`` is the endpoint."""
    model = _WithStep(target)
    chosen = {name: getattr(model, function).get_concrete_function() for name, function in signatures.items()}
    model.step.get_concrete_function()
    tf.saved_model.save(model, str(path), signatures=chosen or model.__call__)


def _step_of(meta: Any) -> str:
    return _function(meta, "inference_step").signature.name


def step_named_in_a_text(path, secret, target):
    with_step(path, target)
    with changed(path) as meta:
        _function(meta, "inference___call__").attr["forward_function_name"].s = _step_of(meta).encode()


def step_named_in_a_text_of_a_node(path, secret, target):
    with_step(path, target)
    with changed(path) as meta:
        node = _function(meta, "inference___call__").node_def.add(name="hidden", op="NoOp")
        node.attr["texts"].list.s.append(_step_of(meta).encode())


def step_named_as_one_of_several_functions(path, secret, target):
    with_step(path, target)
    with changed(path) as meta:
        node = _function(meta, "inference___call__").node_def.add(name="hidden", op="NoOp")
        node.attr["branches"].list.func.add().attr["inner"].func.name = _step_of(meta)


def step_called_before_a_node_of_the_endpoint(path, secret, target):
    """A call that hands nothing on, which a node of the model waits for."""
    with_step(path, target)
    with changed(path) as meta:
        body = _function(meta, "inference___call__")
        call = body.node_def.add(name="hidden", op="StatefulPartitionedCall", input=["x"])
        call.attr["f"].func.name = _step_of(meta)
        next(node for node in body.node_def if node.op == "MatMul").input.append("^hidden")


def step_as_the_gradient_of_a_function(path, secret, target):
    with_step(path, target)
    with changed(path) as meta:
        called = _function(meta, "inference___call__").signature.name
        meta.graph_def.library.gradient.add(function_name=called, gradient_func=_step_of(meta))


def step_as_the_gradient_of_an_operation(path, secret, target):
    with_step(path, target)
    with changed(path) as meta:
        meta.graph_def.library.registered_gradients.add(registered_op_type="Relu", gradient_func=_step_of(meta))


def step_as_the_initializer_of_a_resource(path, secret, target):
    """The function has its honest name, and another one under which TensorFlow runs it at load."""
    with_step(path, target)
    with changed(path) as meta:
        nodes = meta.object_graph_def.nodes
        step = next(child.node_id for child in nodes[0].children if child.local_name == "step")
        nodes[0].children.add(node_id=len(nodes), local_name="resource")
        nodes.add().resource.SetInParent()
        nodes[-1].children.add(node_id=step, local_name="_initialize")


def step_as_a_saver_of_an_object(path, secret, target):
    with_step(path, target)
    with changed(path) as meta:
        nodes = meta.object_graph_def.nodes
        step = next(child.node_id for child in nodes[0].children if child.local_name == "step")
        saver = nodes[0].saveable_objects["state"]
        saver.save_function, saver.restore_function = step, step


def step_as_a_regularization_loss(path, secret, target):
    """tfft calls these losses by itself."""
    with_step(path, target)
    with changed(path) as meta:
        nodes = meta.object_graph_def.nodes
        step = next(child.node_id for child in nodes[0].children if child.local_name == "step")
        nodes[0].children.add(node_id=len(nodes), local_name="regularization_losses")
        nodes.add().user_object.identifier = "trackable_list_wrapper"
        nodes[-1].children.add(node_id=step, local_name="0")


def step_as_the_default_signature(path, secret, target):
    """The default endpoint writes; another one does not, and nobody asked for it."""
    model = _WithStep(target)
    root = tf.Module()
    root.kernel = model.kernel
    functions = {"serving_default": model.step, "other": model.__call__}
    tf.saved_model.save(root, str(path), {name: f.get_concrete_function() for name, f in functions.items()})


def tf1_waits_for_a_hidden_node(path, secret, target):
    def change(meta):
        _tf1_save(meta, target)
        next(n for n in meta.graph_def.node if n.name == "features").input.append("^hidden")

    _tf1(path, change)


REFUSED: dict[Callable[..., None], str] = {
    writes_when_called: r"WriteFile \(__inference.*: writes files\)",
    reads_when_called: r"ReadFile \(__inference.*: reads files\)",
    writes_in_a_branch: r"WriteFile \(cond_true.*: writes files\)",
    writes_in_a_loop: r"WriteFile \(while_body.*: writes files\)",
    prints_to_a_file: r"PrintV2 \(__inference.*: writes files\)",
    saves_a_checkpoint: r"SaveV2 \(__inference___call__.*: writes files\)",
    restores_another_checkpoint: r"RestoreV2 \(__inference___call__.*: reads files\)",
    reads_with_a_dataset: r"TextLineDataset \(.*: reads files\)",
    calls_python: r"PyFunc \(__inference.*: runs Python\)",
    lists_files: r"MatchingFiles \(.*: reads files\)",
    writes_when_a_resource_is_made: r"WriteFile \(__inference__creator_.*: writes files\)",
    writes_when_a_resource_is_initialized: r"WriteFile \(__inference__initializer_.*: writes files\)",
    vocabulary_with_a_path: r"InitializeTableFromTextFileV2 \(__inference__initializer_.*that is not an asset: .*Const",
    vocabulary_with_a_path_through_a_call: r"InitializeTableFromTextFileV2 \(__inference_inner.*not an asset: .*Const",
    vocabulary_captured_as_a_constant: r"InitializeTableFromTextFileV2 \(.*not an asset: .*argument",
    vocabulary_set_by_a_variable: r"InitializeTableFromTextFileV2 \(.*not an asset: asset \(Const\)",
    saver_in_a_signature: r"SaveV2 \(__inference__traced_save.*: writes files\)",
    saver_writes_at_restore: r"SaveV2 \(__inference__traced_restore.*/hidden: writes files\)",
    saver_reads_elsewhere: r"RestoreV2 \(__inference__traced_restore.*not the checkpoint: .*where \(Const\)",
    saver_as_a_gradient: r"SaveV2 \(__inference__traced_save.*: writes files\)",
    saver_by_its_name: r"SaveV2 \(__inference__traced_save.*: writes files\)",
    saver_by_a_list_of_texts: r"SaveV2 \(__inference__traced_save.*: writes files\)",
    saver_as_an_attribute_of_a_function: r"SaveV2 \(__inference__traced_save.*: writes files\)",
    saver_as_an_attribute_of_an_argument: r"SaveV2 \(__inference__traced_save.*: writes files\)",
    tf1_collection_of_tables: r"SaveV2 \(hidden: writes files\)",
    tf1_main_op: r"SaveV2 \(hidden: writes files\)",
    tf1_legacy_init_op: r"WriteFile \(hidden: writes files\)",
    tf1_restore_op: r"SaveV2 \(hidden: writes files\)",
    tf1_asset_read_by_a_signature: r"InitializeTableFromTextFileV2 \(hidden: .*not an asset: asset_path \(Const\)",
    program_as_bytes: r"XlaCallModule \(__inference___call__.*/hidden: carries a program as bytes\)",
    unknown_operation: r"SentencepieceOpOfMine \(.*/hidden: not known to only compute\)",
    function_named_as_an_operation: r"the function WriteFile has the name of an operation",
    function_twice: r"functions with one name: __inference___call__",
    function_that_is_missing: r"StatefulPartitionedCall \(.*/hidden: calls WriteFile, which the graph does not hold\)",
    function_without_end: r"the function __inference___call___\d+ calls itself",
    function_bomb: r"functions that call functions, .* operations and more when opened \(bomb",
    constant_bomb: r"constants that claim 3,999,999,999,\d+ bytes more",
    constant_that_is_a_handle: r"Const \(.*/hidden: a constant that is a handle instead of a value\)",
    asset_outside: r"asset '\.\./\.\./secret\.txt' leaves the folder assets/",
    asset_with_a_whole_path: r"asset '/.*secret\.txt' leaves the folder assets/",
    asset_that_is_a_link: r"assets/.*_vocabulary\.txt links to a place outside of the folder",
    variables_that_are_a_link: r"variables links to a place outside of the folder",
    pipe_in_the_folder: r"fingerprint\.pb is neither a file nor a folder but a pipe",
    step_named_in_a_text: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_named_in_a_text_of_a_node: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_named_as_one_of_several_functions: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_called_before_a_node_of_the_endpoint: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_as_the_gradient_of_a_function: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_as_the_gradient_of_an_operation: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_as_the_initializer_of_a_resource: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_as_a_saver_of_an_object: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_as_a_regularization_loss: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    step_as_the_default_signature: r"WriteFile \(__inference_.*step_\d+/.*: writes files\)",
    tf1_waits_for_a_hidden_node: r"SaveV2 \(hidden: writes files\)",
    second_model_as_text: r"saved_model\.pbtxt beside saved_model\.pb",
}
HOSTILE = {make.__name__: make for make in REFUSED}
