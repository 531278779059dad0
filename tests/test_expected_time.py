"""Expected time before training, the budget in minutes, and the plan that is chosen by a trial."""

import dataclasses
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from test_finetune_plans import Stop, squares
from test_recipes import backbone

import tfft
from tfft import heads
from tfft.config import Phase, Plan, RunConfig
from tfft.errors import PlanError
from tfft.freezing import unfreeze
from tfft.plans import named
from tfft.recipes import budget, choosing, expectation, finetune, trial
from tfft.recipes.run_data import load_run_data
from tfft.registry import ScoreDisplay
from tfft.training.step_time import step_time

QUICK = {"verbose": False, "cache": "memory", "batch_size": 8}


def slow_machine(monkeypatch):
    """Runs of these tests count as long ones, which are measured."""
    monkeypatch.setattr(expectation, "_QUICK", 0.0)


@pytest.mark.slow
def test_trial_steps_leave_every_variable_as_it_was():
    model = tfft.build(backbone(), heads.classification(["a", "b"], dropout=0.5))
    unfreeze(model, "all", batch_norm="train")
    before = [np.array(v) for v in model.variables]
    images, labels = squares((6, 6))
    found = step_time(
        model, (tf.constant(images), tf.constant(labels)), heads.from_model(model).loss(), keras.optimizers.Adam(), 32
    )
    assert found.step > 0
    assert found.start > 0
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)


def test_inputs_of_different_padding_are_timed_together():
    """Words become numbers inside the model, as many as the longest text has; their durations come padded."""
    text, durations = keras.Input((), dtype="string", name="text"), keras.Input((None,), name="durations")
    numbers = keras.layers.TextVectorization(vocabulary=["a", "b"], output_mode="int")(text)
    each = keras.layers.Embedding(5, 4)(numbers) * durations[..., None]
    outputs = keras.layers.Dense(1)(keras.layers.GlobalAveragePooling1D()(each))
    model = keras.Model({"text": text, "durations": durations}, outputs)
    texts = tf.constant(["a b"] * 11 + ["a b a b a"])
    batch = {"text": texts, "durations": tf.ones((12, 5))}, tf.zeros((12, 1))
    found = step_time(model, batch, keras.losses.MeanSquaredError(), keras.optimizers.Adam(), 24)
    assert found.step > 0


@pytest.mark.nightly
@pytest.mark.parametrize("plan", ["lp_ft", "full"])
def test_a_run_that_is_measured_first_ends_in_the_same_weights(plan, monkeypatch, capsys):
    settings = {"plan": plan, "epochs": 2, "seed": 5, "dropout": 0.5, "batch_norm": "train", **QUICK}
    plain = finetune(backbone(), squares(), **settings)
    slow_machine(monkeypatch)
    timed = finetune(backbone(), squares(), **settings | {"verbose": True})
    printed = capsys.readouterr().out
    assert "seconds (" in printed
    assert not plain.expected_seconds
    assert set(timed.expected_seconds) == set(timed.seconds) == {phase.name for phase in timed.plan.phases}
    for ours, theirs in zip(plain.model.weights, timed.model.weights, strict=True):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


@pytest.mark.nightly
def test_expected_and_measured_seconds_are_kept_and_travel_with_checkpoints(tmp_path, monkeypatch):
    slow_machine(monkeypatch)
    settings = {"epochs": 3, "export_to": False, **QUICK}
    with pytest.raises(KeyboardInterrupt):
        finetune(backbone(), squares(), out=tmp_path / "run", callbacks=[Stop(True)], **settings)
    monkeypatch.setattr(expectation.Stopwatch, "expect", lambda *_: pytest.fail("a run that resumes measured again"))
    run = finetune(backbone(), squares(), out=tmp_path / "run", callbacks=[Stop(False)], **settings)
    stored = json.loads((tmp_path / "run" / "timing.json").read_text())
    assert set(stored["expected_seconds"]) == set(stored["seconds"]) == {"frozen", "fine-tune"}
    assert stored["seconds"] == dict(run.seconds)
    assert tfft.load_run(tmp_path / "run").expected_seconds == stored["expected_seconds"]


class Machine:
    """Stopwatch of a machine on which an epoch of n blocks takes n seconds, and all else nothing."""

    blocks, caches, frozen = 12, True, 0.0

    def count(self, phase):
        return {"all": 12, "none": 0}.get(phase.unfreeze, phase.unfreeze)

    def is_quick(self, plan):
        return False

    def epoch(self, phase):
        return float(self.count(phase))

    def trained_share(self, phase):
        return self.count(phase) / 12

    def phase(self, phase):
        return expectation.PhaseTime(0.0, phase.epochs * self.epoch(phase), 0.0)

    def expect(self, plan):
        return expectation.ExpectedTime({p.name: self.phase(p) for p in plan.phases}, {}, None)


PROBE = Phase("frozen", "none", 0, 0.0, head="linear_probe")


@pytest.mark.parametrize(
    ("seconds", "blocks", "epochs"),
    [(200, "all", 10), (120, "all", 10), (84, "all", 7), (60, "all", 5), (50, 6, 8), (24, 4, 6), (10, 2, 5), (2, 2, 1)],
)
def test_first_epochs_are_cut_then_blocks_then_epochs_again(seconds, blocks, epochs):
    plan = Plan(backbone="b", data="d", name="lp_ft", phases=(PROBE, Phase("fine-tune", "all", 10, 1e-3)))
    cut = budget.within(plan, float(seconds), seconds / 60, Machine())
    assert (cut.phases[1].unfreeze, cut.phases[1].epochs) == (blocks, epochs)
    assert Machine().expect(cut).seconds <= seconds
    assert ("instead of 10 epochs of all blocks" in cut.reasons["minutes"]) == (seconds < 120)


def test_what_cannot_be_cut_further_says_how_long_it_takes():
    plan = Plan(backbone="b", data="d", name="full", phases=(Phase("fine-tune", "all", 10, 1e-3),))
    cut = budget.within(plan, 1.0, 1 / 60, Machine())
    assert (cut.phases[0].unfreeze, cut.phases[0].epochs) == (2, 1)
    assert "so the run takes longer than that" in cut.reasons["minutes"]
    probed = dataclasses.replace(plan, phases=(PROBE, *plan.phases))
    cut = budget.within(probed, 1.0, 1 / 60, Machine())
    assert (cut.name, cut.phases) == ("linear_probe", (PROBE,))


def test_the_end_of_a_run_says_what_it_took_and_that_it_took_too_long():
    assert expectation.took({"a": 90.0}, {"a": 60.0}, None) == "training took 1.5 minutes, expected 1.0"
    assert expectation.took({"a": 90.0}, {}, 1.0) == ""
    assert "minutes=1 was exceeded" in expectation.took({"a": 91.0}, {}, 1.0)


def test_the_line_names_the_parts_and_the_cheaper_plan():
    parts = {"frozen": expectation.PhaseTime(0.0, 6.0, 6.0), "fine-tune": expectation.PhaseTime(60.0, 300.0, 0.0)}
    labels = {"frozen": "head", "fine-tune": "last 6 blocks"}
    line = str(expectation.ExpectedTime(parts, labels, 12.0))
    assert line == (
        "about 6.2 minutes (features 1, head 0.1, last 6 blocks 5, scores 0.1); plan='linear_probe' takes about 0.2"
    )


def test_minutes_have_to_be_a_number_above_zero():
    with pytest.raises(PlanError, match="minutes: Expected a number above 0"):
        RunConfig(minutes=0).check()


def test_the_inner_split_takes_training_examples_only_and_keeps_groups_together():
    data = load_run_data(squares((60, 60)), RunConfig())
    speakers = tuple(f"speaker {i // 8}" for i in range(len(data.splits.train) + len(data.splits.validation)))
    splits = dataclasses.replace(data.splits, groups=speakers)
    inner = trial.inner_split(splits, 0)
    known = {image.tobytes() for image in splits.train.images}
    parts = [[image.tobytes() for image in part.images] for part in (inner.train, inner.validation)]
    assert set(parts[0]) | set(parts[1]) <= known
    assert not set(parts[0]) & set(parts[1])
    of = {image.tobytes(): name for image, name in zip(splits.train.images, speakers, strict=False)}
    assert not {of[image] for image in parts[0]} & {of[image] for image in parts[1]}
    assert trial.inner_split(load_run_data(squares((20, 20)), RunConfig()).splits, 0) is None  # too few


def scored(value):
    return types.SimpleNamespace(
        value=value,
        interval=(value - 0.04, value + 0.04),
        lower_is_better=False,
        display=ScoreDisplay("accuracy"),
    )


def test_a_dearer_candidate_has_to_be_better_by_more_than_chance():
    plan = Plan(backbone="b", data="d", phases=(PROBE,))
    inner = types.SimpleNamespace(train=[0] * 90, validation=[0] * 30)

    def chosen(*values):
        names = ("head", "last 2 blocks", "all blocks")
        found = [
            trial.Candidate(dataclasses.replace(plan, name=name), name, tuple(scored(v) for v in each))
            for name, each in zip(names, values, strict=True)
        ]
        return trial._chosen(found, found, inner, 3.0)

    assert chosen([0.9], [0.905], [0.906]).name == "head"
    assert chosen([0.9], [0.85, 0.95], [0.951]).name == "last 2 blocks"
    assert chosen([0.9], [0.95], [0.99]).name == "all blocks"
    assert "head 0.900; last 2 blocks 0.850, then 0.950" in chosen([0.9], [0.85, 0.95], [0.951]).reasons["trial"]


@pytest.mark.nightly
def test_the_measured_plan_is_chosen_once_and_stored(tmp_path, monkeypatch):
    slow_machine(monkeypatch)
    opened = backbone()
    before = [np.array(v) for v in opened.model.weights]
    settings = {"plan": "measured", "minutes": 5, "epochs": 3, "export_to": False, **QUICK}
    plan = tfft.recommend_plan(
        squares((60, 60)), opened, plan="measured", minutes=5, epochs=3, cache="memory", batch_size=8
    )
    for variable, value in zip(opened.model.weights, before, strict=True):
        np.testing.assert_array_equal(np.array(variable), value)
    assert plan.name in ("linear_probe", "lp_ft")
    assert "by a trial of" in plan.reasons["trial"]
    assert "others of them: head " in plan.reasons["trial"]
    forced = dataclasses.replace(plan, name="lp_ft", phases=(PROBE, Phase("fine-tune", 1, 3, 1e-3)))
    monkeypatch.setattr(choosing, "try_plans", lambda *_: forced)
    with pytest.raises(KeyboardInterrupt):
        finetune(backbone(), squares((60, 60)), out=tmp_path / "run", callbacks=[Stop(True)], **settings)
    monkeypatch.setattr(choosing, "try_plans", lambda *_: pytest.fail("a run that resumes chose again"))
    with pytest.raises(PlanError, match="minutes was 5 and is 6"):
        finetune(backbone(), squares((60, 60)), out=tmp_path / "run", **settings | {"minutes": 6})
    run = finetune(backbone(), squares((60, 60)), out=tmp_path / "run", callbacks=[Stop(False)], **settings)
    assert run.plan.phases == forced.phases


@pytest.mark.slow
def test_small_runs_get_the_rule_without_a_trial():
    plan = tfft.recommend_plan(squares(), backbone(), plan="measured", cache="memory", batch_size=8)
    assert plan.phases == tfft.recommend_plan(squares(), backbone(), plan="lp_ft", cache="memory", batch_size=8).phases
    assert plan.reasons["trial"] == "no trial: training takes less time than it"
    with pytest.raises(PlanError, match="unfreeze= does not apply to the plan 'measured'"):
        named("measured").check(RunConfig(unfreeze=2))
