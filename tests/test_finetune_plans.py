"""Plans by name through the whole recipe: frozen blocks to the bit, settings that reach the training, wrong input."""

import dataclasses

import keras
import numpy as np
import pytest
import savedmodels
import tensorflow as tf
from test_recipes import backbone

import tfft
from tfft import heads, plans
from tfft.errors import PlanError
from tfft.recipes import finetune, plan_from_yaml


def squares(counts=(24, 24), seed=0):
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.where(labels == 1, 150, 100)[:, None, None, None] + random.integers(-60, 60, (len(labels), 16, 16, 3))
    return images.astype("uint8"), labels


QUICK = {"verbose": False, "cache": "memory", "batch_size": 8}
EXTRA = {"gradual": {"stages": 1}, "bit": {"steps": 6}, "surgical": {"blocks": 1}}


@pytest.mark.daily("linear_probe")
@pytest.mark.parametrize("name", plans.PLAN_NAMES)
def test_every_plan_trains_what_it_says_and_nothing_else(name, tmp_path):
    opened = backbone()
    config = {} if name in ("linear_probe", "few_shot", "bit") else {"epochs": 2}
    plan = plans.named(name, **EXTRA.get(name, {}))
    run = finetune(opened, squares(), plan=plan, out=tmp_path / "run", export_to=False, **QUICK, **config)
    assert run.plan.name == ("lp_ft" if name == "measured" else name)  # the trial finds that blocks are worth it
    for phase in run.plan.phases:
        report = run.history.audits[phase.name]
        assert not report.frozen_moved
        assert report.trainable > len(report.trainable_unchanged) or phase.solves_head
    assert plan_from_yaml(tmp_path / "run" / "plan.yaml") == run.plan
    if len(run.plan.phases) == 1 and run.plan.phases[0].unfreeze == "none":
        assert all(row["phase"] == "frozen" for row in run.history.rows)
    loaded = keras.saving.load_model(tmp_path / "run" / "model.keras")  # with its optimizer
    images = squares()[0][:4]
    np.testing.assert_allclose(loaded.predict(images, verbose=0), run.model.predict(images, verbose=0), atol=1e-5)


@pytest.mark.slow
def test_a_backbone_with_random_weights_trains_as_a_whole_with_its_statistics():
    opened = dataclasses.replace(backbone(), pretrained=False)
    run = finetune(opened, squares(), epochs=1, **QUICK)
    assert (run.plan.name, run.plan.batch_norm) == ("from_scratch", "train")
    report = run.history.audits["train"]
    assert report.trainable == len(run.model.trainable_variables)
    assert not report.trainable_unchanged


@pytest.mark.nightly
def test_a_plan_can_be_named_and_its_phases_set():
    run = finetune(backbone(), squares(), plan="lp_ft", epochs=1, **QUICK)
    assert [phase.name for phase in run.plan.phases] == ["frozen", "fine-tune"]
    run = finetune(backbone(), squares(), plan=plans.lp_ft(optimizer="sgd", ema_decay=0.5), epochs=1, **QUICK)
    assert run.plan.phases[1].optimizer == "sgd"
    with pytest.raises(PlanError, match="Did you mean 'gradual'"):
        finetune(backbone(), squares(), plan="graduall")


@pytest.mark.slow
def test_recommended_plans_are_those_that_are_used():
    plan = tfft.recommend_plan(squares((30, 4)), backbone(), batch_size=8)
    assert plan.name == "few_shot"
    assert "3 examples in the smallest class" in plan.reasons["plan"]  # the fourth is held out
    run = finetune(backbone(), squares((30, 4)), verbose=False, batch_size=8, cache="memory")
    assert run.plan.phases == plan.phases


@pytest.mark.nightly
def test_class_weights_reach_the_solved_head_and_the_training():
    data = squares((60, 12))
    recalls = []
    for weight in (None, "balanced", {"1": 50.0}):
        run = finetune(backbone(), data, plan="linear_probe", class_weight=weight, l2=0.5, **QUICK)
        recalls.append(run.model.predict(data[0], verbose=0))
    rare = [float(np.mean(tf.nn.softmax(logits)[:, 1])) for logits in recalls]
    assert rare[0] < rare[1] < rare[2]
    with pytest.raises(PlanError, match="'2'|2"):
        finetune(backbone(), data, class_weight={"2": 1.0}, **QUICK)


@pytest.mark.nightly
def test_balanced_sampling_and_focal_loss_are_used_and_written(tmp_path):
    settings = {"sampling": "balanced", "loss": "focal", "head_epochs": 2, "epochs": 1}
    run = finetune(backbone(), squares((40, 10)), out=tmp_path / "run", export_to=False, **settings, **QUICK)
    assert heads.from_model(run.model).loss_name == "focal"
    plan = plan_from_yaml(tmp_path / "run" / "plan.yaml")
    assert (plan.sampling, plan.loss) == ("balanced", "focal")
    plain = finetune(backbone(), squares((40, 10)), **{**settings, "sampling": None}, **QUICK)
    assert plain.history.rows[0]["loss"] != run.history.rows[0]["loss"]
    ready = tf.data.Dataset.from_tensor_slices(squares()).batch(8)
    with pytest.raises(PlanError, match="A tf.data.Dataset has its own order"):
        finetune(backbone(), (ready, ready, ["a", "b"]), sampling="balanced", verbose=False)


@pytest.mark.nightly
def test_classes_that_nothing_is_measured_on_are_named(capsys):
    images, labels = squares((10, 10))
    train = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    held_out = tf.data.Dataset.from_tensor_slices((images[:5], labels[:5])).batch(8)
    finetune(backbone(), (train, held_out, ["dark", "light"]), plan="linear_probe")
    assert "no held-out example of light: the scores do not cover it" in capsys.readouterr().out


class Stop(keras.callbacks.Callback):
    """Ends the program's training in an epoch of the second phase, once."""

    def __init__(self, stops):
        super().__init__()
        self.stops, self.epochs = stops, 0

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and self.stops:
            raise KeyboardInterrupt


@pytest.mark.nightly
def test_the_same_call_goes_on_in_the_phase_where_it_was_stopped(tmp_path, capsys):
    settings = {"epochs": 3, "export_to": False, "cache": "memory", "batch_size": 8, "seed": 3}
    whole = finetune(backbone(), squares(), out=tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        finetune(backbone(), squares(), out=tmp_path / "run", callbacks=[Stop(True)], **settings)
    assert not (tmp_path / "run" / "metrics.json").exists()
    capsys.readouterr()
    with pytest.raises(PlanError, match="seed was 3 and is 4"):
        finetune(backbone(), squares(), out=tmp_path / "run", callbacks=[Stop(False)], **{**settings, "seed": 4})
    run = finetune(backbone(), squares(), out=tmp_path / "run", callbacks=[Stop(False)], **settings)
    assert "completed phases: frozen" in capsys.readouterr().out
    assert run.frozen_scores.to_dict() == whole.frozen_scores.to_dict()
    assert run.final_scores.to_dict() == whole.final_scores.to_dict()
    for ours, theirs in zip(run.model.weights, whole.model.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(PlanError, match="is not empty"):  # it is finished now
        finetune(backbone(), squares(), out=tmp_path / "run", **settings)


@pytest.mark.nightly
def test_the_cost_is_told_beforehand_and_follows_what_trains(capsys):
    from tfft.config import Phase
    from tfft.plans import DatasetStats, recommend
    from tfft.recipes.costing import cost

    opened = backbone()
    model = tfft.build(opened, heads.classification(["a", "b"]))
    plan = recommend(DatasetStats(100, 2, 3))
    rows = [row.flops for row in tfft.describe(model).rows if row.part == "backbone"]
    assert sum(rows) > 0
    import dataclasses

    last, every = Phase("last", 1, 4, 1e-3), Phase("all", "all", 4, 1e-3)
    plan = dataclasses.replace(plan, phases=(last, every))
    text = cost(model, plan, 100, cached=True)
    work = sum(rows[:-1]) * 100 + 3 * rows[-1] * 100 * 4
    shares = f"{work / (3 * sum(rows) * 100 * 4):.0%} of the cost of training everything for 4 epochs"
    assert shares in text.splitlines()[0]
    assert "cost of all" in text
    assert "100% of the cost of training everything for 4 epochs" in text
    finetune(backbone(), squares(), epochs=1, batch_size=8, cache="memory", verbose=2)
    assert "cost of fine-tune: " in capsys.readouterr().out


@pytest.mark.nightly
def test_blocks_of_a_savedmodel_that_start_anew_take_statistics_of_their_own(tmp_path):
    savedmodels.plain_convnet(tmp_path / "net")
    images = np.repeat(np.repeat(squares()[0], 2, axis=1), 2, axis=2)
    run = finetune(tmp_path / "net", (images, squares()[1]), plan=plans.lp_ft(reinitialize=1), epochs=1, **QUICK)
    assert run.plan.batch_norm == "train"
    assert np.isfinite(run.final_scores.loss)
    report = run.history.audits["fine-tune"]
    assert not report.frozen_moved
    again = tfft.recommend_plan((images, squares()[1]), tmp_path / "net", plan=plans.lp_ft(reinitialize=1))
    assert again.batch_norm == "train"


@pytest.mark.slow
@pytest.mark.parametrize("flaw", ["none", "training", "held-out"])
def test_nothing_is_fine_tuned_where_a_linear_head_makes_no_mistake(flaw):
    images, labels = squares((30, 30))
    learned, held_out = tuple(range(0, 60, 2)), tuple(range(1, 60, 2))
    parts = [(images[list(rows)], labels[list(rows)]) for rows in (learned, held_out)]
    if flaw != "none":
        parts[flaw == "held-out"][1][0] = 1
    plan = tfft.recommend_plan(tuple(parts), backbone(), cache="memory")
    assert plan.name == ("linear_probe" if flaw == "none" else "lp_ft")


@pytest.mark.nightly
def test_how_well_a_linear_head_does_decides_how_many_blocks_train():
    images, labels = squares((60, 60))
    noise = np.random.default_rng(0).permutation(labels)
    wrong = np.where(np.arange(120) % 40 == 0, 1 - labels, labels)
    known = tfft.recommend_plan((images, wrong), backbone(), cache="memory")
    unknown = tfft.recommend_plan((images, noise), backbone(), cache="memory")
    assert "too few to train more" in known.reasons["unfreeze"]
    assert "a linear head on the pretrained features closes only" in unknown.reasons["unfreeze"]
    assert unknown.phases[1].unfreeze == "all"
    blind = tfft.recommend_plan((images, noise), backbone(), cache=None)  # nothing is kept, so nothing is computed
    assert "too few to train more" in blind.reasons["unfreeze"]
