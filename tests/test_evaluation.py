"""Scores against closed forms and dense counts, on models whose every logit is known."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import heads
from tfft.errors import DataError, PlanError, TfftError
from tfft.evaluation import Scores, evaluate, wilson_interval


def echo(head, width):
    """A model whose logits are its inputs."""
    inputs = keras.Input((width,))
    model = keras.Model(inputs, head.attach(inputs))
    model.get_layer("logits").set_weights([np.eye(width, head.units), np.zeros(head.units)])
    return model


def dataset(x, y, batch=4):
    return tf.data.Dataset.from_tensor_slices((np.asarray(x, "float32"), y)).batch(batch)


@pytest.fixture(scope="module")
def three():
    rng = np.random.default_rng(0)
    head = heads.classification(["a", "b", "c"])
    logits, labels = rng.normal(size=(23, 3)).astype("float32"), rng.integers(0, 3, 23).astype("int32")
    return head, logits, labels, evaluate(echo(head, 3), dataset(logits, labels))


def test_classes_are_counted_as_a_loop_would(three):
    head, logits, labels, scores = three
    predicted = logits.argmax(-1)
    confusion = np.zeros((3, 3), int)
    for true, given in zip(labels, predicted, strict=True):
        confusion[true, given] += 1
    assert np.array_equal(scores.confusion, confusion)
    assert scores.examples == 23
    assert scores.accuracy == pytest.approx((labels == predicted).mean())
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert scores.loss == pytest.approx(-log_p[np.arange(23), labels].mean(), rel=1e-5)
    assert scores.majority_baseline == pytest.approx(np.bincount(labels).max() / 23)
    row = scores.per_class[1]
    assert row.name == "b"
    assert row.examples == (labels == 1).sum()
    assert row.predicted == (predicted == 1).sum()
    assert row.recall == pytest.approx(confusion[1, 1] / confusion[1].sum())
    assert row.precision == pytest.approx(confusion[1, 1] / confusion[:, 1].sum())
    assert row.f1 == pytest.approx(2 / (1 / row.recall + 1 / row.precision))


def test_the_result_does_not_depend_on_the_batches(three):
    head, logits, labels, scores = three
    other = evaluate(echo(head, 3), dataset(logits, labels, 23))
    assert other.accuracy == scores.accuracy
    assert other.loss == pytest.approx(scores.loss, rel=1e-6)


def test_scores_are_plain_values_and_come_back(three):
    scores = three[3]
    values = json.loads(json.dumps(scores.to_dict()))
    assert {"accuracy", "loss", "interval", "examples"} <= set(values)
    again = Scores.from_dict(values)
    assert again.to_dict() == scores.to_dict()
    text = str(scores)
    assert "95 % interval" in text
    assert "precision" in text
    assert "taken for" in text
    assert sum(n for *_, n in scores.most_confused) == 23 - round(scores.accuracy * 23)


@pytest.mark.parametrize(("right", "total"), [(0, 5), (5, 5), (9, 10), (61, 263)])
def test_wilson_solves_its_equation(right, total):
    z, share = 1.959963984540054, right / total
    for end in wilson_interval(right, total):  # the ends are where (p - end)^2 = z^2 end (1 - end) / n
        assert (share - end) ** 2 == pytest.approx(z * z * end * (1 - end) / total, abs=1e-12)
    low, high = wilson_interval(right, total)
    assert 0 <= low <= share <= high <= 1


def test_wilson_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = [low <= 0.9 <= high for low, high in (wilson_interval(k, 60) for k in rng.binomial(60, 0.9, 4000))]
    assert 0.93 < np.mean(inside) < 0.98


def test_a_binary_head_reads_one_logit():
    head = heads.binary("bee")
    scores = evaluate(echo(head, 1), dataset([[2], [-1], [0.5], [-3]], np.array([1, 1, 0, 0], "int32")))
    assert scores.accuracy == 0.5
    assert [row.name for row in scores.per_class] == ["not bee", "bee"]
    assert scores.confusion.tolist() == [[1, 1], [1, 1]]


def test_several_labels_are_single_decisions():
    head = heads.multilabel(["x", "y"])
    labels = np.array([[1, 0], [1, 1], [0, 0]], "float32")
    scores = evaluate(echo(head, 2), dataset([[1, -1], [1, -1], [-1, 1]], labels))
    assert scores.accuracy == pytest.approx(4 / 6)
    assert scores.measures["exact_match"] == pytest.approx(1 / 3)
    assert scores.majority_baseline == pytest.approx(2 / 3)
    assert scores.measures["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert scores.interval[0] < 4 / 6 < scores.interval[1]


def test_regression_reports_its_error_with_an_interval():
    head = heads.regression()
    x, y = np.array([[1.0], [2], [3], [4]]), np.array([1.5, 2, 2, 4], "float32")
    scores = evaluate(echo(head, 1), dataset(x, y))
    off = np.array([0.5, 0, 1, 0])
    half = 1.959964 * off.std(ddof=1) / 2
    assert scores.accuracy is None
    assert scores.value == pytest.approx(off.mean())
    assert scores.interval == pytest.approx((max(0, off.mean() - half), off.mean() + half))
    assert scores.measures["r2"] == pytest.approx(1 - (off**2).sum() / ((y - y.mean()) ** 2).sum())
    assert "mean absolute error 0.3750" in str(scores)


def test_what_cannot_be_measured_is_refused(three):
    head = three[0]
    model = echo(head, 3)
    with pytest.raises(DataError, match=r"labels 3, 7 have no class: the head has 3"):
        evaluate(model, dataset(np.zeros((3, 3)), np.array([0, 3, 7], "int32")))
    with pytest.raises(DataError, match=r"Expected labels \[B, 2\] of 0 and 1"):
        evaluate(echo(heads.multilabel(["x", "y"]), 2), dataset(np.zeros((2, 2)), np.array([0.0, 1.0])))
    with pytest.raises(DataError, match=r"Expected finite labels \[B, 1\]"):
        evaluate(echo(heads.regression(), 1), dataset(np.zeros((2, 1)), np.array([0.0, np.nan])))
    with pytest.raises(DataError, match="dataset with examples"):
        evaluate(model, dataset(np.zeros((0, 3)), np.zeros(0, "int32")))
    with pytest.raises(DataError, match="repeats without end"):
        evaluate(model, dataset(np.zeros((3, 3)), np.zeros(3, "int32")).repeat())
    with pytest.raises(DataError, match="inputs, labels"):
        evaluate(model, tf.data.Dataset.from_tensors(np.zeros((1, 3))))
    with pytest.raises(TfftError, match="NaN or infinity for 1 of 2"):
        evaluate(model, dataset([[0, 0, 0], [np.nan, 0, 0]], np.zeros(2, "int32")))
    with pytest.raises(PlanError, match="no tfft head"):
        evaluate(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)]),
            dataset(np.zeros((3, 3)), np.zeros(3, "int32")),
        )


def test_any_keras_model_is_measured_with_a_head_given(three):
    head, logits, labels, scores = three
    plain = keras.Sequential([keras.Input((3,)), keras.layers.Identity()])
    assert evaluate(plain, dataset(logits, labels), head=head).accuracy == scores.accuracy


@pytest.mark.slow
def test_scaled_images_are_refused_by_a_model_that_takes_pixels(build_tiny_model):
    model = build_tiny_model()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    labels = np.array([0, 1, 2, 0], "int32")
    with pytest.raises(DataError, match=r"0 to 255, received .* to 1: multiply by 255"):
        evaluate(model, dataset(pixels / pixels.max(), labels))
    whole = tf.data.Dataset.from_tensor_slices((pixels.astype("uint8"), labels)).batch(4)
    assert evaluate(model, dataset(pixels, labels)).loss == evaluate(model, whole).loss
