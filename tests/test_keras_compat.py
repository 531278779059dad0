"""Private names of Keras: one module touches them, and each of its functions does what it promises."""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config  # determinism cannot be switched off publicly

import tfft
from tfft import keras_compat
from tfft.keras_compat import flatten_layers

PACKAGE = pathlib.Path(tfft.__file__).parent
ACCESSORS = ("getattr", "hasattr", "setattr", "delattr")
PRIVATE_MODULES = ("keras.src", "tensorflow.python")
ALLOWED = {
    "tfft/arrays/npy_files.py: _mmap",  # of NumPy
    "tfft/data/tfds/export.py: _lazy_decode",  # of TensorFlow Datasets
    "tfft/tasks/text_to_text/evaluator.py: _extract_corpus_statistics",  # of sacrebleu, as the next
    "tfft/tasks/text_to_text/evaluator.py: _compute_score_from_stats",
    "tfft/features/sources.py: _inputs",  # of a class beside; models of Keras happen to have one too
}


# ---------------------------------------------------------------------- nobody else touches private names


@functools.cache
def keras_privates() -> set[str]:
    """Names with an underscore of Keras' classes, and of objects of them."""
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    objects = [model, *model.layers, model.optimizer, inputs, *model.weights, keras.metrics.Mean(), keras.losses.Loss]
    objects += [getattr(keras.optimizers, name) for name in dir(keras.optimizers)]
    return {name for thing in objects for name in dir(thing) if is_private(name)}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def defined_in(tree: ast.AST) -> set[str]:
    """Names that a module gives to its own classes' attributes and functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            names.add(node.attr)
    return names


def is_self(node: ast.expr) -> bool:
    called = node.func if isinstance(node, ast.Call) else node  # super() is the object itself too
    return isinstance(called, ast.Name) and called.id in ("self", "cls", "super")


def touches(tree: ast.AST) -> Iterator[str]:
    """Private names that a module takes from objects that are not its own."""
    own = defined_in(tree) - keras_privates()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and not is_self(node.value):
            yield from [node.attr] if node.attr not in own else []
        elif isinstance(node, ast.Attribute) and node.attr == "__internal__":
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ACCESSORS:
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(name.value) and not is_self(node.args[0]):
                yield name.value
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(PRIVATE_MODULES))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PRIVATE_MODULES):
            yield node.module


@pytest.mark.slow
def test_no_other_module_touches_a_private_name_of_keras():
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path != pathlib.Path(keras_compat.__file__):
            place = path.relative_to(PACKAGE.parent).as_posix()
            found |= {f"{place}: {name}" for name in touches(ast.parse(path.read_text("utf-8")))}
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "layer._flatten_layers()",
        "from keras.src.saving import serialization_lib",
        "import tensorflow.python.eager",
        "getattr(model, '_compile_loss', None)",
        "tf.__internal__.distribute",
        "class C:\n    def f(self, other):\n        self._iterations = other._iterations",
    ],
)
def test_the_check_finds(code):
    assert list(touches(ast.parse(code)))


def test_the_check_lets_own_names_pass():
    code = "class C:\n    _x = None\n    def f(self, other):\n        self._y = super()._z()\n        return other._y"
    assert not list(touches(ast.parse(code)))


@pytest.mark.slow
def test_a_tokenizer_is_there_again_after_a_new_seed():
    pytest.importorskip("keras_hub")
    from tfft.tasks.text_to_text.vocabulary import learn_vocabulary

    tokenizer = learn_vocabulary(["ein kleiner hund", "eine grosse katze", "der hund und die katze"] * 20, 400)
    text = tf.constant(["ein hund"])
    keras_compat.prepare_tokenizer(tokenizer)
    ids = tokenizer(text)  # outside of a graph, KerasHub gives lists
    tf.random.set_seed(1)
    keras_compat.prepare_tokenizer(tokenizer)
    traced = tf.function(lambda texts: tokenizer(texts))
    assert traced(text).to_list() == ids == tokenizer(text)


def test_every_function_is_documented_and_tested():
    functions = [f for _, f in inspect.getmembers(keras_compat, inspect.isfunction)]
    functions = [f for f in functions if f.__module__ == keras_compat.__name__]
    source = pathlib.Path(__file__).read_text("utf-8")
    assert not [f.__name__ for f in functions if not f.__doc__ or not re.search(rf"\b{f.__name__}\b", source)]


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.parametrize("name", ["tfft.keras_compat", "tfft.freezing", "tfft.optimizers"])
def test_a_module_may_be_the_first_to_import_keras(name):
    """Importing Keras imports modules of tfft in turn, which must not need one that is only half there."""
    code = f"import sys, {name}; sys.exit('keras' not in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


# ---------------------------------------------------------------------- layers and variables


class Composite(keras.layers.Layer):
    """A layer with a layer inside, a variable and a random generator of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(2, name="inner")
        self.seeds = keras.random.SeedGenerator(1)

    def build(self, shape):
        self.scale = self.add_weight(shape=(1,), name="scale")
        self.count = self.add_weight(shape=(1,), name="count", trainable=False)
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) * self.scale


@pytest.fixture
def composite():
    layer = Composite(name="composite")
    layer.build((None, 3))
    return layer


def functional(units: int = 2, **settings) -> keras.Model:
    inputs = keras.Input((3,), name="inputs")
    return keras.Model(inputs, keras.layers.Dense(units, name="dense")(inputs), **settings)


def compiled(**settings) -> keras.Model:
    model = functional()
    model.compile(**{"optimizer": keras.optimizers.Adam(0.1), "loss": "mse", **settings})
    return model


def paths(variables) -> list[str]:
    return [v.name for v in variables]


def test_layers_inside_of_a_layer(composite):
    assert flatten_layers(composite) == [composite, composite.inner]
    assert flatten_layers(composite, include_self=False) == [composite.inner]


def test_own_variables_of_a_layer(composite):
    composite.trainable = False
    assert paths(keras_compat.own_weights(composite)) == ["scale", "count"]
    assert paths(keras_compat.own_trainable_variables(composite)) == ["scale"]
    assert paths(keras_compat.own_non_trainable_variables(composite)) == ["count"]
    assert keras_compat.seed_generators(composite) == [composite.seeds]


def test_a_built_layer_takes_a_variable_and_loses_it(composite):
    with pytest.raises(ValueError, match="cannot add new elements"):
        composite.add_weight(shape=(1,), name="late")
    with keras_compat.unlocked(composite):
        late = composite.add_weight(shape=(1,), name="late")
    assert "late" in paths(composite.weights)
    with pytest.raises(ValueError, match="cannot add new elements"):
        composite.add_weight(shape=(1,), name="later")
    keras_compat.untrack_variable(composite, late)
    assert paths(composite.weights) == ["scale", "count", "kernel", "bias"]


def test_variables_keep_their_type_without_autocast():
    kernel = keras.Variable(np.zeros((3, 2), "float32"))
    types = []

    class Outer(keras.layers.Layer):
        def call(self, x):
            types.append(keras.backend.standardize_dtype(keras.ops.convert_to_tensor(kernel).dtype))
            with keras_compat.no_autocast():
                types.append(keras.backend.standardize_dtype(keras.ops.convert_to_tensor(kernel).dtype))
            return x

    Outer(dtype="mixed_bfloat16")(np.zeros((1, 3), "float32"))
    assert types == ["bfloat16", "float32"]


def test_an_untracked_attribute():
    class Holder(keras.optimizers.SGD):
        def track(self, value):
            self.tracked = value

        @keras_compat.no_automatic_dependency_tracking
        def hold(self, value):
            self.held = value

    tracked, held, holder = keras.Variable(0.0), keras.Variable(0.0), Holder()
    holder.track(tracked)
    holder.hold(held)
    ids = {id(v) for v in holder.variables}
    assert id(tracked) in ids
    assert id(held) not in ids


# ---------------------------------------------------------------------- functional graphs


def test_who_computes_a_tensor():
    model = functional()
    dense = model.get_layer("dense")
    node = keras_compat.producing_node(model.output)
    assert keras_compat.producer(model.output) is node.operation is dense
    assert keras_compat.inbound_nodes(dense) == [node]
    assert node.input_tensors == model.inputs
    assert keras_compat.inbound_nodes(keras.layers.Dense(1)) == []


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(2)

    def call(self, x):
        return self.dense(x)


def test_which_models_have_a_graph():
    assert keras_compat.is_functional(functional())
    assert keras_compat.is_functional(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    assert not keras_compat.is_functional(keras.Sequential([keras.layers.Dense(2)]))
    assert not keras_compat.is_functional(Subclassed())
    assert not keras_compat.is_functional(keras.layers.Dense(2))


def test_which_files_hold_layers_one_by_one(composite):
    assert keras_compat.saves_graph(functional())
    assert keras_compat.saves_graph(keras.Sequential([keras.layers.Dense(2)]))
    assert not keras_compat.saves_graph(Subclassed())
    assert not keras_compat.saves_graph(composite)


def test_shapes_of_the_first_call():
    model = Subclassed()
    assert keras_compat.build_shapes(model) == []
    model(np.zeros((1, 3), "float32"))
    assert [tuple(shape) for shape in keras_compat.build_shapes(model)] == [(1, 3)]


def test_masks():
    ids = np.array([[1, 0]])
    assert keras_compat.has_mask(keras.layers.Embedding(4, 2, mask_zero=True)(ids))
    assert not keras_compat.has_mask(keras.layers.Embedding(4, 2)(ids))


# ---------------------------------------------------------------------- training


def test_a_model_is_compiled_again_with_a_fresh_optimizer():
    def own_loss(y, p):
        return keras.ops.mean(keras.ops.square(y - p))

    model = compiled(loss=own_loss, metrics=["mae"])
    before = model.optimizer
    keras_compat.recompile(model)
    assert model.loss is own_loss
    assert model.optimizer is not before
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)
    assert "mae" in model.evaluate(np.zeros((2, 3)), np.zeros((2, 2)), return_dict=True, verbose=0)


def test_a_compile_of_its_own_is_not_repeated():
    class Own(keras.Model):
        def compile(self, **settings):
            super().compile(**settings)

    model = Own(*[functional().inputs] * 2)
    model.compile(loss="mse")
    with pytest.raises(TypeError, match="own"):
        keras_compat.recompile(model)


def test_weights_of_losses():
    assert keras_compat.loss_weights(compiled(loss=["mse"], loss_weights=[0.5])) == [0.5]
    assert keras_compat.loss_weights(compiled()) is None
    assert keras_compat.loss_weights(functional()) is None


def test_losses_are_forgotten():
    layer = keras.layers.Dense(2, activity_regularizer="l2")
    layer(np.ones((1, 3), "float32"))
    assert layer.losses
    keras_compat.clear_losses(layer)
    assert not layer.losses


def test_the_shown_loss_is_weighted_by_examples():
    model = compiled()
    keras_compat.build_for(model, (tf.TensorSpec((4, 3)), tf.TensorSpec((4, 2))))
    keras_compat.update_loss_tracker(model, tf.constant(1.0), tf.constant(1))
    keras_compat.update_loss_tracker(model, tf.constant(4.0), tf.constant(2))
    assert float(model.get_metrics_result()["loss"]) == pytest.approx(3.0)


def test_variables_of_metrics_without_a_step():
    model = compiled(metrics=["mae"])
    before = len(model.metrics_variables)
    weights = [w.numpy() for w in model.weights]
    keras_compat.build_for(model, (tf.TensorSpec((4, 3)), tf.TensorSpec((4, 2))))
    assert len(model.metrics_variables) > before
    assert model.optimizer.built
    for weight, value in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@pytest.mark.slow
def test_a_callback_sets_the_epoch_to_start_at():
    seen = []

    class Later(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            keras_compat.set_initial_epoch(self.model, 2)

        def on_epoch_begin(self, epoch, logs=None):
            keras_compat.set_initial_epoch(self.model, None)
            seen.append(epoch)

    model = compiled()
    data = np.zeros((2, 3)), np.zeros((2, 2))
    model.fit(*data, epochs=4, callbacks=[Later()], verbose=0)
    model.fit(*data, epochs=1, callbacks=[keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, _: seen.append(e))])
    assert seen == [2, 3, 0]


def test_the_strategy_of_a_model():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    assert keras_compat.distribute_strategy(functional()) is None
    with strategy.scope():
        model = compiled()
    assert keras_compat.distribute_strategy(model) is strategy
    model.predict_function = object()
    keras_compat.set_distribute_strategy(model, None)
    assert keras_compat.distribute_strategy(model) is None
    assert model.predict_function is None


# ---------------------------------------------------------------------- optimizers


def built(optimizer, *values) -> list[keras.Variable]:
    variables = [keras.Variable(value) for value in values or (1.0, 2.0)]
    optimizer.build(variables)
    return variables


@pytest.mark.parametrize("scaled", [False, True])
def test_what_an_optimizer_trains(scaled):
    inner = keras.optimizers.Adam()
    variables = built(keras.optimizers.LossScaleOptimizer(inner) if scaled else inner)
    assert [id(v) for v in keras_compat.trained_variables(inner)] == [id(v) for v in variables]
    assert [keras_compat.variable_index(inner, v) for v in variables] == [0, 1]


def test_loss_scaling_is_looked_through():
    outer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())
    variables = built(outer)
    assert [id(v) for v in keras_compat.trained_variables(outer)] == [id(v) for v in variables]


@pytest.mark.parametrize(
    ("kind", "count"),
    [("SGD", 0), ("RMSprop", 1), ("Adagrad", 1), ("Adadelta", 2), ("Lion", 1), ("Adam", 2), ("Adamax", 2), ("Lamb", 2)],
)
def test_slots_of_a_variable(kind, count):
    optimizer = getattr(keras.optimizers, kind)(0.1)
    first, second = built(optimizer, [1.0], [1.0, 2.0])
    assert [tuple(s.shape) for s in keras_compat.slots(optimizer, first)] == [(1,)] * count
    assert [tuple(s.shape) for s in keras_compat.slots(optimizer, second)] == [(2,)] * count
    assert len(keras_compat.slots(*with_momentum())) == 1


def with_momentum():
    optimizer = keras.optimizers.SGD(momentum=0.9, use_ema=True)
    return optimizer, built(optimizer)[0]


def test_the_moving_average_of_a_variable():
    optimizer = keras.optimizers.SGD(1.0, use_ema=True, ema_momentum=0.5)
    first, second = built(optimizer)
    optimizer.apply([tf.constant(0.0), tf.constant(1.0)], [first, second])
    first_average, second_average = (float(keras_compat.moving_average(optimizer, v).numpy()) for v in (first, second))
    assert first_average == pytest.approx(1.0)
    assert second_average == pytest.approx(1.0)  # 1 after a step from 2; the first average is the first value


def test_the_step_that_an_update_sees():
    optimizer = keras.optimizers.SGD(gradient_accumulation_steps=2)
    built(optimizer)
    counter = keras_compat.step_counter(optimizer)
    counter.assign(4)
    with keras_compat.steps_ahead(optimizer, 6):
        assert int(optimizer.iterations) == 5  # of two calls each
    assert keras_compat.step_counter(optimizer) is counter
    assert int(counter.numpy()) == 4


def test_exclusions_from_weight_decay_are_copied():
    optimizer, copy = keras.optimizers.AdamW(), keras.optimizers.AdamW()
    variables = [keras.Variable(1.0), keras.Variable(2.0)]
    optimizer.exclude_from_weight_decay([variables[0]])
    optimizer.build(variables)
    keras_compat.copy_weight_decay_exclusions(optimizer, copy)
    for each in (optimizer, copy):
        assert [keras_compat.uses_weight_decay(each, v) for v in variables] == [False, True]


def test_the_strength_of_weight_decay():
    matrix, vector = keras.Variable(np.ones((2, 2))), keras.Variable(np.ones(2))
    muon = keras.optimizers.Muon(weight_decay=0.1, adam_weight_decay=0.2)
    assert keras_compat.weight_decay(muon, matrix) == pytest.approx(0.1)
    assert keras_compat.weight_decay(muon, vector) == pytest.approx(0.2)
    assert keras_compat.weight_decay(keras.optimizers.SGD(weight_decay=0.3), matrix) == pytest.approx(0.3)
    assert keras_compat.weight_decay(keras.optimizers.SGD(), matrix) is None


def test_another_function_for_weight_decay():
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.1)
    variables = built(optimizer)
    decayed = []
    keras_compat.replace_weight_decay(optimizer, decayed.extend)
    optimizer.apply([tf.constant(0.0)] * 2, variables)
    assert [id(v) for v in decayed] == [id(v) for v in variables]
    assert float(variables[0].numpy()) == 1.0


def test_variables_of_replicas_are_updated_once():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        optimizer, variable = keras.optimizers.SGD(), tf.Variable(1.0)
        optimizer.build([keras.Variable(1.0)])

    def add(strategy):
        strategy.extended.update(variable, lambda v: v.assign_add(1.0), group=False)

    @tf.function
    def step():
        strategy.run(lambda: keras_compat.update_replicas(optimizer, add))

    step()
    assert float(variable.numpy()) == 2.0


# ---------------------------------------------------------------------- random state


def test_the_seed_generator_of_keras():
    kept = keras_compat.global_seed_generator()
    try:
        keras_compat.set_global_seed_generator(None)
        assert keras_compat.global_seed_generator() is None
        generator = keras_compat.ensure_global_seed_generator()
        assert keras_compat.global_seed_generator() is generator
        state = generator.state.numpy()
        keras.random.uniform(())
        assert not np.array_equal(generator.state.numpy(), state)
    finally:
        keras_compat.set_global_seed_generator(kept)


def test_the_seeds_of_tensorflow():
    tf.random.set_seed(7)
    assert keras_compat.tensorflow_seed() == 7
    sequence = keras_compat.tensorflow_seed_sequence()
    state = sequence.getstate()
    first = float(tf.random.uniform(()))
    assert sequence.getstate() != state
    tf.random.set_seed(7)
    assert float(tf.random.uniform(())) == first


def test_the_generator_of_tensorflow():
    kept = keras_compat.tensorflow_generator()
    try:
        tf.random.set_global_generator(None)
        assert keras_compat.tensorflow_generator() is None
        made = tf.random.get_global_generator()
        assert keras_compat.tensorflow_generator() is made
    finally:
        tf.random.set_global_generator(kept)


# ---------------------------------------------------------------------- saving and graphs


def test_safe_mode_while_a_file_is_loaded(tmp_path):
    seen = []

    @keras.saving.register_keras_serializable(package="test_keras_compat")
    class Seeing(keras.layers.Layer):
        def call(self, x):
            return x

        @classmethod
        def from_config(cls, config):
            seen.append(keras_compat.in_safe_mode())
            return super().from_config(config)

    inputs = keras.Input((3,))
    keras.Model(inputs, Seeing()(inputs)).save(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras")
    keras.models.load_model(tmp_path / "model.keras", safe_mode=False)
    assert seen == [True, False]


def test_preprocessors_that_take_labels():
    keras_hub = pytest.importorskip("keras_hub")
    assert keras_compat.calls_with_labels(keras_hub.layers.StartEndPacker(4)) is False
    tokenizer = keras_hub.models.BertTokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "word"])
    assert keras_compat.calls_with_labels(keras_hub.models.BertTextClassifierPreprocessor(tokenizer))


def test_definitions_of_operations():
    definition = keras_compat.op_definition("MatMul")
    assert [argument.name for argument in definition.input_arg] == ["a", "b"]
    assert keras_compat.op_definition("NoSuchOperation") is None


def test_variables_become_constants():
    weight = tf.Variable([[2.0]])
    function = tf.function(lambda x: tf.matmul(x, weight)).get_concrete_function(tf.TensorSpec((1, 1)))
    constant = keras_compat.with_constants(function)
    weight.assign([[3.0]])
    assert not constant.variables
    assert np.array(constant(tf.constant([[5.0]]))[0]).item() == 10.0


def test_functions_that_create_a_resource(tmp_path):
    module = tf.Module()
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1]), 0)
    module.find = tf.function(lambda key: module.table.lookup(key), [tf.TensorSpec((), tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    (creator,) = keras_compat.resource_creators(loaded, loaded.table.resource_handle)
    assert "HashTableV2" in {node.op for node in creator.graph.as_graph_def().node}
    assert keras_compat.resource_creators(loaded, tf.constant(0)) == []


def test_whether_operations_are_deterministic():
    assert keras_compat.is_deterministic() is False
    tf.config.experimental.enable_op_determinism()
    try:
        assert keras_compat.is_deterministic()
    finally:
        config.disable_op_determinism()
