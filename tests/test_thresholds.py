"""Thresholds of labels: the best ones are found, goals are met on other examples, and every answer uses them."""

import itertools
import json

import keras
import numpy as np
import pytest
from test_calibration import WIDTH, linear_model

import tfft
from tfft.errors import DataError, PlanError
from tfft.evaluation.thresholds import _best, _chooser
from tfft.exporting import open_export


def rare_labels(count=2000, seed=0, mean=-3, spread=1.5):
    """Two labels, the first one rare unless ``mean`` is larger, and logits of their true probabilities."""
    random = np.random.default_rng(seed)
    numbers = np.zeros((count, WIDTH), np.float32)
    numbers[:, :2] = random.normal((mean, 0), spread, (count, 2))
    labels = (random.random((count, 2)) < 1 / (1 + np.exp(-numbers[:, :2]))).astype(np.float32)
    return numbers, labels


@pytest.mark.parametrize("goal", ["f1", "precision>=0.8", "recall >= .9"])
def test_the_best_cutoff_is_that_of_trying_all(goal):
    random = np.random.default_rng(0)
    logits = random.integers(-6, 6, 60) / 2  # many ties
    given = random.random(60) < 1 / (1 + np.exp(-logits))
    rows = []
    for cutoff in np.arange(-3.25, 3.25, 0.5):
        hits, made = (given & (logits > cutoff)).sum(), (logits > cutoff).sum()
        if made:
            rows.append((hits / made, hits / given.sum(), 2 * hits / (made + given.sum())))
    wanted = {
        "f1": max(row[2] for row in rows),
        "precision>=0.8": max(row[1] for row in rows if row[0] >= 0.8),
        "recall >= .9": max(row[0] for row in rows if row[1] >= 0.9),
    }[goal]
    cutoff, reached = _best(logits, given, _chooser(goal))
    hits, made = (given & (logits > cutoff)).sum(), (logits > cutoff).sum()
    found = {"f": 2 * hits / (made + given.sum()), "p": hits / given.sum(), "r": hits / made}[goal[0]]
    assert reached
    assert found == pytest.approx(wanted)


@pytest.mark.slow
def test_rare_labels_get_lower_thresholds_and_all_answers_use_them(tmp_path):
    model = linear_model(tfft.heads.multilabel(["rare", "common"]), 1.0)
    known, other = rare_labels(), rare_labels(seed=1)
    before = tfft.evaluate(model, other)
    found = tfft.choose_thresholds(model, known)
    rare, _ = found.labels
    assert rare.threshold < 0.45
    assert rare.after[2] > rare.before[2] + 0.03
    after = tfft.evaluate(model, other)
    assert after.per_class[0].f1 > before.per_class[0].f1 + 0.03  # on examples that chose nothing
    assert after.per_class[0].f1 == pytest.approx(rare.after[2], abs=0.06)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert tfft.heads.from_model(loaded).thresholds == tuple(row.threshold for row in found.labels)
    assert tfft.evaluate(loaded, other).to_dict() == after.to_dict()
    tfft.export(loaded, tmp_path / "served" / "1")
    served = open_export(tmp_path / "served").signatures["serving_default"](features=other[0][:500])
    expected = served["probabilities"].numpy() > np.array([row.threshold for row in found.labels])
    np.testing.assert_array_equal(served["labels_above_threshold"].numpy(), expected)
    assert expected[:, 0].sum() > (served["probabilities"].numpy() > 0.5)[:, 0].sum()


@pytest.mark.representative("classification-precision>=0.8-0", "classification-recall>=0.9-1")
@pytest.mark.parametrize(("goal", "place"), [("precision>=0.8", 0), ("recall>=0.9", 1)])
@pytest.mark.parametrize("head", [tfft.heads.binary, tfft.heads.classification])
def test_goals_are_met_on_other_examples_and_change_the_label(head, goal, place):
    head = head(["usual", "alarm"])
    model = linear_model(head, 1.0)
    (numbers, labels), (others, theirs) = (rare_labels(4000, seed, mean=-1, spread=3) for seed in (0, 1))
    if head.units == 2:  # the logit of the second class, less that of the first
        for values in (numbers, others):
            values[:, :2] = np.stack([np.zeros(len(values)), values[:, 0]], axis=1)
    labels, theirs = labels[:, 0].astype(int), theirs[:, 0].astype(int)
    [row] = tfft.choose_thresholds(model, (numbers, labels), goal).labels
    assert row.name == "alarm"
    least = float(goal.split("=")[1])
    assert row.after[place] == pytest.approx(least, abs=0.06)
    scores = tfft.evaluate(model, (others, theirs))
    alarm = scores.per_class[1]
    assert (alarm.precision, alarm.recall)[place] == pytest.approx(least, abs=0.08)
    shown = tfft.heads.from_model(model).postprocess(model.predict(others, verbose=0))
    named = shown["label"].numpy() == b"alarm"
    np.testing.assert_array_equal(named, shown["probabilities"].numpy()[:, 1] > row.threshold)
    assert alarm.predicted == named.sum()
    result = registry_results(model, shown, theirs)
    assert sum(one.prediction == "alarm" for one in result) == named.sum()


def registry_results(model, shown, labels):
    head = tfft.heads.from_model(model)
    outputs = {name: value.numpy() for name, value in shown.items()}
    return tfft.registry.task(head.task).example_results(head, outputs, labels)


def test_a_threshold_stays_where_no_other_one_is_better_or_there_is_too_little_to_choose():
    model = linear_model(tfft.heads.multilabel(["rare", "common"]), 1.0)
    numbers, labels = rare_labels(60)
    labels[:, 0] = np.arange(60) < 9
    rare, _ = tfft.choose_thresholds(model, (numbers, labels)).labels
    assert (rare.threshold, rare.note) == (0.5, "too few examples to choose")
    labels = (numbers[:, :2] > 0).astype(np.float32)
    labels[:10, 0], numbers[:10, 0] = 1, 2
    rare, common = tfft.choose_thresholds(model, (numbers, labels)).labels
    assert common.note == "no other threshold is better"
    labels = (np.random.default_rng(0).random((60, 2)) < 0.5).astype(np.float32)
    numbers[:, :2] = -np.arange(60)[:, None]
    labels[0] = 0  # the surest one is wrong
    missed = tfft.choose_thresholds(model, (numbers, labels), "precision>=0.99")
    assert all(row.note == "no threshold reaches precision>=0.99" for row in missed.labels)
    assert "no threshold reaches" in str(missed)


def test_other_models_and_goals_are_refused():
    three = linear_model(tfft.heads.classification(["a", "b", "c"]), 1.0)
    numbers, labels = rare_labels(100)
    with pytest.raises(PlanError, match="Received: classification with 3 outputs, of which the most probable"):
        tfft.choose_thresholds(three, (numbers, labels[:, 0].astype(int)))
    model = linear_model(tfft.heads.multilabel(["rare", "common"]), 1.0)
    for goal in ("f2", "precision>=1.5", "accuracy>=0.5", 0.5):
        with pytest.raises(PlanError, match="Expected a goal: 'f1', 'precision>=0.9' or 'recall>=0.9'"):
            tfft.choose_thresholds(model, (numbers, labels), goal)
    with pytest.raises(DataError, match="at least 50 examples to choose thresholds. Received: 40"):
        tfft.choose_thresholds(model, (numbers[:40], labels[:40]))
    for wrong, count in itertools.product([(0.5,), (0.0, 0.5)], [2]):
        with pytest.raises(PlanError, match=f"thresholds must be ({count} numbers|between 0 and 1)"):
            tfft.heads.from_model(model).with_thresholds(wrong)
    assert json.dumps(tfft.heads.from_model(model).to_dict())
