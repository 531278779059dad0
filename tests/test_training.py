"""Phases trained for real on small convolutional nets: what changed, what was recorded, what is refused."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import heads
from tfft.config import Phase
from tfft.errors import AuditError, BlockError, DataError, PlanError
from tfft.freezing import audit
from tfft.optimizers import build_schedule
from tfft.training import History, train, train_phase


def network(seed=1, head=None, activation="relu"):
    keras.utils.set_random_seed(seed)
    x = inner = keras.Input((8, 8, 1))
    for k in range(2):
        x = keras.layers.Conv2D(8, 3, padding="same", name=f"block{k}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = keras.layers.Activation(activation, name=f"block{k}_relu")(x)
    backbone = keras.Model(inner, x, name="backbone")
    inputs = keras.Input((8, 8, 1))
    features = keras.layers.GlobalAveragePooling2D(name="pool")(backbone(inputs))
    return keras.Model(inputs, (head or heads.classification(["plain", "striped"], dropout=0.0)).attach(features))


def stripes(n=64, seed=0, batch=16):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n).astype("int32")
    x = rng.normal(size=(n, 8, 8, 1)).astype("float32") * 0.5
    x[y == 1, ::2] += 1.0
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


PHASES = (Phase("frozen", "none", 3, 1e-2), Phase("fine-tune", 1, 4, 1e-2))


@pytest.mark.slow
def test_two_phases_train_what_they_name_and_learn():
    model, seen = network(), []
    before = {v.path: v.numpy() for v in model.weights}

    def note(phase, done, part):
        seen.append((phase.name, len(done.rows)))

    history = train(model, stripes(512), stripes(seed=9), PHASES, verbose=False, after_phase=note)
    moved = {v.path for v in model.weights if not np.array_equal(v.numpy(), before[v.path])}
    assert moved == {"block1_conv/kernel", "block1_conv/bias", "logits/kernel", "logits/bias"}
    assert seen == [("frozen", 3), ("fine-tune", 4)]
    assert history.rows[-1]["val_accuracy"] > 0.9
    assert history.of("fine-tune")[-1]["loss"] < history.rows[0]["loss"]
    assert history.audits["frozen"].trainable == 2
    assert history.audits["fine-tune"].trainable == 4
    assert set(history.rows[0]) == {
        "phase", "epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", "seconds",
    }  # fmt: skip
    again = model.evaluate(stripes(seed=9), verbose=0, return_dict=True)  # plain Keras goes on from here
    best = history.of("fine-tune")[history.best["fine-tune"] - 1]
    assert again["accuracy"] == pytest.approx(best["val_accuracy"])
    assert again["loss"] == pytest.approx(best["val_loss"], rel=1e-4)


@pytest.mark.nightly
def test_labels_that_carry_nothing_are_not_learned():
    def noise(seed):
        labels = np.random.default_rng(seed).integers(0, 2, 128).astype("int32")
        pixels = np.random.default_rng(seed + 100).normal(size=(128, 8, 8, 1)).astype("float32")
        return tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(32)

    history = train(network(), noise(0), noise(1), PHASES, verbose=False)
    assert history.rows[-1]["val_accuracy"] < 0.7


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights():
    weights = []
    for seed in (3, 3, 4):
        model = network(seed)
        train(model, stripes(), None, PHASES, verbose=False)
        weights.append(model.get_weights())
    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not np.array_equal(weights[0][-2], weights[2][-2])


@pytest.mark.slow
def test_the_best_epoch_is_given_back():
    class Spoil(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                self.model.get_layer("logits").kernel.assign(-50 * np.ones((8, 2)) * [1, -1])

    model = network()
    history = train_phase(
        model, stripes(), stripes(seed=9), Phase("p", "all", 3, 3e-2), callbacks=[Spoil()], verbose=False
    )
    assert history.best["p"] == 2
    assert history.rows[2]["val_accuracy"] < history.rows[1]["val_accuracy"]
    assert model.evaluate(stripes(seed=9), verbose=0)[1] == pytest.approx(history.rows[1]["val_accuracy"])


@pytest.mark.slow
def test_a_phase_that_only_does_harm_gives_back_the_weights_from_before_it():
    model, kept = network(), {}

    def keep(phase, done, part):
        if phase.name == "frozen":
            kept.update({v.path: v.numpy() for v in model.weights})

    phases = [Phase("frozen", "none", 6, 3e-2), Phase("fine-tune", 2, 1, 30.0, warmup=0.0)]
    history = train(model, stripes(512), stripes(seed=9), phases, verbose=False, after_phase=keep)
    assert history.best["fine-tune"] == 0
    assert all(np.array_equal(v, kept[v.path]) for v in model.weights)
    assert history.audits["fine-tune"].ok  # it did train, it only did not help
    assert "no epoch was better on the validation examples than the weights before this phase" in history.notes[-1]


@pytest.mark.slow
def test_statistics_come_back_with_the_best_epoch():
    model = network()
    history = train(model, stripes(), stripes(seed=9), [Phase("p", "all", 4, 5e-2)], batch_norm="train", verbose=False)
    best = history.rows[history.best["p"] - 1]
    assert model.evaluate(stripes(seed=9), verbose=0)[0] == pytest.approx(best["val_loss"], rel=1e-4)
    assert history.audits["p"].free_moved == 4


@pytest.mark.slow
def test_patience_ends_a_phase_early():
    model = network()
    labels = np.zeros(64, "int32")
    same = tf.data.Dataset.from_tensor_slices((np.zeros((64, 8, 8, 1), "float32"), labels)).batch(16)
    wrong = same.map(lambda x, y: (x, 1 - y))  # the better the training, the worse the validation
    history = train(model, same, wrong, [Phase("p", "none", 20, 1e-2, patience=2)], verbose=False)
    assert len(history.rows) == 3
    assert history.best["p"] == 1


@pytest.mark.nightly
def test_callbacks_of_keras_are_called():
    class Count(keras.callbacks.Callback):
        epochs = 0

        def on_epoch_end(self, epoch, logs=None):
            self.epochs += 1
            assert "val_loss" in logs

    count = Count()
    train(network(), stripes(), stripes(), PHASES, callbacks=[count], verbose=False)
    assert count.epochs == 7


@pytest.mark.nightly
def test_one_line_is_printed_per_epoch(capsys):
    train(network(), stripes(), stripes(), PHASES[:1])
    assert capsys.readouterr().out == ""  # short phases only have a bar
    train(network(), stripes(), stripes(), PHASES[:1], verbose=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("frozen 1/3  ")
    assert "val_accuracy" in lines[0]
    assert "rate 0.0" in lines[0]
    assert lines[-1].endswith(" s")  # no time is left


def test_a_callback_that_changes_flags_is_caught_before_the_first_step():
    class Thaw(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.get_layer("backbone").get_layer("block0_conv").trainable = True

    model = network()
    before = model.get_weights()
    with pytest.raises(
        AuditError, match="not compiled: block0_conv/kernel, block0_conv/bias; compiled but frozen: none"
    ):
        train(model, stripes(), None, PHASES[:1], callbacks=[Thaw()], verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_a_callback_that_touches_frozen_weights_is_caught():
    class Meddle(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("backbone").get_layer("block0_conv").kernel.assign_add(np.ones((3, 3, 1, 8)))

    with pytest.raises(AuditError, match="1 of 12 frozen variables changed: block0_conv/kernel"):
        train(network(), stripes(), None, PHASES[:1], callbacks=[Meddle()], verbose=False)


@pytest.mark.nightly
def test_a_callback_that_puts_weights_back_is_caught():
    class Back(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.get_layer("logits").bias.assign([0.0, 0.0])

    with pytest.raises(AuditError, match="1 trainable variables have a gradient but did not change: logits/bias"):
        train(network(), stripes(48), None, PHASES[:1], callbacks=[Back()], verbose=False)


def test_a_variable_that_no_gradient_reaches_is_noted_not_blamed():
    inputs = keras.Input((3,))
    dead = keras.ops.multiply(keras.layers.Dense(2, name="dead")(inputs), 0.0)
    head = heads.classification(["a", "b"], dropout=0.0)
    model = keras.Model(inputs, head.attach(keras.layers.Concatenate()([inputs, dead])))
    x = np.random.default_rng(0).normal(size=(32, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype("int32"))).batch(8)
    history = train(model, data, None, [Phase("p", "all", 1, 1e-2)], verbose=False)
    assert history.notes == ("phase 'p': no gradient reaches dead/kernel, dead/bias",)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_with_its_cause():
    model = network()
    before = model.get_weights()
    with pytest.raises(
        PlanError, match=r"became (nan|inf) at step \d+ \(epoch \d\).*try 1e\+37.*weights from before the phase"
    ):
        train(model, stripes(), stripes(), [Phase("hot", "all", 3, 1e38, warmup=0.0)], verbose=False)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    bad = stripes().map(lambda x, y: (tf.where(x > 2.0, np.nan, x), y))
    with pytest.raises(PlanError, match=r"Cause: \d+ values of the inputs are NaN"):  # some ReLUs make 0 of NaN
        train(network(activation="tanh"), bad, None, PHASES, verbose=False)


def test_everything_wrong_with_the_phases_is_told_at_once():
    phases = [Phase("a", "none", 0, -1.0), Phase("a", "none", 1, float("inf"), warmup=1.0, patience=0)]
    with pytest.raises(
        PlanError, match=r"(?s)6 problems.*two phases.*epochs: .*ed: 0.*ed: -1.0.*ed: inf.*warmup: .*patience: "
    ):
        train(network(), stripes(), None, phases)
    with pytest.raises(PlanError, match="no phase"):
        train(network(), stripes(), None, [])


@pytest.mark.slow
def test_data_without_an_end_or_a_batch_is_refused():
    with pytest.raises(DataError, match="repeats without end"):
        train(network(), stripes().repeat(), None, PHASES)
    with pytest.raises(DataError, match="no batch"):
        train(network(), stripes().take(0), None, PHASES)
    with pytest.raises(DataError, match="no batch"):
        train(network(), stripes().filter(lambda x, y: False), None, PHASES)
    with pytest.raises(DataError, match="validation data repeats without end"):
        train(network(), stripes(), stripes().repeat(), PHASES)
    with pytest.raises(DataError, match="validation data holds no batch"):
        train(network(), stripes(), stripes().take(0), PHASES)
    filtered = stripes().filter(lambda x, y: True)  # a length that tf.data does not know
    assert train(network(), filtered, None, PHASES[:1], verbose=False).rows[-1]["epoch"] == 3


def test_blocks_that_do_not_exist_stop_before_training():
    with pytest.raises(BlockError, match="matches no block"):
        train(network(), stripes(), None, [Phase("p", "blok7", 1, 1e-3)])


def test_a_plain_keras_model_is_trained_with_a_loss_given():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2, name="d1")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with audit(model):
        history = train(
            model, stripes(), stripes(), [Phase("p", "all", 1, 1e-2)], loss=loss, metrics=["accuracy"], verbose=False
        )
    assert "val_accuracy" in history.rows[0]


@pytest.mark.parametrize(("warmup", "steps"), [(0.1, 100), (0.0, 10), (0.9, 2), (0.5, 1)])
def test_the_rate_rises_to_its_peak_and_falls_and_is_never_zero(warmup, steps):
    schedule = build_schedule(Phase("p", 1, 1, 0.5, warmup=warmup), steps)
    rates = np.array([float(schedule(step)) for step in range(steps)])
    peak = int(rates.argmax())
    assert (rates > 0).all()
    assert peak == min(int(warmup * steps), steps - 1)
    assert rates[peak] == pytest.approx(0.5) or steps <= 2
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak:]) < 0).all()


def test_history_is_written_whole_and_read_back(tmp_path):
    rows = ({"phase": "frozen", "epoch": 1, "loss": 0.5}, {"phase": "a, b", "epoch": 1, "loss": 0.25, "val_loss": 1.0})
    history = History(rows)
    path = history.to_csv(tmp_path / "history.csv")
    with open(path, newline="") as file:
        assert next(csv.reader(file)) == ["phase", "epoch", "loss", "val_loss"]
    assert History.from_csv(path).rows == rows
    assert [p.name for p in tmp_path.iterdir()] == ["history.csv"]
    with pytest.raises(FileNotFoundError):
        history.to_csv(tmp_path / "missing" / "history.csv")
