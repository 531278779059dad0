"""Rates per variable, slots that are carried, factors of blocks, the optimizer of a phase."""

from __future__ import annotations

import functools
import pathlib

import keras
import numpy as np
import pytest

from tfft import freezing
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.optimizers import (
    LayerwiseOptimizer,
    build_optimizer,
    layerwise_lr_multipliers,
    optimizer_names,
    transfer_slots,
)

GRAPH = ("adam", "momentum")  # tested as fit does it; the others without tracing, which takes most of the time
LOW, HIGH = "low/kernel", "high/kernel"
RATE = 0.05

MAKERS = {
    "sgd": lambda **k: keras.optimizers.SGD(RATE, **k),
    "momentum": lambda **k: keras.optimizers.SGD(RATE, momentum=0.9, **k),
    "nesterov": lambda **k: keras.optimizers.SGD(RATE, momentum=0.9, nesterov=True, **k),
    "adam": lambda **k: keras.optimizers.Adam(RATE, **k),
    "amsgrad": lambda **k: keras.optimizers.Adam(RATE, amsgrad=True, **k),
    "adamw": lambda **k: keras.optimizers.AdamW(RATE, **({"weight_decay": 0.01} | k)),
    "rmsprop": lambda **k: keras.optimizers.RMSprop(RATE, **k),
    "rmsprop_all": lambda **k: keras.optimizers.RMSprop(RATE, momentum=0.9, centered=True, **k),
    "nadam": lambda **k: keras.optimizers.Nadam(RATE, **k),
    "adamax": lambda **k: keras.optimizers.Adamax(RATE, **k),
    "adagrad": lambda **k: keras.optimizers.Adagrad(RATE, **k),
    "adadelta": lambda **k: keras.optimizers.Adadelta(RATE * 1000, **k),
    "lion": lambda **k: keras.optimizers.Lion(RATE, **k),
    "lamb": lambda **k: keras.optimizers.Lamb(RATE, **k),
    "muon": lambda **k: keras.optimizers.Muon(RATE, **k),
    "schedulefreeadamw": lambda **k: keras.optimizers.ScheduleFreeAdamW(RATE, **k),
}
CARRIED = ["sgd", "momentum", "nesterov", "adam", "amsgrad", "adamw", "rmsprop", "rmsprop_all", "adamax", "adagrad",
           "adadelta", "lion", "lamb"]  # fmt: skip


def make_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    x = inputs = keras.Input((4,))  # functional: the paths in a Sequential begin with its name
    x = keras.layers.Dense(5, activation="tanh", name="low")(x)
    x = keras.layers.Dense(5, activation="tanh", name="mid")(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="high")(x))
    for v in model.trainable_variables:  # biases too, so that weight decay has something to do
        v.assign(np.random.default_rng(len(v.path)).normal(size=v.shape).astype("float32"))
    return model


X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


def train(model: keras.Model, optimizer, steps: int = 1, **compiled) -> dict[str, np.ndarray]:
    model.compile(optimizer, loss="mse", **({"run_eagerly": True} | compiled))
    for _ in range(steps):
        model.train_on_batch(X, Y)
    return values(model)


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: v.numpy().copy() for v in model.weights}


@functools.cache
def start() -> dict[str, np.ndarray]:
    return values(make_model())


def moved(after: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {path: after[path].astype("float64") - value for path, value in start().items()}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes()


# ------------------------------------------------------------------------------------------------- factors


@pytest.mark.representative("sgd")
@pytest.mark.parametrize("name", MAKERS)
def test_the_first_update_is_scaled(name):
    # Lamb's step is proportional to the norm of the weights too, which decay changes before it.
    settings = {} if name == "lamb" else {"weight_decay": 0.1}
    plain = moved(train(make_model(), MAKERS[name](**settings)))
    scaled = moved(train(make_model(), LayerwiseOptimizer(MAKERS[name](**settings), {LOW: 0.25, HIGH: 3.0})))
    for path, factor in {LOW: 0.25, HIGH: 3.0, "mid/kernel": 1.0, "low/bias": 1.0}.items():
        assert np.abs(plain[path]).max() > 1e-3
        # Values are of the size 1, so that a difference of them has an error of about 1e-7.
        np.testing.assert_allclose(scaled[path], factor * plain[path], rtol=1e-6, atol=1e-6)


@pytest.mark.representative("0.1-adam")
@pytest.mark.parametrize("name", ["adam", "sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_the_first_update_is_scaled_to_1e_6_of_itself(name, factor):
    """From weights of 0 an update is the new weight, without the error of a difference."""

    def first(factors) -> np.ndarray:
        model = make_model()
        model.get_layer("high").kernel.assign(np.zeros((5, 2), "float32"))
        return train(model, LayerwiseOptimizer(MAKERS[name](), factors))[HIGH]

    plain = first({})
    assert np.abs(plain).min() > 1e-4
    np.testing.assert_allclose(first({HIGH: factor}), factor * plain, rtol=1e-6)


@pytest.mark.representative("sgd")
@pytest.mark.parametrize("name", MAKERS)
def test_factor_1_changes_no_bit(name):
    plain = train(make_model(), MAKERS[name](weight_decay=0.1), 2)
    scaled = train(make_model(), LayerwiseOptimizer(MAKERS[name](weight_decay=0.1), {}), 2)
    assert all(same_bits(plain[path], scaled[path]) for path in plain)


@pytest.mark.representative("sgd")
@pytest.mark.parametrize("name", MAKERS)
def test_a_factor_is_another_rate(name):
    """Over many steps all factors r are the optimizer at r times the rate."""
    other = MAKERS[name](weight_decay=0.1)
    other.learning_rate = float(other.learning_rate) * 0.5
    plain = train(make_model(), other, 3)
    every = {v.path: 0.5 for v in make_model().trainable_variables}
    scaled = train(make_model(), LayerwiseOptimizer(MAKERS[name](weight_decay=0.1), every), 3)
    for path in plain:
        np.testing.assert_allclose(scaled[path], plain[path], rtol=2e-6, atol=1e-6)


@pytest.mark.representative("{'weight_decay': 0.3}-sgd")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("settings", [{"weight_decay": 0.3}, {"global_clipnorm": 0.1}, {"use_ema": True}], ids=str)
def test_factor_0_is_frozen(name, settings):
    frozen = make_model()
    frozen.get_layer("low").trainable = False
    expected = train(frozen, MAKERS[name](**settings), 3)
    scaled = make_model()
    optimizer = LayerwiseOptimizer(MAKERS[name](**settings), {LOW: 0.0, "low/bias": 0})
    after = train(scaled, optimizer, 3)
    if settings == {"use_ema": True}:
        optimizer.finalize_variable_values(scaled.trainable_variables)
        frozen.optimizer.finalize_variable_values(frozen.trainable_variables)
        expected, after = values(frozen), values(scaled)
    for path in expected:
        assert same_bits(after[path], expected[path]), path
        assert same_bits(after[path], start()[path]) == path.startswith("low/")


def test_factor_0_leaves_a_minus_zero_alone():
    model = make_model()
    model.get_layer("low").kernel.assign(np.full((4, 5), -0.0, "float32"))
    after = train(model, LayerwiseOptimizer(MAKERS["momentum"](weight_decay=0.1), {LOW: 0}), 3)
    assert same_bits(after[LOW], np.full((4, 5), -0.0, "float32"))


@pytest.mark.daily("settings2-7")
@pytest.mark.parametrize(
    ("settings", "steps"), [({"clipnorm": 0.05}, 3), ({"clipvalue": 0.01}, 3), ({"gradient_accumulation_steps": 3}, 7)]
)
def test_clipping_and_collecting_come_before_scaling(settings, steps):
    plain = MAKERS["adam"](**settings, weight_decay=0.1)
    plain.learning_rate = RATE / 2
    every = {v.path: 0.5 for v in make_model().trainable_variables}
    scaled = LayerwiseOptimizer(MAKERS["adam"](**settings, weight_decay=0.1), every)
    first, second = train(make_model(), plain, steps), train(make_model(), scaled, steps)
    for path in first:
        np.testing.assert_allclose(second[path], first[path], atol=1e-6)
        assert not same_bits(first[path], start()[path])


@pytest.mark.nightly
def test_the_moving_average_can_be_swapped_in_and_out():
    model = make_model()
    optimizer = LayerwiseOptimizer(MAKERS["adam"](use_ema=True, ema_momentum=0.5), {LOW: 0, HIGH: 0.5})
    model.compile(optimizer, loss="mse")
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(X, Y, epochs=3, batch_size=4, verbose=0, callbacks=[callback])
    for v, average in zip(model.trainable_variables, optimizer._model_variables_moving_average, strict=True):
        np.testing.assert_array_equal(v.numpy(), average.numpy())
        assert same_bits(v.numpy(), start()[v.path]) == (v.path == LOW)
    without = make_model()
    without.compile(LayerwiseOptimizer(MAKERS["adam"](), {}), loss="mse")
    with pytest.raises(ValueError, match="use_ema"):
        without.fit(X, Y, verbose=0, callbacks=[callback])


@pytest.mark.nightly
def test_under_xla():
    plain = moved(train(make_model(), MAKERS["adam"](), run_eagerly=False, jit_compile=True))
    scaled = moved(
        train(
            make_model(),
            LayerwiseOptimizer(MAKERS["adam"](), {LOW: 0.5}, {HIGH: 9}),
            run_eagerly=False,
            jit_compile=True,
        )
    )
    np.testing.assert_allclose(scaled[LOW], 0.5 * plain[LOW], atol=4e-7)


def test_loss_scaling_goes_around():
    model = make_model()
    optimizer = keras.optimizers.LossScaleOptimizer(LayerwiseOptimizer(MAKERS["sgd"](), {LOW: 0.5, HIGH: 0}))
    scaled = moved(train(model, optimizer))
    plain = moved(train(make_model(), MAKERS["sgd"]()))
    np.testing.assert_allclose(scaled[LOW], 0.5 * plain[LOW], atol=4e-7)
    assert not scaled[HIGH].any()
    assert {id(v) for v in optimizer.inner_optimizer._trainable_variables} == {id(v) for v in model.trainable_variables}


# ----------------------------------------------------------------------------------- it is like its inner one


@pytest.mark.slow
def test_variables_rate_and_steps_are_those_of_the_inner_one():
    plain, scaled = MAKERS["adam"](name="a"), LayerwiseOptimizer(MAKERS["adam"](name="a"), {LOW: 0.5})
    train(make_model(), plain, 3)
    model = make_model()
    train(model, scaled, 3)
    assert [v.path for v in scaled.variables] == [*(v.path for v in plain.variables), "ages"]
    assert int(scaled.iterations) == 3
    assert float(scaled.learning_rate) == pytest.approx(RATE)
    scaled.learning_rate = 0.5
    assert float(scaled.optimizer.learning_rate) == 0.5
    assert {id(v) for v in scaled._trainable_variables} == {id(v) for v in model.trainable_variables}
    assert (scaled.clipnorm, scaled.use_ema) == (None, False)
    scaled.clipnorm = 2.0
    assert scaled.optimizer.clipnorm == 2.0


@pytest.mark.slow
def test_reduce_on_plateau_sets_the_rate():
    model = make_model()
    model.compile(LayerwiseOptimizer(MAKERS["sgd"](), {LOW: 0.5}), loss="mse")
    callback = keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=1, min_delta=100.0)
    history = model.fit(X, Y, epochs=4, verbose=0, callbacks=[callback])
    assert history.history["learning_rate"][-1] == pytest.approx(RATE / 100)


@pytest.mark.slow
def test_schedules_are_read():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [RATE, 0.0])
    model = make_model()
    after_one = train(model, LayerwiseOptimizer(keras.optimizers.SGD(schedule), {LOW: 0.5}), 2)
    model.train_on_batch(X, Y)
    later = values(model)
    one_more = train(make_model(), LayerwiseOptimizer(keras.optimizers.SGD(schedule), {LOW: 0.5}), 2)
    assert all(same_bits(after_one[p], later[p]) and same_bits(after_one[p], one_more[p]) for p in later)
    with pytest.raises(TypeError, match="not settable"):
        model.optimizer.learning_rate = 0.1


@pytest.mark.representative("sgd")
@pytest.mark.parametrize("name", MAKERS)
def test_saved_and_loaded_it_goes_on_the_same(name, tmp_path: pathlib.Path):
    factors, decay = {LOW: 0.5, "mid/kernel": 0.0}, {"weight_decay": 0.1}
    model = make_model()
    optimizer = LayerwiseOptimizer(MAKERS[name](**decay), factors)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("high").bias])
    train(model, optimizer, 3)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert isinstance(again.optimizer, LayerwiseOptimizer)
    assert again.optimizer.factors == factors
    assert int(again.optimizer.iterations) == 3
    for _ in range(2):
        model.train_on_batch(X, Y)
        again.train_on_batch(X, Y)
    assert all(same_bits(a, b) for a, b in zip(values(model).values(), values(again).values(), strict=True))


def test_ages_are_saved_but_a_new_optimizer_of_the_config_has_none(tmp_path: pathlib.Path):
    model = make_model()
    train(model, LayerwiseOptimizer(MAKERS["adam"](), {}, {LOW: 5}), 2)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert again.optimizer._ages.numpy().tolist() == [5, 0, 0, 0, 0, 0]
    fresh = LayerwiseOptimizer.from_config(model.optimizer.get_config())
    fresh.build(model.trainable_variables)
    assert not fresh._ages.numpy().any()


def test_unfreezing_a_compiled_model_keeps_the_factors():
    model = make_model()
    train(model, LayerwiseOptimizer(MAKERS["sgd"](), {LOW: 0.5, HIGH: 0.25}))
    freezing.unfreeze(model, 1)
    before = values(model)
    model.train_on_batch(X, Y)
    after = values(model)
    assert [path for path in after if not same_bits(after[path], before[path])] == [HIGH, "high/bias"]
    assert model.optimizer.factors[HIGH] == 0.25


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (lambda: keras.optimizers.Ftrl(0.1), "Ftrl cannot be scaled: it makes each weight anew"),
        (lambda: keras.optimizers.Adafactor(0.1), "Adafactor cannot be scaled: it bounds its rate"),
        (lambda: keras.optimizers.LossScaleOptimizer(MAKERS["sgd"]()), "loss scaling goes around this"),
        (lambda: LayerwiseOptimizer(MAKERS["sgd"](), {}), "it has factors already"),
        (lambda: "adam", "Expected an optimizer of Keras"),
    ],
)
def test_what_cannot_be_scaled_is_refused_by_name(optimizer, words):
    with pytest.raises(PlanError, match=words):
        LayerwiseOptimizer(optimizer(), {})


@pytest.mark.nightly
def test_ftrl_and_adafactor_are_rightly_refused():
    """The half of the rate does not give the half of the update."""
    for kind, rate in ((keras.optimizers.Ftrl, 0.1), (keras.optimizers.Adafactor, 4.0)):
        whole, half = moved(train(make_model(), kind(rate))), moved(train(make_model(), kind(rate / 2)))
        assert np.abs(half[LOW] - 0.5 * whole[LOW]).max() > 0.01


def test_used_and_foreign_optimizers_are_refused():
    used = MAKERS["sgd"]()
    LayerwiseOptimizer(used, {})
    with pytest.raises(PlanError, match="used before"):
        LayerwiseOptimizer(used, {})

    class Mine(keras.optimizers.Optimizer):
        pass

    with pytest.raises(PlanError, match="Mine is not known to make steps proportional to its rate. Those that do: SGD"):
        LayerwiseOptimizer(Mine(0.1), {})


def test_numbers_and_paths_are_checked_together():
    with pytest.raises(PlanError, match=r"3 problems(.|\n)*'a' must be(.|\n)*'b' must be(.|\n)*age of 'c'"):
        LayerwiseOptimizer(MAKERS["sgd"](), {"a": -1, "b": float("nan")}, {"c": 1.5})
    with pytest.raises(PlanError, match="Nadam cannot take over slots"):
        LayerwiseOptimizer(MAKERS["nadam"](), {}, {"a": 1})
    model = make_model()
    with pytest.raises(PlanError, match=r"'low/kernal' is not a trainable variable. Did you mean 'low/kernel'"):
        train(model, LayerwiseOptimizer(MAKERS["sgd"](), {"low/kernal": 0.5}))
    with pytest.raises(PlanError, match="All factors are 0"):
        train(model, LayerwiseOptimizer(MAKERS["sgd"](), {v.path: 0 for v in model.trainable_variables}))


# --------------------------------------------------------------------------------------------- carried slots


def built(name: str, model: keras.Model, **settings) -> LayerwiseOptimizer:
    optimizer = LayerwiseOptimizer(MAKERS[name](**settings), {})
    optimizer.build(model.trainable_variables)
    return optimizer


@pytest.mark.representative("sgd")
@pytest.mark.parametrize("name", CARRIED)
def test_phases_with_carried_slots_are_training_without_a_break(name):
    whole = train(make_model(), MAKERS[name](weight_decay=0.1), 6, run_eagerly=name not in GRAPH)
    model = make_model()
    train(model, MAKERS[name](weight_decay=0.1), 2, run_eagerly=name not in GRAPH)
    for steps in (1, 3):  # ages add up
        second = built(name, model, weight_decay=0.1)
        carried = transfer_slots(model.optimizer, second)
        assert not carried.fresh
        train(model, second, steps, run_eagerly=name not in GRAPH)
    assert set(carried.ages.values()) == {3}
    assert all(same_bits(whole[path], value) for path, value in values(model).items())


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["adam", "momentum", "rmsprop", "adamw"])
def test_without_carrying_it_is_something_else(name):
    whole = train(make_model(), MAKERS[name](), 9)
    model = make_model()
    train(model, MAKERS[name](), 3)
    broken = train(model, MAKERS[name](), 6)
    assert np.abs(whole[HIGH] - broken[HIGH]).max() > 1e-3


@pytest.mark.slow
def test_carrying_with_collected_gradients():
    settings = {"gradient_accumulation_steps": 2}
    whole = train(make_model(), MAKERS["adam"](**settings), 12)
    model = make_model()
    train(model, MAKERS["adam"](**settings), 6)
    second = built("adam", model, **settings)
    assert set(transfer_slots(model.optimizer, second).ages.values()) == {3}
    after = train(model, second, 6)
    assert all(same_bits(whole[path], after[path]) for path in whole)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_new_variable_starts_with_the_whole_step_beside_carried_ones(name):
    model = make_model()
    freezing.unfreeze(model, 1)
    first = MAKERS[name](weight_decay=0.0)
    train(model, first, 8)
    freezing.unfreeze(model, 2)  # this compiles with another optimizer
    before = values(model)
    second = built(name, model, weight_decay=0.0)
    carried = transfer_slots(first, second)
    assert sorted(carried.ages.items()) == [("high/bias", 8), (HIGH, 8)]
    assert carried.fresh == ("mid/kernel", "mid/bias")
    assert carried.note == "Adam{} keeps its state of 2 variables; 2 start afresh.".format(
        "W" if name == "adamw" else ""
    )
    after = train(model, second)
    step = np.abs(after["mid/kernel"] - before["mid/kernel"])
    assert step == pytest.approx(np.full((5, 5), RATE), rel=1e-3)  # rate * sign(gradient)
    assert not np.allclose(np.abs(after[HIGH] - before[HIGH]), RATE, rtol=1e-2)  # goes on with its slots
    third = built(name, model, weight_decay=0.0)
    ages = transfer_slots(model.optimizer, third).ages
    assert ages == {HIGH: 9, "high/bias": 9, "mid/kernel": 1, "mid/bias": 1}


@pytest.mark.nightly
def test_slots_without_ages_would_be_several_times_too_large():
    """Why the age is needed: the control of the test above."""
    model = make_model()
    steps = []
    for forget in (True, False):
        model = make_model()
        before = train(model, MAKERS["adam"](), 12)
        second = built("adam", model)
        transfer_slots(model.optimizer, second)
        if forget:
            second._ages.assign(np.zeros(6, "int64"))
        steps.append(np.linalg.norm(train(model, second)[LOW] - before[LOW]))
    expected = (np.sqrt(1 - 0.999) / (1 - 0.9)) / (np.sqrt(1 - 0.999**13) / (1 - 0.9**13))
    assert expected > 2
    assert steps[0] / steps[1] == pytest.approx(expected, rel=1e-2)


@pytest.mark.slow
def test_other_objects_of_the_same_path_and_shape_are_matched(tmp_path: pathlib.Path):
    model = make_model()
    train(model, MAKERS["adam"](), 3)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    inputs = keras.Input((4,))
    other = keras.Model(inputs, keras.layers.Dense(3, name="high")(again.get_layer("low")(inputs)))
    second = LayerwiseOptimizer(MAKERS["adam"](), {})
    second.build(other.trainable_variables)
    carried = transfer_slots(model.optimizer, second)
    assert carried.ages == {LOW: 3, "low/bias": 3}
    assert carried.fresh == (HIGH, "high/bias")  # of another shape
    np.testing.assert_array_equal(second.optimizer._momentums[0].numpy(), model.optimizer._momentums[0].numpy())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sgd", "adam", "Adam starts afresh: the phase before was trained by SGD"),
        ("nadam", "nadam", "Nadam starts afresh: what it keeps is not of single variables"),
        ("sgd", "momentum", "SGD starts afresh: momentum changed"),
        ("adam", "amsgrad", "Adam starts afresh: amsgrad changed"),
    ],
)
def test_what_is_not_carried_is_said(old, new, words):
    model = make_model()
    train(model, MAKERS[old](), 3)
    carried = transfer_slots(model.optimizer, built(new, model))
    assert words in carried.note
    assert not carried.ages
    assert len(carried.fresh) == 6


def test_variables_made_anew_are_left_out():
    model = make_model()
    train(model, MAKERS["momentum"](), 3)
    second = built("momentum", model)
    carried = transfer_slots(model.optimizer, second, fresh=[HIGH])
    assert HIGH in carried.fresh
    assert not second.optimizer.momentums[4].numpy().any()
    assert second.optimizer.momentums[0].numpy().any()


def test_carrying_at_the_wrong_moment_is_refused():
    model = make_model()
    train(model, MAKERS["adam"](), 2)
    with pytest.raises(PlanError, match=r"call new.build\(variables\)"):
        transfer_slots(model.optimizer, MAKERS["adam"]())
    plain = MAKERS["adam"]()
    plain.build(model.trainable_variables)
    with pytest.raises(PlanError, match=r"Give LayerwiseOptimizer\(keras.optimizers.Adam"):
        transfer_slots(model.optimizer, plain)
    with pytest.raises(PlanError, match="made 2 steps already"):
        transfer_slots(plain, model.optimizer)


# -------------------------------------------------------------------------------------------- factors of blocks


def test_factors_decay_from_the_head_down(tiny_model):
    freezing.unfreeze(tiny_model, "all")
    factors = layerwise_lr_multipliers(tiny_model, layer_decay=0.5)
    assert sorted(factors) == sorted(v.path for v in tiny_model.trainable_variables)
    expected = {"block0_conv/kernel": 0.125, "block1_conv/kernel": 0.25, "block2_conv/kernel": 0.5}
    assert {path: factors[path] for path in expected} == expected
    assert {factors[v.path] for v in tiny_model.get_layer("logits").trainable_variables} == {1.0}


def test_a_block_has_the_same_factor_whichever_others_train(tiny_model):
    freezing.unfreeze(tiny_model, "block1")
    factors = layerwise_lr_multipliers(tiny_model, layer_decay=0.5)
    assert sorted(factors) == sorted(v.path for v in tiny_model.trainable_variables)
    assert factors["block1_conv/kernel"] == 0.25
    assert not any(path.startswith("block2") for path in factors)


def test_a_model_without_a_backbone_ends_in_its_head():
    factors = layerwise_lr_multipliers(make_model(), layer_decay=0.5)
    assert factors == {
        LOW: 0.25, "low/bias": 0.25, "mid/kernel": 0.5, "mid/bias": 0.5, HIGH: 1.0, "high/bias": 1.0,
    }  # fmt: skip


def test_variables_of_a_subclass_are_covered_too():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)
            self.scale = self.add_weight(shape=(), name="scale")

        def call(self, x):
            return self.dense(x) * self.scale

    model = Mine()
    model(X)
    factors = layerwise_lr_multipliers(model, layer_decay=0.5)
    assert sorted(factors) == sorted(v.path for v in model.trainable_variables)


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("low", ["low/kernel", "low/bias"]),
        ("[lm]*", ["low/kernel", "low/bias", "mid/kernel", "mid/bias"]),
        ("(low|high)", ["low/kernel", "low/bias", "high/kernel", "high/bias"]),
    ],
)
def test_rates_by_name_shell_pattern_and_expression(pattern, paths):
    plain, factors = layerwise_lr_multipliers(make_model(), layer_decay=0.5), None
    factors = layerwise_lr_multipliers(make_model(), layer_decay=0.5, lr_multipliers={pattern: 3.0})
    assert factors == {path: value * (3.0 if path in paths else 1.0) for path, value in plain.items()}


def test_everything_wrong_with_rates_is_in_one_message():
    with pytest.raises(PlanError) as caught:
        layerwise_lr_multipliers(make_model(), layer_decay=1.5, lr_multipliers={"hihg": 2, "low": -1, "l.*": 2, "(": 1})
    message = str(caught.value)
    for words in (
        "5 problems", "'hihg' matches no block. Did you mean 'high'?", "the rate of 'low' must be", "'(' matches no",
        "'low' is matched by 'low' and by 'l.*'; one rate each", "layer_decay must be above 0",
        "Blocks: low, mid, high",
    ):  # fmt: skip
        assert words in message


def test_one_path_with_two_rates_is_refused():
    def part(x):
        inner = keras.Input((4,))
        return keras.Model(inner, keras.layers.Dense(4, name="same")(inner))(x)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, part(part(inputs)))
    assert [v.path for v in model.trainable_variables] == ["same/kernel", "same/bias"] * 2
    assert len(layerwise_lr_multipliers(model)) == 2
    with pytest.raises(PlanError, match="same path, so they cannot have different rates: same/kernel"):
        layerwise_lr_multipliers(model, layer_decay=0.5)


# ------------------------------------------------------------------------------------- the optimizer of a phase


def phase(**settings) -> Phase:
    return Phase("p", "all", 1, **({"learning_rate": 0.01} | settings))


@pytest.mark.representative("adadelta")
@pytest.mark.parametrize("name", optimizer_names())
def test_every_optimizer_of_keras_can_be_named(name):
    model = make_model()
    optimizer = build_optimizer(phase(optimizer=name), model, 10)
    assert type(optimizer).__name__.lower() == name
    before = values(model)
    after = train(model, optimizer)
    assert not any(same_bits(before[path], after[path]) for path in before)


def test_settings_of_the_phase_arrive():
    optimizer = build_optimizer(
        phase(optimizer="SGD", global_clipnorm=2.0, weight_decay=0.1, schedule="plateau"), make_model(), 9
    )
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, False)
    assert (optimizer.global_clipnorm, optimizer.weight_decay) == (2.0, 0.1)
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
    assert not isinstance(optimizer, LayerwiseOptimizer)


@pytest.mark.parametrize("name", ["adam", "adamw", "muon"])
def test_without_weight_decay_nothing_decays(name):
    """AdamW and Muon of Keras decay by 0.004 unless told otherwise."""
    model = make_model()
    before = values(model)
    model.compile(build_optimizer(phase(optimizer=name), model, 10))
    zeros = [keras.ops.zeros_like(v) for v in model.trainable_variables]
    model.optimizer.apply(zeros, model.trainable_variables)
    assert all(same_bits(before[path], value) for path, value in values(model).items())


@pytest.mark.parametrize("settings", [{}, {"layer_decay": 0.5}])
def test_weight_decay_spares_biases_and_normalization(tiny_model, settings):
    freezing.unfreeze(tiny_model, "all", batch_norm="train")
    optimizer = build_optimizer(phase(optimizer="adamw", weight_decay=0.5, **settings), tiny_model, 10)
    for v in tiny_model.trainable_variables:
        v.assign(keras.ops.ones(v.shape))
    before = {v.path: v.numpy() for v in tiny_model.trainable_variables}
    zeros = [keras.ops.zeros_like(v) for v in tiny_model.trainable_variables]
    optimizer.apply(zeros, tiny_model.trainable_variables)
    changed = {v.path for v in tiny_model.trainable_variables if not same_bits(v.numpy(), before[v.path])}
    assert changed == {v.path for v in tiny_model.trainable_variables if v.path.endswith("kernel")}
    assert any("bn" in path for path in before)
    low, high = (1 - tiny_model.get_layer("backbone").get_layer(f"block{k}_conv").kernel.numpy().max() for k in (1, 2))
    assert low / high == pytest.approx(settings.get("layer_decay", 1.0), rel=1e-3)


def test_a_bias_of_two_dimensions_is_spared_too():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 3)(inputs, inputs))
    optimizer = build_optimizer(phase(optimizer="adamw", weight_decay=0.5), model, 10)
    for v in model.trainable_variables:
        v.assign(keras.ops.ones(v.shape))
    optimizer.apply([keras.ops.zeros_like(v) for v in model.trainable_variables], model.trainable_variables)
    spared = [v for v in model.trainable_variables if (v.numpy() == 1).all()]
    assert [v.name for v in spared] == ["bias"] * 4
    assert max(len(v.shape) for v in spared) == 2


def test_a_gain_of_one_dimension_is_spared_whatever_it_is_called():
    class Gain(keras.layers.Layer):
        def build(self, shape):
            self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="how_much")

        def call(self, x):
            return x * self.gain

    inputs = keras.Input((4,))
    model = keras.Model(inputs, Gain()(keras.layers.Dense(2)(inputs)))
    optimizer = build_optimizer(phase(optimizer="sgd", weight_decay=0.5), model, 10)
    assert [optimizer._use_weight_decay(v.value) for v in model.trainable_variables] == [True, False, False]


def test_it_is_wrapped_where_it_has_to_be():
    assert isinstance(build_optimizer(phase(layer_decay=0.9), make_model(), 9), LayerwiseOptimizer)
    assert isinstance(build_optimizer(phase(), make_model(), 9, wrapped=True), LayerwiseOptimizer)
    assert type(build_optimizer(phase(), make_model(), 9)) is keras.optimizers.Adam


def test_everything_wrong_with_a_phase_is_in_one_message():
    with pytest.raises(PlanError) as caught:
        build_optimizer(
            phase(optimizer="admaw", schedule="cosin", weight_decay=-1, global_clipnorm=0, lr_multipliers={"x": 1}),
            make_model(),
            0,
        )
    message = str(caught.value)
    for words in (
        "unknown optimizer 'admaw'. Did you mean 'adamw'", "schedule 'cosin'. Did you mean 'cosine'",
        "weight_decay must", "global_clipnorm must", "'x' matches no block", "at least one step",
    ):  # fmt: skip
        assert words in message
