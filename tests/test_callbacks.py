"""Callbacks of Keras and of users in every kind of phase: what they see is the whole model, as in a plain ``fit``."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_recipes import backbone

from tfft import heads, models
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.training import FeatureSource, train

X = np.random.default_rng(0).integers(0, 255, (40, 32, 32, 3), np.uint8)
Y = np.arange(40) % 2
X[Y == 1] //= 2
KEPT = pytest.mark.parametrize("kept", [True, False], ids=["kept features", "whole model"])
TUNE = Phase("tune", 1, 3, 1e-2, schedule="cosine")


def fit(*callbacks, kept, phases=(TUNE,)):
    keras.utils.set_random_seed(0)
    model = models.build(backbone(), heads.classification(["a", "b"]))
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(20)
    source = FeatureSource((X, Y), (X, Y), 20, cache="memory") if kept else None
    return model, train(model, data, data, phases, source=source, verbose=False, callbacks=callbacks)


@pytest.mark.daily("kept features")
@KEPT
def test_callbacks_of_keras_find_the_direction_of_a_monitor(kept, tmp_path):
    of = keras.callbacks
    stop = of.EarlyStopping("val_accuracy", patience=0, restore_best_weights=True)
    save = of.ModelCheckpoint(tmp_path / "best.keras", monitor="val_accuracy", save_best_only=True)
    plateau = of.ReduceLROnPlateau("val_accuracy", patience=0, factor=0.5, min_delta=9)
    log, backup = of.CSVLogger(tmp_path / "log.csv"), of.BackupAndRestore(tmp_path / "backup")
    model, history = fit(save, plateau, log, backup, of.TerminateOnNaN(), of.ProgbarLogger(), stop, kept=kept)
    assert stop.monitor_op(2, 1)
    assert save.monitor_op(2, 1)
    scores = [row["val_accuracy"] for row in history.rows]
    assert save.best == max(scores)
    assert stop.stopped_epoch or len(scores) == 3
    assert [row["learning_rate"] for row in history.rows][:2] == pytest.approx([0.01, 0.005])
    saved = keras.models.load_model(tmp_path / "best.keras")
    saved.compile(metrics=["accuracy"], loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert saved.evaluate(X, Y, verbose=0)[1] == pytest.approx(save.best)
    columns = (tmp_path / "log.csv").read_text().split("\n")[0].split(",")
    assert {"accuracy", "loss", "val_accuracy", "val_loss"} <= set(columns)


@pytest.mark.daily("kept features")
@KEPT
def test_a_scheduler_sets_the_rate_in_place_of_the_schedule(kept):
    _, history = fit(keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2), kept=kept)
    assert [row["learning_rate"] for row in history.rows] == pytest.approx([0.005, 0.0025, 0.00125])
    assert any("LearningRateScheduler sets the learning rate" in note for note in history.notes)


@pytest.mark.nightly
@KEPT
def test_a_callback_of_a_user_may_ask_the_whole_model_with_raw_inputs(kept):
    seen = []

    class Ask(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            scores = self.model.evaluate(X, Y, verbose=0, return_dict=True)
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            seen.append((self.model.predict(X[:3], verbose=0).shape, scores, logs, rate))

    model, history = fit(Ask(), kept=kept)
    for (shape, scores, logs, rate), row in zip(seen, history.rows, strict=True):
        assert shape == (3, 2)
        assert logs["val_accuracy"] == row["val_accuracy"] == pytest.approx(scores["accuracy"])
        assert scores["loss"] == pytest.approx(logs["val_loss"], abs=1e-4)
        assert rate == pytest.approx(row["learning_rate"], abs=1e-9)


@pytest.mark.nightly
def test_a_solved_phase_says_that_it_calls_no_callback():
    called = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: pytest.fail("called"))
    _, history = fit(called, kept=True, phases=[Phase("solve", "none", 0, 0.0, head="linear_probe")])
    assert any("callbacks are not called" in note for note in history.notes)


def test_swapped_averages_have_a_setting_of_their_own():
    with pytest.raises(PlanError, match=r"Received: SwapEMAWeights.*ema_decay="):
        fit(keras.callbacks.SwapEMAWeights(), kept=False)


@pytest.mark.parametrize("make", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
def test_a_monitor_that_is_not_logged_stops_before_training(make):
    told = (
        r"Expected a monitor of \w+ that training logs: loss, accuracy, val_loss, val_accuracy\. Received: 'val_acc'\."
    )
    with pytest.raises(PlanError, match=told):
        fit(make(monitor="val_acc", mode="max"), kept=False)


def test_a_callback_of_a_user_may_log_what_another_monitors():
    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["own"] = epoch

    stop = keras.callbacks.EarlyStopping("own", mode="min", patience=1)
    fit(Log(), stop, kept=False)
    assert stop.best == 0
