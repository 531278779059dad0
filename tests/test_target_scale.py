"""Targets of a regression have a scale: what is learned, scored and exported must not depend on their unit."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft import heads
from tfft.backbones.base import Backbone
from tfft.config import Phase
from tfft.errors import AuditError, DataError
from tfft.evaluation import Scores
from tfft.features import fit_linear_probe
from tfft.recipes import finetune
from tfft.specs import InputSpec
from tfft.training import train


def backbone(seed=3):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 3))
    for k in range(2):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name=f"block{k}_conv")(x)
        x = keras.layers.Activation("swish", name=f"block{k}_swish")(x)
    return Backbone("tiny", keras.Model(inputs, x, name="tiny"), "test", InputSpec(8, 8, source="the test"))


def pictures(count=64, seed=0):
    random = np.random.default_rng(seed)
    bright = random.uniform(30, 220, count)
    pixels = np.clip(random.normal(bright[:, None, None, None], 8, (count, 8, 8, 3)), 0, 255).astype(np.uint8)
    return pixels, (bright - 125) / 55


def splits(scale=1.0, mean=0.0, columns=1):
    pixels, z = pictures()
    labels = (z * scale + mean).astype(np.float32)
    labels = labels if columns == 1 else np.stack([labels * 10.0**-k for k in range(columns)], axis=1)
    return tfft.data.load((pixels, labels), task="regression", seed=1)


def tiny_regression(head):
    inputs = keras.Input((3,))
    return keras.Model(inputs, head.attach(inputs))


@pytest.mark.daily("linear_probe")
@pytest.mark.parametrize("plan", ["linear_probe", "lp_ft", "full", "gradual"])
def test_prices_are_learned_with_every_plan(plan):
    settings = {} if plan == "linear_probe" else {"epochs": 20, "learning_rate": (1e-2, 1e-2)}
    given = splits(100_000, 300_000)
    run = finetune(backbone(), given, plan=plan, batch_size=8, **settings, verbose=False)
    scores = run.final_scores
    assert scores.value < 0.4 * scores.measures["median_baseline"], scores.summary
    assert 250_000 < float(np.mean(run.model.predict(pictures()[0], verbose=0))) < 350_000


@pytest.mark.nightly
def test_the_unit_of_the_targets_changes_nothing():
    settings = {
        "plan": "full",
        "epochs": 3,
        "batch_size": 8,
        "learning_rate": (1e-2, 1e-2),
        "verbose": False,
        "l2": 1e-3,
    }
    small = finetune(backbone(), splits(), **settings)
    large = finetune(backbone(), splits(1e5, 1e6), **settings)
    for one, other in zip(small.model.get_weights(), large.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=0.02, atol=2e-3)
    assert large.final_scores.loss == pytest.approx(small.final_scores.loss, rel=0.02)
    assert large.final_scores.value == pytest.approx(1e5 * small.final_scores.value, rel=0.02)


def test_a_solved_head_is_the_same_at_any_scale():
    random = np.random.default_rng(0)
    features = random.normal(size=(80, 5)).astype(np.float32)
    targets = features @ [1.0, -2.0, 0.5, 0.0, 3.0] + random.normal(size=80)
    small, large = targets, targets * 1e5 + 1e6
    found = [fit_linear_probe(features, t, heads.regression().fitted_to(t)) for t in (small, large)]
    np.testing.assert_allclose(found[0].kernel, found[1].kernel, atol=1e-5)
    assert found[0].l2 == pytest.approx(found[1].l2)


def test_values_come_in_the_unit_of_the_targets_also_from_a_file(tmp_path):
    head = heads.regression(["price", "area"]).fitted_to([[1e5, 50.0], [3e5, 90.0], [2e5, 100.0]])
    model = tiny_regression(head)
    model.compile("adam", **head.compile_args())
    model.optimizer.build(model.trainable_variables)
    inputs = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    logits = model.get_layer("logits")
    raw = inputs @ logits.kernel.numpy() + logits.bias.numpy()
    given = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(given, raw * head.spreads + head.means, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.predict(inputs, verbose=0), given)
    assert heads.from_model(again) == head
    json.dumps(head.to_dict())


def test_a_loss_of_one_is_that_of_always_the_mean():
    targets = np.array([[1e5, 50.0], [3e5, 90.0], [2e5, 100.0]], np.float32)
    head = heads.regression(2).fitted_to(targets)
    assert float(head.loss()(targets, np.tile(head.means, (3, 1)).astype(np.float32))) == pytest.approx(1.0, abs=1e-5)


def test_scores_name_the_errors_of_mean_and_median():
    train_targets = np.array([1.0, 2.0, 9.0])
    head = heads.regression().fitted_to(train_targets)
    model = tiny_regression(head)
    model.get_layer("logits").kernel.assign(np.zeros((3, 1)))
    model.get_layer("logits").bias.assign([0.0])
    labels = np.array([0.0, 4.0], np.float32)
    scores = tfft.evaluate(model, tf.data.Dataset.from_tensors((np.zeros((2, 3), np.float32), labels)))
    assert scores.value == pytest.approx(2.0)
    assert scores.measures["mean_baseline"] == pytest.approx(2.0)
    assert scores.measures["median_baseline"] == pytest.approx(2.0)
    assert scores.learned_nothing
    assert "always the mean 2.0000, the median 2.0000: nothing was learned" in scores.summary
    assert Scores.from_dict(json.loads(json.dumps(scores.to_dict()))).baselines == scores.baselines


def test_each_of_several_targets_has_its_error():
    labels = np.array([[1e5, 50.0], [3e5, 90.0]], np.float32)
    head = heads.regression(["price", "area"]).fitted_to(labels)
    model = tiny_regression(head)
    scores = tfft.evaluate(model, tf.data.Dataset.from_tensors((np.zeros((2, 3), np.float32), labels)))
    assert scores.measures["mean_absolute_error of area"] == pytest.approx(20.0, rel=1e-4)
    assert scores.measures["median_baseline of price"] == pytest.approx(1e5, rel=1e-4)


def test_targets_that_are_all_the_same_are_refused():
    with pytest.raises(DataError, match=r"Received: 3 training targets of 'area', all 7\. There is nothing to learn"):
        heads.regression(["price", "area"]).fitted_to([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0]])
    with pytest.raises(DataError, match="all 5"):
        tfft.data.load((pictures(8)[0], np.full(8, 5.0)), task="regression")


def _fit(model, rate, callbacks=(), optimizer="adam"):
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 3)).astype(np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, 30_000 + 8_000 * x[:, 0])).batch(8)
    phase = Phase("p", "all", 1, rate, optimizer=optimizer, warmup=0.0)
    return train(model, data, None, [phase], callbacks=list(callbacks), verbose=False)


def test_the_audit_lets_a_large_variable_stand_that_a_step_cannot_move():
    model = tiny_regression(heads.regression())  # a head without a scale: its bias is 30,000
    model.get_layer("logits").bias.assign([30_000.0])
    history = _fit(model, 3e-4)
    assert any(
        "logits/bias did not change: at a learning rate of 0.0003 a step is smaller than" in n for n in history.notes
    )
    assert model.get_layer("logits").bias.numpy() == [30_000.0]


def test_the_audit_still_finds_a_variable_that_was_put_back():
    model = tiny_regression(heads.regression())
    model.get_layer("logits").bias.assign([3.0])
    back = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: model.get_layer("logits").bias.assign([3.0]))
    with pytest.raises(AuditError, match="logits/bias"):
        _fit(model, 3e-4, [back])


def test_the_audit_knows_what_bfloat16_shows():
    with keras.DTypePolicy("float32") and keras.device("cpu:0"):
        inputs = keras.Input((3,))
        hidden = keras.layers.Dense(
            3,
            name="half",
            dtype="bfloat16",
            kernel_initializer=keras.initializers.Constant(1.0),
            bias_initializer="ones",
        )(inputs)
        model = keras.Model(inputs, heads.regression().fitted_to([1e4, 3e4, 5e4]).attach(hidden))
    before = model.get_layer("half").kernel.numpy().copy()
    history = _fit(model, 1e-4)
    assert np.array_equal(model.get_layer("half").kernel.numpy(), before)
    assert any("half/kernel" in note and "bfloat16" in note for note in history.notes)
