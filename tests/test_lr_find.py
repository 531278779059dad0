"""The learning rate test: what it finds, where it refuses, and that nothing is left of it."""

from __future__ import annotations

import pathlib
import random
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.random import seed_generator
from tensorflow.python.eager import context

from tfft import freezing
from tfft.errors import DataError, DependencyError, PlanError
from tfft.optimizers import LayerwiseOptimizer, lr_find
from tfft.optimizers.lr_curve import RULES, rules, smooth

ZEROS = np.zeros((4, 1), "float32")


class Weight(keras.layers.Layer):
    """Gives its only weight, whatever it is given."""

    def build(self, shape):
        self.weight = self.add_weight(shape=(1,), initializer="ones", name="weight")

    def call(self, x):
        return 0.0 * x + self.weight


def quadratic(h: float, scale: float = 1.0, optimizer=None) -> keras.Model:
    """A model whose loss is scale * h / 2 * w ** 2, which diverges under plain SGD from the rate 2 / (scale * h) on."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Weight()(inputs))
    loss = lambda _, w: scale * 0.5 * h * tf.reduce_mean(w**2, -1)  # noqa: E731
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss=loss)
    return model


# -------------------------------------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("h", [1.0, 7.0, 1e4])
def test_on_a_quadratic(h):
    found = lr_find(quadratic(h), (ZEROS, ZEROS))
    losses = np.concatenate([[h / 2], found.losses])
    rising = np.diff(losses) > 0
    np.testing.assert_array_equal(rising, found.lrs > 2 / h)  # a loss belongs to the step before it
    for rule in RULES:
        assert 0.005 * 2 / h < getattr(found, rule) < 0.5 * 2 / h, rule
    assert found.suggestion == found.valley


@pytest.mark.nightly
def test_under_sgd_it_scales_with_the_loss():
    whole = lr_find(quadratic(1.0), (ZEROS, ZEROS), start=1e-6, end=100.0)
    shifted = lr_find(quadratic(1.0, 64.0), (ZEROS, ZEROS), start=1e-6 / 64, end=100.0 / 64)
    same_range = lr_find(quadratic(1.0, 64.0), (ZEROS, ZEROS), start=1e-6, end=100.0)
    for rule in RULES:
        assert getattr(shifted, rule) == pytest.approx(getattr(whole, rule) / 64, rel=1e-5)
        # The flat part before it is another, which smoothing remembers.
        assert getattr(same_range, rule) == pytest.approx(getattr(whole, rule) / 64, rel=0.5)


@pytest.mark.nightly
def test_under_adam_it_does_not_depend_on_the_scale():
    found = [lr_find(quadratic(1.0, scale, keras.optimizers.Adam(1.0)), (ZEROS, ZEROS)) for scale in (1.0, 64.0)]
    for rule in RULES:
        assert getattr(found[0], rule) == pytest.approx(getattr(found[1], rule), rel=1e-5)


def small(dropout: float = 0.3, regularizer: str | None = "l2") -> keras.Model:
    keras.utils.set_random_seed(5)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, name="low")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(dropout)(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(3, name="high", kernel_regularizer=regularizer)(x))


X = np.random.default_rng(0).normal(size=(40, 6)).astype("float32")
Y = (X[:, 0] > 0).astype("int64") + (X[:, 1] > 0)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_suggestion_trains(name):
    """A suggestion trains well, a hundredth of it hardly, a thousand times it not at all."""
    model = small()
    model.compile(name, LOSS)
    rate = lr_find(model, (X, Y), batch_size=8).suggestion

    def after(rate: float) -> float:
        model = small()
        model.compile(name, LOSS)
        model.optimizer.learning_rate = rate
        model.fit(X, Y, batch_size=8, epochs=12, verbose=0)
        return model.evaluate(X, Y, verbose=0)

    good, low, high = after(rate), after(rate / 100), after(rate * 1000)
    assert good < low - 0.1
    assert not good > high - 0.1


@pytest.mark.nightly
def test_a_model_with_a_head_of_tfft_need_not_be_compiled(tiny_model):
    freezing.unfreeze(tiny_model, 1)
    images = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3)).astype("uint8")
    labels = np.arange(12) % 3
    before = [w.copy() for w in tiny_model.get_weights()]
    assert not tiny_model.compiled
    found = lr_find(tiny_model, (images, labels), batch_size=6, steps=60)
    assert 1e-6 < found.suggestion < 1
    assert not tiny_model.compiled
    assert all(np.array_equal(a, b) for a, b in zip(before, tiny_model.get_weights(), strict=True))


@pytest.mark.nightly
def test_a_dataset_that_is_shorter_is_repeated_and_weights_are_used():
    data = tf.data.Dataset.from_tensor_slices((X, Y, np.zeros(40, "float32"))).batch(20)
    model = small(0.0, None)
    model.compile("sgd", LOSS)
    with pytest.raises(PlanError, match="The loss does not fall"):
        lr_find(model, data)
    found = lr_find(model, data.map(lambda x, y, w: (x, y, w + 1)), steps=40)
    assert len(found.lrs) > 30


@pytest.mark.nightly
def test_losses_by_name_and_their_weights():
    inputs = keras.Input((6,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    labels = {"a": X[:, :1], "b": X[:, 1:2]}
    losses = []
    for weight in (0.0, 2.0):
        model.compile("sgd", {"a": "mse", "b": "mse"}, loss_weights={"a": 1.0, "b": weight})
        losses.append(lr_find(model, (X, labels)).losses[0])
        assert losses[-1] == pytest.approx(model.evaluate(X, labels, verbose=0, return_dict=True)["loss"], rel=0.5)
    assert losses[1] > 1.5 * losses[0]


@pytest.mark.nightly
def test_a_subclass_and_a_scaled_optimizer():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.low, self.high = keras.layers.Dense(4), keras.layers.Dense(3)

        def call(self, x, training=None):
            return self.high(self.low(x))

    model = Mine()
    model(X)
    factors = {v.path: 0.0 for v in model.low.trainable_variables}
    optimizer = LayerwiseOptimizer(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.1, 9)), factors)
    model.compile(optimizer, LOSS)
    found = lr_find(model, (X, Y))
    assert model.optimizer is optimizer
    assert not optimizer.built
    model.compile(keras.optimizers.Adam(), LOSS)
    other = lr_find(model, (X, Y))
    assert not np.allclose(found.losses[:40], other.losses[:40], rtol=1e-6)  # the factors have an effect


@pytest.mark.slow
def test_the_copy_spares_the_same_variables_from_decay():
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    model = quadratic(1e-30, optimizer=optimizer)
    decays = lr_find_losses(model)
    optimizer = keras.optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(model.trainable_variables)
    model.compile(optimizer, model.loss)
    with pytest.raises(PlanError, match="does not fall"):
        lr_find(model, (ZEROS, ZEROS), start=1e-3)
    assert decays[-1] < 0.5 * decays[0]


def lr_find_losses(model: keras.Model) -> np.ndarray:
    return lr_find(model, (ZEROS, ZEROS), start=1e-3).losses


# ------------------------------------------------------------------------------------- nothing is left of it


def state_of(model: keras.Model) -> dict[str, object]:
    """Everything that a learning rate test could change."""
    optimizer, eager = model.optimizer, context.context()
    # Both are made when they are asked for, from Python's random state.
    generator, seeds = tf.random.get_global_generator(), seed_generator.global_seed_generator()
    return {
        "weights": [w.tobytes() for w in model.get_weights()],
        "seeds": [v.numpy().tobytes() for v in model.variables],
        "metrics": [v.numpy().tobytes() for v in model.metrics_variables],
        "optimizer": id(optimizer),
        "slots": [v.numpy().tobytes() for v in optimizer.variables],
        "rate": id(optimizer._learning_rate),
        "compiled": (model.compiled, id(model.loss), id(model._compile_loss), id(model._compile_metrics)),
        "functions": (id(model.train_function), id(model.test_function)),
        "stop": model.stop_training,
        "trainable": [layer.trainable for layer in model._flatten_layers()],
        "python": random.getstate(),
        "numpy": tuple(map(str, np.random.get_state())),
        "tensorflow": (eager._seed, eager._rng.getstate()),
        "generator": generator.state.numpy().tobytes(),
        "keras": seeds.state.numpy().tobytes(),
    }


def trained(schedule) -> keras.Model:
    model = small()
    rate = keras.optimizers.schedules.CosineDecay(0.01, 50) if schedule else 0.01
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    model.fit(X, Y, batch_size=8, epochs=1, verbose=0)
    model.evaluate(X, Y, verbose=0)
    model.stop_training = True
    return model


class Failing:
    """Counts calls of a loss, and fails in one of them."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0

    def __call__(self, y, outputs):
        self.calls += 1
        if self.calls == self.at:
            random.random()
            np.random.random()
            tf.random.normal(())
            keras.random.normal(())
            tf.random.get_global_generator().normal(())
            raise RuntimeError("on purpose")
        return LOSS(y, outputs)


@pytest.mark.daily("True")
@pytest.mark.parametrize("schedule", [True, False])
def test_everything_is_as_before(schedule):
    model = trained(schedule)
    before = state_of(model)
    lr_find(model, (X, Y), batch_size=8)
    after = state_of(model)
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.nightly
def test_everything_is_as_before_after_an_error_too():
    model = trained(True)
    failing = Failing(30)
    model.compile(model.optimizer, failing, metrics=["accuracy"], run_eagerly=True)
    model.stop_training = True
    before = state_of(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        lr_find(model, (X, Y), batch_size=8)
    assert failing.calls == 30
    after = state_of(model)
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.mark.nightly
def test_training_goes_on_as_if_nothing_had_been():
    finals = []
    for find in (False, True):
        model = trained(True)
        if find:
            lr_find(model, (X, Y), batch_size=8)
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0)
        finals.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(*finals, strict=True))


@pytest.mark.nightly
def test_the_test_itself_moves_weights_statistics_and_seeds(monkeypatch):
    """The control of the tests above: without putting back, they would see a difference."""
    import contextlib

    from tfft.optimizers import lr_finder

    monkeypatch.setattr(lr_finder, "restored", lambda model: contextlib.nullcontext())
    model = trained(True)
    before = {v.path: v.numpy().copy() for v in model.variables}
    lr_find(model, (X, Y), batch_size=8)
    same = [v.path for v in model.variables if np.array_equal(v.numpy(), before[v.path])]
    assert same == []
    assert any("moving_mean" in path for path in before)
    assert any("seed" in path for path in before)


@pytest.mark.nightly
def test_twice_gives_the_same():
    model = trained(True)
    first, second = lr_find(model, (X, Y), batch_size=8), lr_find(model, (X, Y), batch_size=8)
    np.testing.assert_array_equal(first.losses, second.losses)


# ------------------------------------------------------------------------------------------ where it refuses


def test_a_frozen_model():
    model = quadratic(1.0)
    model.trainable = False
    with pytest.raises(PlanError, match="nothing in the model trains"):
        lr_find(model, (ZEROS, ZEROS))


def test_a_range_without_a_fall():
    with pytest.raises(PlanError, match="does not fall between the rates .* all too small or too large"):
        lr_find(quadratic(1.0), (ZEROS, ZEROS), end=1e-5)


def test_noise_is_no_fall():
    chance = np.random.default_rng(0)
    losses = 2 + chance.normal(0, 0.5, 100)
    with pytest.raises(PlanError, match=r"varies by 0\.\d+ from batch to batch"):
        rules(np.geomspace(1e-7, 10, 100), losses, smooth(losses, 0.98), 100)


def test_chance_and_falls_are_told_apart():
    """Pure noise, and the same noise with a fall of two standard deviations over a third of the rates."""
    lrs, chance, found = np.geomspace(1e-7, 10, 100), np.random.default_rng(1), {0: 0, 2: 0}
    for fall in found:
        for _ in range(60):
            losses = 3 + chance.normal(0, 0.3, 100) - 0.3 * fall * np.clip((np.arange(100) - 50) / 30, 0, 1)
            try:
                rules(lrs, losses, smooth(losses, 0.98), 100)
            except PlanError:
                continue
            found[fall] += 1
    assert found[0] < 8
    assert found[2] > 50


def test_a_range_that_begins_too_high():
    with pytest.raises(PlanError, match=r"too large or NaN after \d of 100 rates.*Give a smaller start"):
        lr_find(quadratic(1.0), (ZEROS, ZEROS), start=1e3, end=1e6)


def test_a_tail_that_is_no_number_is_dropped():
    def loss(y, w):
        mean = tf.reduce_mean(w**2, -1)
        return tf.where(mean < 0.5, np.float32(np.nan), mean)

    model = quadratic(1.0)
    model.compile("sgd", loss)
    found = lr_find(model, (ZEROS, ZEROS))
    assert np.isfinite(found.losses).all()
    assert np.isfinite(found.smoothed).all()
    assert "The loss was nan after the step at" in found.stopped
    assert len(found.lrs) == len(found.losses) < 100


def test_a_loss_that_is_no_number_from_the_beginning():
    model = quadratic(np.nan)
    with pytest.raises(PlanError, match="the loss is nan before the first step"):
        lr_find(model, (ZEROS, ZEROS))


def test_a_model_without_a_loss():
    model = small()
    with pytest.raises(PlanError, match="has no loss: it is not compiled"):
        lr_find(model, (X, Y))


def test_a_training_step_of_its_own():
    class Mine(keras.Model):
        def train_step(self, data):
            return {}

    inputs = keras.Input((6,))
    model = Mine(inputs, keras.layers.Dense(3)(inputs))
    model.compile("sgd", LOSS)
    with pytest.raises(PlanError, match=r"custom training step \(train_step\)"):
        lr_find(model, (X, Y))


def test_wrong_settings_are_listed_together():
    with pytest.raises(PlanError, match=r"4 problems(.|\n)*start=1(.|\n)*steps must(.|\n)*stop must(.|\n)*beta must"):
        lr_find(quadratic(1.0), (ZEROS, ZEROS), start=1, end=0.1, steps=3, stop=1.0, beta=1.0)


def test_wrong_data():
    with pytest.raises(DataError, match="Received: list"):
        lr_find(quadratic(1.0), [ZEROS])
    with pytest.raises(DataError, match="There is no batch"):
        lr_find(quadratic(1.0), tf.data.Dataset.from_tensor_slices((ZEROS, ZEROS)).batch(8, drop_remainder=True))


# ---------------------------------------------------------------------------------------------- what it shows


@pytest.mark.slow
def test_it_is_shown_as_a_table_rows_and_a_picture(tmp_path: pathlib.Path):
    found = lr_find(quadratic(7.0), (ZEROS, ZEROS))
    text = str(found)
    assert all(f"{getattr(found, rule):.2e}" in text for rule in RULES)
    assert "Then the loss rose too far." in text
    assert found.rows[3] == {"lr": found.lrs[3], "loss": found.losses[3], "smoothed": found.smoothed[3]}
    pytest.importorskip("matplotlib")
    figure = found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert figure.axes[0].get_xscale() == "log"


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    found = lr_find(quadratic(7.0), (ZEROS, ZEROS))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(DependencyError, match="pip install matplotlib"):
        found.plot()


def test_smoothing_is_the_mean_of_a_constant_and_beta_0_is_none():
    np.testing.assert_allclose(smooth([3.0] * 9, 0.98), 3.0)
    np.testing.assert_array_equal(smooth([3.0, 1.0, 2.0], 0.0), [3.0, 1.0, 2.0])
    np.testing.assert_allclose(smooth([1.0, 2.0], 0.5), [1.0, (0.25 + 1.0) / 0.75])
