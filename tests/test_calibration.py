"""Temperature scaling: probabilities match the accuracy, the classes stay, files and exports have it."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfft
from tfft.cli import main
from tfft.errors import DataError, ExportError, PlanError
from tfft.evaluation.answers import LogitSample
from tfft.evaluation.calibration import calibration
from tfft.evaluation.temperature import _fit, _fit_biases, _sigmoid_losses, _softmax_losses
from tfft.reporting import report
from tfft.reporting.page import Page

WIDTH = 6


def linear_model(head, scale):
    """A model whose logits are a scaled copy of its inputs."""
    inputs = keras.Input((WIDTH,), name="features")
    backbone = keras.Model(inputs, keras.layers.Dense(WIDTH, kernel_initializer="identity")(inputs), name="numbers")
    model = tfft.build(backbone, head)
    units = head.units
    model.get_layer("logits").set_weights([scale * np.eye(WIDTH, units, dtype=np.float32), np.zeros(units, np.float32)])
    return model


def labelled(count, units, seed=0):
    """Numbers whose softmax is the true probability of each class."""
    random = np.random.default_rng(seed)
    numbers = np.zeros((count, WIDTH), np.float32)
    numbers[:, :units] = random.normal(0, 2, (count, units))
    odds = np.exp(numbers[:, :units])
    odds /= odds.sum(axis=1, keepdims=True)
    return numbers, (odds.cumsum(axis=1) < random.random((count, 1))).sum(axis=1)


@pytest.mark.daily("4.0")
@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_planted_temperature_is_found(scale):
    model = linear_model(tfft.heads.classification(["a", "b", "c"]), scale)
    numbers, labels = labelled(3000, 3)
    before = model.predict(numbers, verbose=0)
    found = tfft.calibrate(model, (numbers, labels))
    assert found.temperature == pytest.approx(scale, rel=0.1)
    assert found.after.error < 0.03
    assert found.before.error > 3 * found.after.error
    assert found.loss_after < found.loss_before
    assert found.after.brier < found.before.brier
    after = model.predict(numbers, verbose=0)
    np.testing.assert_allclose(after, before / found.temperature, rtol=1e-5, atol=1e-6)
    assert np.array_equal(after.argmax(axis=1), before.argmax(axis=1))
    again = tfft.calibrate(model, (numbers, labels))
    assert again.temperature == pytest.approx(1, abs=0.02)
    assert str(found).startswith("temperature ")


def test_labels_that_are_each_0_or_1():
    random = np.random.default_rng(0)
    numbers = np.zeros((3000, WIDTH), np.float32)
    numbers[:, :2] = random.normal(0, 2, (3000, 2))
    labels = (random.random((3000, 2)) < 1 / (1 + np.exp(-numbers[:, :2]))).astype(np.float32)
    model = linear_model(tfft.heads.multilabel(["a", "b"]), 3.0)
    found = tfft.calibrate(model, (numbers, labels))
    assert found.temperature == pytest.approx(3, rel=0.1)
    assert found.after.error < 0.03 < found.before.error


def test_labels_that_look_too_likely_get_a_bias():
    random = np.random.default_rng(0)
    numbers = np.zeros((4000, WIDTH), np.float32)
    numbers[:, :3] = random.normal(0, 2, (4000, 3))
    planted = np.array([-2.0, 0.0, 1.0])
    labels = (random.random((4000, 3)) < 1 / (1 + np.exp(-numbers[:, :3] - planted))).astype(np.float32)
    model = linear_model(tfft.heads.multilabel(["a", "b", "c"]), 2.0)
    logits = model.predict(numbers, verbose=0)
    found = tfft.calibrate(model, (numbers, labels))
    assert found.temperature == pytest.approx(2, rel=0.1)
    np.testing.assert_allclose(found.bias, planted, atol=0.2)
    assert found.after.error < 0.02 < found.before.error
    np.testing.assert_allclose(
        model.predict(numbers, verbose=0), logits / found.temperature + found.bias, rtol=1e-4, atol=1e-5
    )
    assert "and a bias per label (-" in str(found)
    again = tfft.calibrate(model, (numbers, labels))
    assert np.abs(again.bias).max() < 0.05


def test_biases_are_those_of_a_general_minimizer():
    from scipy.optimize import minimize

    random = np.random.default_rng(1)
    logits = random.normal(0, 3, (200, 2))
    labels = (random.random((200, 2)) < 1 / (1 + np.exp(-logits / 2 - [1.0, -1.0]))).astype(float)

    def cost(at):
        loss = _sigmoid_losses(logits / np.exp(at[0]) + at[1:], labels).mean()
        mistake = _sigmoid_losses(logits / np.exp(at[0]) + at[1:], logits <= 0).mean() / 200
        return loss + mistake + (at[0] / 0.5) ** 2 / 2 / 200 + (at[1:] ** 2).sum() / 2 / 200 / 2

    wanted = minimize(cost, np.zeros(3), tol=1e-12).x
    temperature, bias = _fit_biases(logits, labels)
    np.testing.assert_allclose([np.log(temperature), *bias], wanted, atol=1e-3)


def test_a_bias_that_says_nothing_about_other_examples_is_left_out():
    random = np.random.default_rng(3)
    numbers = np.zeros((60, WIDTH), np.float32)
    numbers[:, :4] = random.normal(0, 2, (60, 4))
    labels = (random.random((60, 4)) < 1 / (1 + np.exp(-numbers[:, :4]))).astype(np.float32)
    found = tfft.calibrate(linear_model(tfft.heads.multilabel(list("abcd")), 3.0), (numbers, labels))
    assert found.temperature > 1.5
    assert not found.bias.any()


def test_no_mistake_on_few_examples_is_not_certainty():
    numbers, labels = labelled(60, 3)
    numbers[:, :3] = 2 * np.eye(3)[labels]  # every example is right
    model = linear_model(tfft.heads.classification(["a", "b", "c"]), 1.0)
    tfft.calibrate(model, (numbers, labels))
    probabilities = keras.ops.softmax(model.predict(numbers, verbose=0)).numpy().max(axis=1)
    assert probabilities.max() < 0.99


def test_the_temperature_is_that_of_a_dense_search():
    numbers, labels = labelled(400, 3)
    logits = 2.5 * numbers[:, :3].astype(np.float64)
    grid = np.exp(np.linspace(np.log(0.05), np.log(20), 4001))
    for loss, targets in ((_softmax_losses, labels), (_sigmoid_losses, np.eye(3)[labels])):
        second = np.argsort(logits, axis=1)[:, 1] if loss is _softmax_losses else logits <= 0  # one mistake of them
        costs = [
            loss(logits / t, targets).mean() + loss(logits / t, second).mean() / 400 + 2 * np.log(t) ** 2 / 400
            for t in grid
        ]
        assert _fit(logits, targets, loss) == pytest.approx(grid[np.argmin(costs)], rel=2e-3)


def test_examples_without_a_mistake_make_a_model_less_sure_not_more():
    numbers, labels = labelled(200, 3)
    numbers[:, :3] = 9 * np.eye(3)[labels]  # as sure as of one mistake in 4,000, after 200 examples
    model = linear_model(tfft.heads.classification(["a", "b", "c"]), 1.0)
    assert tfft.calibrate(model, (numbers, labels)).temperature > 1.3


def test_what_has_no_probabilities_is_refused():
    numbers, labels = labelled(60, 3)
    with pytest.raises(PlanError, match="one head for classes to calibrate. Received: 1 of regression"):
        tfft.calibrate(linear_model(tfft.heads.regression(), 1.0), (numbers, labels.astype(np.float32)))
    with pytest.raises(DataError, match="at least 50 examples to calibrate on. Received: 20"):
        tfft.calibrate(linear_model(tfft.heads.classification(["a", "b", "c"]), 1.0), (numbers[:20], labels[:20]))


def too_sure(calibrate, **settings):
    """A run whose head has learned the noise of few examples, and the held-out examples."""
    numbers, labels = labelled(500, 3, seed=1)
    parts = [
        tf.data.Dataset.from_tensor_slices((numbers[at], labels[at])).batch(50) for at in np.split(range(500), [40])
    ]
    inputs = keras.Input((WIDTH,), name="features")
    wide = keras.layers.Dense(64, activation="relu", kernel_initializer=keras.initializers.HeNormal(seed=0))(inputs)
    backbone = keras.Model(inputs, wide, name="wide")
    run = tfft.finetune(
        backbone, (*parts, ["a", "b", "c"]), plan="linear_probe", l2=1e-6, dropout=0.0, export_to=False,
        calibrate=calibrate, **settings,
    )  # fmt: skip
    return run, parts[1]


@pytest.mark.slow
def test_a_run_ends_with_calibrated_probabilities(tmp_path, capsys):
    run, held_out = too_sure(True, out=tmp_path / "run", verbose=True)
    said = capsys.readouterr().out
    plain, _ = too_sure(False, verbose=False)
    assert plain.calibration is None
    found = run.calibration
    assert found.temperature > 1.5
    assert found.examples == 460
    assert f"calibration: logits divided by {found.temperature:.3g}, fitted to 460 held-out examples" in said
    logits, before = (each.model.predict(held_out, verbose=0) for each in (run, plain))
    np.testing.assert_allclose(logits, before / found.temperature, rtol=1e-3, atol=1e-3)
    assert run.final_scores.accuracy == plain.final_scores.accuracy
    assert run.final_scores.loss < plain.final_scores.loss
    assert run.final_scores.loss == pytest.approx(tfft.evaluate(run.model, held_out).loss, rel=1e-5)
    again = tfft.load_run(tmp_path / "run")
    assert again.calibration.to_dict() == found.to_dict()
    assert again.card["calibration"] == str(found)
    page = Page("report")
    before, after = report._applied(page, found)
    assert "Temperature scaling divides the logits by" in page.render()
    assert before.error > 2 * after.error
    assert tfft.calibrate(run.model, held_out).temperature == pytest.approx(1, abs=0.1)


def test_a_sample_of_logits_is_drawn_from_all_batches():
    head = tfft.heads.classification(["a", "b"])
    sample = LogitSample(head, 100)
    for at in range(0, 1000, 10):
        rows = np.arange(at, at + 10)
        sample.add(rows % 2, np.stack([rows, -rows], axis=1).astype(np.float32))
    logits, labels = sample.arrays()
    assert logits.shape == (100, 2)
    np.testing.assert_array_equal(labels, logits[:, 0] % 2)
    assert len(set(logits[:, 0])) == 100
    assert 400 < logits[:, 0].mean() < 600


def test_the_interval_of_many_predictions_is_that_of_a_bootstrap():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 30_000)
    correct = random.random(30_000) < confidence - 0.05
    low, high = calibration(confidence, correct).interval
    parts = [calibration(confidence[rows], correct[rows]) for rows in random.integers(0, 30_000, (200, 30_000))]
    wanted = np.quantile([part.error for part in parts], (0.025, 0.975))
    np.testing.assert_allclose((low, high), wanted, atol=1e-3)


@pytest.mark.nightly
@pytest.mark.process
def test_an_export_is_calibrated_on_the_held_out_examples_of_the_run(tmp_path, capsys):
    random = np.random.default_rng(0)
    for at in range(300):
        label, folder = at % 2, tmp_path / "photos" / "ab"[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = random.normal(128, 20, (8, 8, 3))
        pixels[..., 0] += (2 * label - 1) * 12 + random.normal(0, 10)
        keras.utils.save_img(folder / f"{at}.png", pixels.clip(0, 255), scale=False)
    image = keras.Input((8, 8, 3))
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 64)(image))
    backbone = keras.Model(image, keras.layers.Dense(3, kernel_initializer="identity")(means), name="means")
    run = tfft.finetune(
        backbone, tmp_path / "photos", out=tmp_path / "run", export_to=False, verbose=False, calibrate=False
    )
    for variable in run.model.get_layer("logits").weights:
        variable.assign(5 * variable)  # much too sure
    run.model.save(tmp_path / "run" / "model.keras")
    assert (
        main(["export", str(tmp_path / "run"), str(tmp_path / "served" / "1"), "--calibrate", "--thresholds", "f1"])
        == 0
    )
    said = capsys.readouterr().out
    card = (tmp_path / "served" / "1" / "assets" / "model_card.md").read_text()
    assert "expected calibration error" in card
    assert "thresholds for f1 from" in card
    assert "  b " in said.split("thresholds for f1")[1]
    temperature = float(said.split("temperature ")[1].split()[0])
    assert temperature > 2
    pixels = random.integers(90, 170, (3, 8, 8, 3)).astype(np.uint8)
    served = tfft.exporting.open_export(tmp_path / "served")
    answer = served.predict(pixels)
    with pytest.raises(ExportError, match="one value per item for image_bytes: string .* Received: int"):
        served.predict([3])
    np.testing.assert_allclose(answer["logits"], run.model.predict(pixels, verbose=0) / temperature, rtol=0.02)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["final"]["accuracy"] == run.final_scores.accuracy
