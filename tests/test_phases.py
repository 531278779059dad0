"""Every setting of a phase, on small nets trained for real: what it changes, and what it leaves alone."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_training import network, stripes

from tfft import heads
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.freezing import audit
from tfft.optimizers import LayerwiseOptimizer
from tfft.training import FeatureSource, train
from tfft.training.phase_checks import check_phases

FINE = Phase("fine-tune", 1, 2, 1e-2)
LOWER, UPPER = "block0_conv/kernel", "block1_conv/kernel"


def weights(model):
    return {v.path: v.numpy().copy() for v in model.weights}


def moved(before, model):
    return {path for path, value in weights(model).items() if not np.array_equal(value, before[path])}


def run(phase, *more, model=None, validation=True, **settings):
    model = model or network()
    before = weights(model)
    held_out = stripes(seed=9) if validation else None
    history = train(model, stripes(128), held_out, [phase, *more], verbose=False, **settings)
    return model, before, history


SETTINGS = [
    {"schedule": name} for name in ("linear", "constant", "one_cycle", "slanted", "steps", "plateau")
] + [
    {"optimizer": "sgd"},
    {"optimizer": "adamw", "weight_decay": 0.01},
    {"optimizer": "rmsprop", "global_clipnorm": 0.5},
    {"layer_decay": 0.5},
    {"lr_multipliers": {"block1_*": 0.1}},
    {"l2_sp": 0.1},
    {"mixup_alpha": 0.3},
    {"cutmix_alpha": 1.0},
    {"ema_decay": 0.9},
    {"swa_fraction": 0.6, "schedule": "constant"},
    {"interpolate": True},
    {"reinitialize": 1},
    {"lora_rank": 2, "epochs": 3},
]  # fmt: skip


@pytest.mark.representative("schedule=linear")
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_frozen_stays_to_the_bit_and_the_rest_trains(setting):
    model, before, history = run(dataclasses.replace(FINE, **setting), validation=True)
    changed = moved(before, model)
    assert not {path for path in changed if path.startswith("block0")}
    assert {UPPER, "logits/kernel"} <= changed or not history.best["fine-tune"]
    assert all(math.isfinite(row["val_loss"]) for row in history.rows)
    names = [v.path for v in model.weights]
    assert names == list(before)  # nothing of the setting stays in the model
    assert not any(v.regularizer for v in model.weights if "conv" in v.path)


@pytest.mark.slow
def test_the_pull_holds_the_backbone_where_it_was():
    far, start, _ = run(dataclasses.replace(FINE, optimizer="sgd", epochs=4), validation=False)
    near, _, _ = run(dataclasses.replace(FINE, optimizer="sgd", epochs=4, l2_sp=50.0), validation=False)
    distance = [np.abs(weights(model)[UPPER] - start[UPPER]).max() for model in (far, near)]
    assert distance[1] < distance[0] / 5
    assert np.abs(weights(near)["logits/kernel"] - start["logits/kernel"]).max() > 0  # the head is free


def test_lower_blocks_go_slower_by_the_decay():
    phase = Phase("p", "all", 1, 1e-3, warmup=0.0, schedule="constant", layer_decay=0.1)
    one = tf.data.Dataset.from_tensors(next(iter(stripes(16))))
    model = network()
    before = weights(model)
    train(model, one, None, [phase], verbose=False)
    assert isinstance(model.optimizer, LayerwiseOptimizer)
    steps = {name: np.abs(weights(model)[name] - before[name]).max() for name in ("logits/kernel", UPPER, LOWER)}
    assert steps["logits/kernel"] > 3 * steps[UPPER] > 9 * steps[LOWER] > 0


@pytest.mark.nightly
def test_slots_go_on_into_the_next_phase():
    """Two phases over the same blocks at a constant rate are one training, to the bit."""
    kept = {"warmup": 0.0, "schedule": "constant"}
    once, _, _ = run(Phase("a", 1, 4, 1e-3, **kept), validation=False)
    twice, _, _ = run(Phase("a", 1, 2, 1e-3, **kept), Phase("b", 1, 2, 1e-3, **kept), validation=False)
    for name, value in weights(once).items():
        np.testing.assert_allclose(weights(twice)[name], value, rtol=0, atol=1e-6)
    alone, _, _ = run(Phase("a", 1, 2, 1e-3, **kept), validation=False)
    train(alone, stripes(128), None, [Phase("b", 1, 2, 1e-3, **kept)], verbose=False)  # a new optimizer
    assert np.abs(weights(alone)[UPPER] - weights(once)[UPPER]).max() > 1e-5


@pytest.mark.daily("setting1")
@pytest.mark.parametrize("setting", [{"mixup_alpha": 0.3}, {"l2_sp": 100.0}])
def test_afterwards_the_model_is_compiled_as_any_other(setting):
    model, _, _ = run(dataclasses.replace(FINE, **setting))
    before = weights(model)
    found = model.evaluate(stripes(seed=9), verbose=0, return_dict=True)  # labels are integers
    assert set(found) == {"loss", "accuracy"}
    plain = network()
    plain.set_weights(model.get_weights())
    plain.compile("adam", **heads.from_model(plain).compile_args())
    model.compile(keras.optimizers.SGD(0.1), **heads.from_model(model).compile_args())
    assert found["loss"] == pytest.approx(plain.evaluate(stripes(seed=9), verbose=0)[0], rel=1e-5)  # no penalty
    model.fit(stripes(16), epochs=1, verbose=0, shuffle=False)
    assert UPPER in moved(before, model)


@pytest.mark.slow
def test_interpolation_never_ends_worse_than_either_end():
    model, _, history = run(dataclasses.replace(FINE, learning_rate=0.05, interpolate=True, epochs=3))
    best = max((row["val_accuracy"], -row["val_loss"]) for row in history.rows)
    found = model.evaluate(stripes(seed=9), verbose=0, return_dict=True)
    assert (found["accuracy"] + 1e-6, -found["loss"] + 1e-6) >= best
    assert any("the best point between its start" in note for note in history.notes)


@pytest.mark.nightly
def test_a_reinitialized_block_that_does_not_help_comes_back():
    model = network()
    train(model, stripes(256), stripes(seed=9), [Phase("first", "all", 4, 1e-2)], verbose=False)
    before = weights(model)
    known = model.evaluate(stripes(seed=9), verbose=0)[0]
    phases = [Phase("head", "none", 1, 1e-6), Phase("again", 1, 1, 1e-6, reinitialize=1)]
    history = train(model, stripes(64), stripes(seed=9), phases, verbose=False)
    assert history.best["again"] == 0
    assert UPPER not in moved(before, model)
    assert model.evaluate(stripes(seed=9), verbose=0)[0] == pytest.approx(known, abs=1e-3)


@pytest.mark.nightly
def test_surgical_trains_the_spoiled_block_alone():
    model = network()
    train(model, stripes(512), stripes(seed=9), [Phase("first", "all", 4, 1e-2)], verbose=False)
    kernel = next(v for v in model.weights if v.path == LOWER)
    kernel.assign(kernel * 0.1)
    before = weights(model)
    phase = Phase("repair", "all", 2, 1e-2, num_surgical_blocks=1)
    history = train(model, stripes(256), stripes(seed=9), [phase], verbose=False)
    assert history.notes[0].endswith("are in block0")
    assert {path.split("/")[0] for path in moved(before, model)} <= {"block0_conv", "block0_bn", "logits"}
    assert LOWER in moved(before, model)


@pytest.mark.nightly
def test_rare_classes_weigh_more():
    x = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("float32")
    y = np.repeat([0, 1], [58, 6]).astype("int32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
    shares = []
    for class_weight in (None, {0: 64 / (2 * 58), 1: 64 / (2 * 6)}):
        model = network(head=heads.classification(["common", "rare"], dropout=0.0, l2=1.0))
        train(model, data, None, [Phase("p", "none", 6, 3e-2)], verbose=False, class_weight=class_weight)
        shares.append(np.mean(tf.nn.softmax(model.predict(x, verbose=0))[:, 1]))
    assert shares[1] - shares[0] > 0.08


@pytest.mark.slow
def test_prototypes_are_put_in_place_and_nothing_else_moves():
    model, before, history = run(Phase("frozen", "none", 0, 0.0, head="nearest_mean"))
    assert moved(before, model) == {"logits/kernel", "logits/bias"}
    assert "the head is the mean of each class" in history.notes[0]
    assert history.rows[0]["accuracy"] > 0.8


@pytest.mark.nightly
def test_mixed_features_are_named(tmp_path):
    x, y = (np.concatenate(part) for part in zip(*stripes(64).as_numpy_iterator(), strict=True))
    source = FeatureSource((x, y), (x, y), batch_size=16, cache="memory")
    _, _, history = run(dataclasses.replace(FINE, mixup_alpha=0.2), source=source)
    assert any("so features are mixed instead of inputs" in note for note in history.notes)
    frozen = audit(network())
    assert frozen is not None


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"schedule": "cosin"}, "Did you mean 'cosine'"),
        ({"optimizer": "adamm"}, "Did you mean 'adam'"),
        ({"layer_decay": 1.5}, "layer_decay: Expected a number above 0 and at most 1. Received: 1.5"),
        ({"lr_multipliers": {"block1": -1}}, "Expected a factor above 0 for 'block1'. Received: -1"),
        ({"l2_sp": 0.1, "weight_decay": 0.1}, "pulls towards the pretrained weights and weight_decay towards 0"),
        ({"ema_decay": 0.9, "swa_fraction": 0.5}, "give one of them"),
        ({"ema_decay": 1.0}, "ema_decay: Expected a number of at least 0 and below 1. Received: 1.0"),
        ({"lora_rank": -1}, "lora_rank: Expected an integer of at least 0"),
        ({"reinitialize": 2}, "reinitialize=2 exceeds the 1 blocks that train"),
        ({"unfreeze": "none", "l2_sp": 0.1}, "no block trains, so l2_sp would have no effect"),
        ({"global_clipnorm": 0}, "global_clipnorm: Expected None or a number above 0"),
        ({"mixup_alpha": -0.1}, "mixup_alpha: Expected a number of at least 0"),
    ],
)
def test_settings_that_cannot_be_used(wrong, told):
    with pytest.raises(PlanError) as caught:
        check_phases([dataclasses.replace(FINE, **wrong)])
    assert told in str(caught.value)


def test_what_needs_validation_examples_says_so():
    with pytest.raises(PlanError) as caught:
        check_phases([dataclasses.replace(FINE, interpolate=True, schedule="plateau")], validation=False)
    assert "interpolate chooses by the validation examples" in str(caught.value)
    assert "'plateau' waits for the validation loss" in str(caught.value)


def test_patterns_of_rates_that_match_nothing_are_told_before_training():
    with pytest.raises(PlanError, match="block7"):
        run(dataclasses.replace(FINE, lr_multipliers={"block7*": 0.5}))


@pytest.mark.nightly
def test_keras_callbacks_see_every_phase():
    class Seen(keras.callbacks.Callback):
        rows: list = []

        def on_epoch_end(self, epoch, logs=None):
            self.rows.append((epoch, logs["val_accuracy"], float(self.model.optimizer.learning_rate)))

    run(FINE, Phase("second", "all", 1, 1e-3), callbacks=[Seen()])
    assert [row[0] for row in Seen.rows] == [0, 1, 0]
    assert all(0 <= accuracy <= 1 and rate >= 0 for _, accuracy, rate in Seen.rows)
