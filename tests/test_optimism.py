"""Optimism of the choice of an epoch: the bootstrap against a simulation, and the scores of examples in a training."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from test_finetune_plans import QUICK, Stop, squares
from test_recipes import backbone

import tfft
from tfft import heads
from tfft.config import Phase
from tfft.evaluation import selection_optimism
from tfft.recipes import finetune
from tfft.training import train


def plain_optimism(scores, draws, seed):
    """The same with loops over lists of positions."""
    random, gaps = np.random.default_rng(seed), []
    count = scores.shape[1]
    for counts in random.multinomial(count, np.full(count, 1 / count), size=draws):
        inside = [i for i, n in enumerate(counts) for _ in range(n)]
        outside = [i for i, n in enumerate(counts) if not n]
        means = [float(np.mean([epoch[i] for i in inside])) for epoch in scores]
        rounded = [round(mean, 12) for mean in means]
        best = rounded.index(max(rounded))
        gaps.append(means[best] - float(np.mean([scores[best][i] for i in outside])))
    return max(0.0, float(np.mean(gaps)))


def test_the_bootstrap_equals_one_with_loops():
    scores = np.random.default_rng(0).random((4, 30)) < 0.8
    assert selection_optimism(scores, draws=40, seed=3) == pytest.approx(plain_optimism(scores, 40, 3), abs=1e-12)
    assert selection_optimism(scores[:1]) == 0
    assert selection_optimism(np.repeat(scores[:1], 5, axis=0)) == pytest.approx(0, abs=0.02)


def test_it_is_about_as_large_as_what_new_examples_show():
    """Ten epochs that are equally good: the best one is as good as the others on new examples, not as on these."""
    random, true, found = np.random.default_rng(1), [], []
    for seed in range(40):
        scores = random.random((10, 200)) < 0.9
        true.append(scores.mean(axis=1).max() - 0.9)
        found.append(selection_optimism(scores, draws=60, seed=seed))
    assert np.mean(true) < np.mean(found) < 1.6 * np.mean(true)


@pytest.mark.parametrize("soft", [False, True])
def test_the_mean_over_examples_is_the_score_that_selects(soft):
    random = np.random.default_rng(0)
    logits, one = random.normal(size=(40, 3)).astype("float32"), random.integers(0, 3, 40)
    head = heads.classification(["a", "b", "c"])
    labels = np.eye(3, dtype="float32")[one] if soft else one
    [metric] = head.metrics(soft=soft)
    metric.update_state(labels, logits)
    assert head.example_scores(labels, logits).mean() == pytest.approx(float(metric.result()), abs=1e-6)


def test_other_heads_have_scores_that_equal_their_metric_too():
    random = np.random.default_rng(0)
    for head, width, sign in (
        (heads.binary(["a", "b"]), 1, 1), (heads.multilabel(["a", "b"]), 2, 1), (heads.regression(2), 2, -1),
    ):  # fmt: skip
        logits = random.normal(size=(40, width)).astype("float32")
        labels = random.normal(size=logits.shape) if sign < 0 else random.integers(0, 2, logits.shape)
        labels = labels.astype("float32")
        [metric] = head.metrics()
        metric.update_state(labels, logits)
        assert sign * head.example_scores(labels, logits).mean() == pytest.approx(float(metric.result()), abs=1e-6)


@pytest.mark.nightly
def test_a_training_keeps_them_for_every_epoch_and_only_where_asked():
    model = tfft.build(backbone(), heads.classification(["a", "b"]))
    images, labels = squares()
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    probe = Phase("frozen", "none", 0, 0.0, head="linear_probe")
    history = train(model, data, data.take(3), [probe, Phase("last", 1, 2, 1e-3)], example_scores=True, verbose=False)
    assert {name: each.shape for name, each in history.example_scores.items()} == {"frozen": (1, 24), "last": (2, 24)}
    means = np.concatenate(list(history.example_scores.values())).mean(axis=1)
    np.testing.assert_allclose(means, [row["val_accuracy"] for row in history.rows], atol=1e-6)
    assert not train(model, data, data.take(3), [Phase("more", 1, 1, 1e-3)], verbose=False).example_scores


@pytest.mark.nightly
def test_the_optimism_is_written_and_the_same_for_a_run_that_was_stopped(tmp_path):
    settings = {"epochs": 3, "export_to": False, "seed": 3, "l2": 0.1, **QUICK}
    whole = finetune(backbone(), squares((60, 60)), out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        finetune(backbone(), squares((60, 60)), out=tmp_path / "run", callbacks=[Stop(True)], **settings)
    run = finetune(backbone(), squares((60, 60)), out=tmp_path / "run", callbacks=[Stop(False)], **settings)
    for phase, scores in whole.history.example_scores.items():
        np.testing.assert_array_equal(run.history.example_scores[phase], scores)
    stored = json.loads((tmp_path / "run" / "metrics.json").read_text())["selection"]
    assert stored["optimism"] == run.optimism == whole.optimism == tfft.load_run(tmp_path / "run").optimism
    high = dataclasses.replace(run, stored_optimism=0.0123)
    assert "slightly optimistic, by up to about 0.0123; " in high.summary


@pytest.mark.nightly
def test_the_change_by_fine_tuning_is_that_of_the_same_examples(tmp_path):
    random = np.random.default_rng(0)
    images, labels = squares((60, 60))
    labels = np.where(random.random(len(labels)) < 0.2, 1 - labels, labels)  # not all examples can be right
    settings = {"epochs": 2, "unfreeze": "all", "export_to": False, "seed": 3, **QUICK}
    run = finetune(backbone(), (images, labels), out=tmp_path / "run", **settings)
    assert run.change.mean == pytest.approx(run.final_scores.value - run.frozen_scores.value, abs=1e-6)
    assert tfft.load_run(tmp_path / "run").change == run.change

    before, after = np.arange(24) < 12, (np.arange(24) >= 4) & (np.arange(24) < 22)
    scores = {"frozen": before[None] * 1.0, "fine-tune": np.stack([before, after, before]) * 1.0}
    better = dataclasses.replace(run.final_scores, accuracy=18 / 24)
    changed = dataclasses.replace(
        run, frozen_scores=dataclasses.replace(run.final_scores, accuracy=0.5), final_scores=better,
        history=dataclasses.replace(run.history, best={"frozen": 1, "fine-tune": 2}, example_scores=scores),
    )  # fmt: skip
    assert changed.change == tfft.evaluation.paired_difference(after, before)
    assert changed.change.mean == 0.25
    assert "by +0.2500 (95 % interval on the same examples -0.0" in changed.summary
    assert "this may be chance" in changed.summary
    averaged = dataclasses.replace(changed, final_scores=dataclasses.replace(better, accuracy=19 / 24))
    assert averaged.change is None  # of weights that no epoch left
    assert "the two 95 % intervals overlap" in averaged.summary
