"""State taken from real models and put back: every variable and every random draw that follows, bit for bit."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft.errors import PlanError
from tfft.optimizers import LayerwiseOptimizer, transfer_slots
from tfft.training.checkpoint.callback_state import CallbackStates
from tfft.training.checkpoint.fingerprint import differences, facts
from tfft.training.checkpoint.serialization import UnpackableError, pack, unpack
from tfft.training.checkpoint.state import broken, collect, movable, optimizer_from, restore, take_optimizer


class Noise(keras.layers.Layer):
    """Keeps its generators where only its own attributes lead to them."""

    def __init__(self):
        super().__init__()
        self.generator = tf.random.Generator.from_seed(5)
        self.calls = tf.Variable(0, trainable=False)

    def call(self, x, training=False):
        if not training:
            return x
        self.calls.assign_add(1)
        return x + 0.1 * tf.cast(self.generator.normal(tf.shape(x)), x.dtype)


def network(width=4, seed=3, optimizer="adam"):
    keras.utils.set_random_seed(seed)
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(width), keras.layers.Dropout(0.4)], name="inner")
    inputs = keras.Input((6,))
    x = keras.layers.BatchNormalization()(inner(inputs))
    x = keras.layers.GaussianNoise(0.1)(Noise()(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    model.compile(optimizer, loss="mse", metrics=["mae"])
    return model


def batches():
    values = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    return tf.data.Dataset.from_tensor_slices((values, values[:, :2])).batch(8)


def everything(model):
    found = [*model.variables, *model.optimizer.variables, *[g.state for g in generators(model)]]
    return [np.array(keras.ops.convert_to_numpy(v)).tobytes() for v in found]


def generators(model):
    return [g for layer in model._flatten_layers() for g in layer._seed_generators]


def draws():
    tensors = [
        keras.random.normal((3,)),
        tf.random.normal((3,)),
        tf.random.get_global_generator().normal((3,)),
    ]
    return [random.random(), random.gauss(0, 1), np.random.normal(), *[np.array(t).tobytes() for t in tensors]]


@pytest.mark.nightly
def test_training_goes_on_from_a_state_as_if_it_had_not_been_left():
    model = network()
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    draws()  # so that all global generators have moved
    arrays, state = collect(model)
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    after, drawn = everything(model), draws()
    other = network(seed=8)  # a new model, other weights, other random state
    other.fit(batches(), epochs=1, verbose=0, shuffle=False)
    assert everything(other) != after
    restore(other, arrays, state)
    other.fit(batches(), epochs=2, verbose=0, shuffle=False)
    assert draws() == drawn
    assert everything(other) == after
    assert [int(layer.calls) for layer in other.layers if isinstance(layer, Noise)] == [16]


@pytest.mark.nightly
def test_each_kind_of_state_matters():
    """Where one is wrong the weights come out differently: the test above would notice."""
    model = network()
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    arrays, state = collect(model)
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    wanted = everything(model)
    for spoilt in ("weights/0", "optimizer/0", "seeds/0", "seeds/1"):
        restore(model, {**arrays, spoilt: arrays[spoilt] + 1}, state)
        model.fit(batches(), epochs=2, verbose=0, shuffle=False)
        assert everything(model) != wanted, spoilt
    restore(model, arrays, state)
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    assert everything(model) == wanted


def test_only_what_may_move_is_held_unless_everything_is_asked_for():
    model = network()
    model.layers[1].trainable = False
    model.compile("sgd", loss="mse")
    held = [path for _, path in collect(model)[1]["weights"]["held"]]
    assert held == [v.path for v in model.weights if any(v is m for m in movable(model))]
    assert not any("inner" in path or path.startswith("dense/") for path in held)
    assert any("moving_mean" in path for path in held)
    assert len(collect(model, everything=True)[1]["weights"]["held"]) == len(model.weights)


@pytest.mark.daily("mixed_float16")
@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision_and_the_scale_of_the_loss_come_back(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = network()
        assert policy == "bfloat16" or type(model.optimizer).__name__ == "LossScaleOptimizer"
        model.fit(batches(), epochs=1, verbose=0, shuffle=False)
        arrays, state = collect(model)
        if policy == "bfloat16":
            assert arrays["weights/0"].dtype.name == "bfloat16"
        before = everything(model)
        model.fit(batches(), epochs=1, verbose=0, shuffle=False)
        assert everything(model) != before
        restore(model, arrays, state)
        assert everything(model) == before
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_state_of_another_model_is_refused_with_all_that_differs():
    model = network()
    arrays, state = collect(model)
    other = network(width=5, optimizer="sgd")
    before = everything(other)
    with pytest.raises(
        PlanError, match=r"(?s)was float32 \[6, 4\] and is float32 \[6, 5\].*was Adam and is SGD.*there were"
    ):
        restore(other, arrays, state)
    assert everything(other) == before
    with pytest.raises(PlanError, match="the model had 8 weights and has 2"):
        restore(keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)]), arrays, state, optimizer=False)


@pytest.mark.daily("inf")
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_found(value):
    model = network()
    model.fit(batches(), epochs=1, verbose=0, shuffle=False)
    assert not broken(*collect(model))
    kernel = model.layers[-1].kernel
    kernel.assign(np.full(kernel.shape, value))
    assert broken(*collect(model)) == [kernel.path]
    frozen = model.layers[1]
    model.layers[-1].kernel.assign(np.zeros(kernel.shape))
    frozen.trainable = False
    frozen.layers[0].kernel.assign(np.full((6, 4), value))
    assert not broken(*collect(model))  # what is frozen may hold anything


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.1, float("inf"), "text", [1, [2.5, None]], (1, "a"), {"a": 1, 2: [3]}, {"kind": {"array": "x"}}],
)
def test_plain_values_come_back_with_their_types(value):
    arrays = {}
    found = unpack(pack(value, arrays, "x"), arrays)
    assert found == value
    assert type(found) is type(value)
    assert not arrays


def test_arrays_come_back_from_anywhere_in_a_value():
    arrays = {}
    value = {"a": [np.arange(3, dtype=np.int8), (tf.constant([1.5]), np.float16(2))], "v": keras.Variable([1.0, 2.0])}
    found = unpack(pack(value, arrays, "x"), arrays)
    assert found["a"][0].dtype == np.int8
    assert found["a"][0].tolist() == [0, 1, 2]
    assert (found["a"][1][0].tolist(), found["a"][1][1], found["v"].tolist()) == ([1.5], np.float16(2), [1.0, 2.0])
    assert type(found["a"][1][1]) is np.float16
    for wrong in (object(), {1, 2}, np.array(["text"])):
        with pytest.raises(UnpackableError):
            pack([wrong], {}, "x")


class Plain(keras.callbacks.Callback):
    def __init__(self, setting=5):
        super().__init__()
        self.setting, self.steps, self.seen, self.mean, self.pair = setting, 0, [], np.zeros(2), (0, None)
        self.variable = tf.Variable(1.0)
        self.generator = keras.random.SeedGenerator(3)

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.pair = (self.steps, "x")
        self.variable.assign_add(1.0)
        self.generator.next()

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append(epoch)
        self.mean[:] += epoch + 1  # in place


def moved(callbacks, **settings):
    model = network()
    states = CallbackStates(callbacks)
    keras.callbacks.CallbackList(callbacks, model=model, epochs=4, steps=1)
    states.begin()
    for callback in callbacks:
        callback.on_train_begin()
        for epoch in range(2):
            callback.on_epoch_begin(epoch)
            callback.on_train_batch_end(0, {"loss": 1.0})
            callback.on_epoch_end(epoch, {"loss": 1.0 - epoch, "val_loss": 2.0 + epoch})
    arrays = {}
    return states.collect(arrays), arrays


def test_a_callback_that_was_not_made_for_it_keeps_what_changed():
    states, arrays = moved([Plain(setting=5)])
    again = Plain(setting=7)
    CallbackStates([again]).restore(states, arrays)
    assert (again.steps, again.seen, again.mean.tolist(), again.pair) == (2, [0, 1], [3.0, 3.0], (2, "x"))
    assert (float(again.variable), int(again.generator.state.numpy()[1])) == (3.0, 2)
    assert again.setting == 7  # what the program says now


def test_keras_own_callbacks_keep_what_they_wait_for():
    def made():
        return [
            keras.callbacks.EarlyStopping("val_loss", patience=5, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("val_loss", patience=3),
            keras.callbacks.ModelCheckpoint("unused.keras", save_best_only=True, save_freq=10**9),
        ]

    states, arrays = moved(made())
    early, plateau, _ = again = made()
    CallbackStates(again).restore(states, arrays)
    assert (early.wait, early.best, early.best_epoch) == (1, 2.0, 0)
    assert [w.shape for w in early.best_weights] == [w.shape for w in network().get_weights()]
    assert (plateau.wait, plateau.best, plateau.cooldown_counter) == (1, 2.0, 0)


def test_a_callback_that_was_made_for_it_is_asked():
    class Own(Plain):
        def get_state(self):
            return {"half": [self.steps / 2]}

        def set_state(self, state):
            self.steps = state["half"][0] * 2

    states, arrays = moved([Own()])
    again = Own()
    CallbackStates([again]).restore(states, arrays)
    assert (again.steps, again.seen) == (2.0, [])

    class Wrong(Own):
        def get_state(self):
            return object()

    with pytest.raises(PlanError, match=r"Wrong.get_state\(\) returned a object; it may return None, numbers"):
        CallbackStates([Wrong()]).collect({})


def test_other_callbacks_and_those_that_restore_themselves_are_refused(tmp_path):
    states, _ = moved([Plain()])
    found = CallbackStates([keras.callbacks.TerminateOnNaN(), Plain()]).misfits(states)
    assert found == ["the callbacks were Plain and are TerminateOnNaN, Plain"]
    with pytest.raises(PlanError, match="remove it from the callbacks"):
        CallbackStates([keras.callbacks.BackupAndRestore(tmp_path)])


def test_what_cannot_be_kept_is_said():
    callback = Plain()
    callback.file = open(__file__, encoding="utf-8")
    states = CallbackStates([callback])
    states.begin()
    callback.file.close()
    assert states.notes == [
        "Plain loses its file (TextIOWrapper) when training resumes: give the class get_state() and set_state(state) "
        "if that matters"
    ]


@pytest.mark.daily("True")
@pytest.mark.parametrize("scaled", [True, False])
def test_an_optimizer_of_an_earlier_phase_is_made_again_with_its_slots(scaled):
    model = network(optimizer="sgd")
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, 20)
    old = keras.optimizers.Adam(schedule) if scaled else keras.optimizers.SGD(schedule, momentum=0.9)
    old = LayerwiseOptimizer(old, {model.trainable_variables[0].path: 0.5}) if scaled else old
    model.compile(old, loss="mse")
    model.fit(batches(), epochs=2, verbose=0, shuffle=False)
    arrays = {}
    taken = take_optimizer(model, old, arrays)
    again = optimizer_from(model, taken, arrays)
    found = []
    for source in (old, again):
        new = keras.optimizers.Adam(1e-3) if scaled else keras.optimizers.SGD(1e-3, momentum=0.9)
        new = LayerwiseOptimizer(new, {}) if scaled else new
        new.build(model.trainable_variables)
        assert len(transfer_slots(source, new).ages) == len(model.trainable_variables)
        found.append([np.array(v).tobytes() for v in new.variables if "learning_rate" not in v.path])
    assert found[0] == found[1]


def test_differences_are_told_in_words():
    old = {"plan": {"seed": 1, "phases": [{"rate": 0.1}, {"rate": 0.2}], "gone": None}, "same": [1, 2]}
    new = {"plan": {"seed": 2, "phases": [{"rate": 0.1}, {"rate": 0.3}], "new": "x"}, "same": [1, 2]}
    assert differences(old, new) == [
        "plan.seed was 1 and is 2",
        "plan.phases[1].rate was 0.2 and is 0.3",
        "plan.gone was None and is now missing",
        "plan.new was missing and is now 'x'",
    ]
    assert differences([1], [1, 2]) == ["it was [1] and is [1, 2]"]
    assert differences({"a": 1}, {"a": True}) == ["a was 1 and is True"]
    assert not differences(float("nan"), float("nan"))
    assert differences("a" * 100, "b") == [f"it was '{'a' * 59}... and is 'b'"]


def test_the_machine_is_described():
    found = facts()
    assert found["versions"]["keras"] == keras.__version__
    assert found["threads"]["processors"] >= 1
    assert found["devices"] == ["CPU"]
    assert found["determinism"] in (True, False)
