"""Whole runs on small random networks and coloured squares: what is learned, written, refused and repeated."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tfft.backbones.base import Backbone
from tfft.config import Phase, Plan
from tfft.errors import BlockError, DataError, ExportError, PlanError, TfftError
from tfft.evaluation import evaluate
from tfft.plans import NamedPlan, format_plan
from tfft.recipes import DatasetStats, RunConfig, finetune, load_run, plan_from_yaml, recommend, rerun
from tfft.recipes.preparing import open_for
from tfft.recipes.run_data import load_run_data
from tfft.recipes.run_training import _PhaseResults
from tfft.specs import InputSpec

slow_fixtures = process_fixtures = ("done",)

FAST = {"head_epochs": 12, "epochs": 2, "batch_size": 8, "learning_rate": (0.2, 0.01), "verbose": False}


def test_auto_takes_a_backbone_that_fits_the_data(tmp_path):
    texts = [f"text number {at}" for at in range(40)]
    (tmp_path / "reviews.csv").write_text(
        "text,label\n" + "".join(f"{t},{'ab'[at % 2]}\n" for at, t in enumerate(texts))
    )
    assert load_run_data(tmp_path / "reviews.csv", RunConfig()).default_backbone == "minilm"
    pairs = load_run_data((texts, texts[::-1]), RunConfig(task="text_to_text"))
    assert pairs.default_backbone == "transformer-small"
    images = load_run_data((np.zeros((20, 8, 8, 3), np.uint8), np.arange(20) % 2), RunConfig())
    assert images.default_backbone == "efficientnet-lite0"
    batches = tf.data.Dataset.from_tensors((np.zeros((4, 8)), np.zeros(4, int)))
    with pytest.raises(PlanError, match="No backbone is the default for datasets of batches: name one"):
        finetune("auto", (batches, batches, ["a", "b"]))
    _, _, opened = open_for("auto", RunConfig(task="text_to_text"), pairs)
    assert opened.name == "transformer-small"


def backbone(seed=3):
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((16, 16, 3))
    for k in range(3):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name=f"block{k}_conv")(x)
        x = keras.layers.BatchNormalization(name=f"block{k}_bn")(x)
        x = keras.layers.Activation("swish", name=f"block{k}_swish")(x)
    return Backbone("tiny", keras.Model(inputs, x, name="tiny"), "test", InputSpec(16, 16, source="the test"))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """One run with everything: a folder with a damaged file, a run folder, an export."""
    root = tmp_path_factory.mktemp("recipe")
    random = np.random.default_rng(0)
    for name, colour in {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 40)}.items():
        (root / "photos" / name).mkdir(parents=True)
        for i in range(12):
            pixels = np.clip(random.normal(0, 20, (18, 24, 3)) + colour, 0, 255).astype(np.uint8)
            (root / "photos" / name / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (root / "photos" / "red" / "broken.png").write_bytes(b"\x89PNG, but no more")
    model = backbone().model
    before = [v.numpy() for v in model.weights]
    tiny = Backbone("tiny", model, "test", InputSpec(16, 16))
    run = finetune(tiny, root / "photos", unfreeze=1, out=root / "run", l2=1e-4, **FAST)
    return root, run, model, before


def test_it_learns_and_only_the_last_block_moved(done):
    _, run, model, before = done
    moved = [v.path for v, old in zip(model.weights, before, strict=True) if not np.array_equal(v.numpy(), old)]
    assert moved == ["block2_conv/kernel"]
    assert run.final_scores.accuracy > 0.8
    assert run.final_scores.majority_baseline == pytest.approx(1 / 3, abs=0.1)
    assert [row["phase"] for row in run.history.rows] == ["frozen"] * 12 + ["fine-tune"] * 2
    assert run.history.audits["fine-tune"].trainable == 3


def test_the_folder_holds_the_run(done):
    root, run, _, _ = done
    names = {path.name for path in (root / "run").iterdir()}
    assert names == {
        "plan.yaml", "metrics.json", "history.csv", "labels.txt", "skipped.csv", "model.keras", "export", "check.json",
        "split.csv", "timing.json",
    }  # fmt: skip
    metrics = json.loads((root / "run" / "metrics.json").read_text())
    for name, scores in (("frozen", run.frozen_scores), ("final", run.final_scores)):
        assert metrics[name]["accuracy"] == scores.accuracy
        assert metrics[name]["interval"] == list(scores.interval)
        assert {"loss", "examples"} <= set(metrics[name])
    assert metrics["majority_baseline"] == run.final_scores.majority_baseline
    assert (root / "run" / "labels.txt").read_text() == "blue\ngreen\nred\n"
    with open(root / "run" / "history.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 14
    with open(root / "run" / "skipped.csv", newline="") as file:
        [row] = csv.DictReader(file)
    assert row["path"].endswith("broken.png")
    assert row["reason"]


def test_the_plan_holds_every_setting_and_reads_back(done):
    root, run, _, _ = done
    values = yaml.safe_load((root / "run" / "plan.yaml").read_text())
    assert set(values) == {field.name for field in dataclasses.fields(Plan)}
    assert values["l2"] == 1e-4
    assert values["phases"][1] == {
        "name": "fine-tune", "unfreeze": 1, "epochs": 2, "learning_rate": 0.01, "warmup": 0.1, "patience": None,
        "head": "train", "schedule": "cosine", "optimizer": "adam",
    }  # fmt: skip
    assert values["versions"]["keras"] == keras.__version__
    assert plan_from_yaml(root / "run" / "plan.yaml") == run.plan


def test_the_reported_score_is_that_of_the_written_model(done):
    root, run, _, _ = done
    loaded = load_run(root / "run")
    photos = np.random.default_rng(1).integers(0, 256, (4, 20, 30, 3)).astype("uint8")
    assert np.array_equal(loaded.model.predict(photos, verbose=0), run.model.predict(photos, verbose=0))
    assert loaded.plan == run.plan
    assert loaded.final_scores.to_dict() == run.final_scores.to_dict()
    assert loaded.class_names == ("blue", "green", "red")
    assert loaded.skipped == run.skipped
    assert [row["epoch"] for row in loaded.history.rows] == [*range(1, 13), 1, 2]
    trained = {v.path.split("/")[0] for v in loaded.model.trainable_weights}
    assert trained == {"block2_conv", "logits"}  # frozen as it was


def test_the_export_answers_with_names(done):
    root, run, _, _ = done
    assert run.export.path == root / "run" / "export" / "1"
    assert run.export.largest_difference < 1e-4
    served = tf.saved_model.load(run.export.path).signatures["serving_default"]
    red = np.full((1, 30, 30, 3), (210, 40, 40), np.uint8)
    assert served(images=tf.constant(red))["label"].numpy().tolist() == [b"red"]


@pytest.mark.nightly
def test_a_plan_is_repeated_to_the_bit(done):
    root, run, _, _ = done
    again = rerun(root / "run" / "plan.yaml", backbone=backbone(), verbose=False)
    assert again.plan == run.plan
    first, second = (one.model.get_weights() for one in (run, again))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    other = rerun(dataclasses.replace(run.plan, seed=1), backbone=backbone(), verbose=False)
    assert not np.array_equal(other.model.get_weights()[-2], first[-2])


@pytest.mark.nightly
@pytest.mark.parametrize("classes", [("blue", "red"), ("blue", "green")])
def test_a_test_folder_is_measured_at_the_end_and_selects_nothing(classes, tmp_path, capsys):
    random = np.random.default_rng(1)
    for part, count in (("train", 8), ("val", 4), ("test", 5)):
        for at, colour in enumerate([(30, 60, 200), (210, 40, 40)]):
            folder = tmp_path / "photos" / part / (classes if part == "test" else ("blue", "red"))[at]
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(random.normal(0, 20, (18, 24, 3)) + colour, 0, 255).astype(np.uint8)
                (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    run = finetune(backbone(), tmp_path / "photos", out=tmp_path / "run", export_to=False, **{**FAST, "verbose": True})
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["selection"] == {
        "examples": "those of final", "epochs": 14, "best_epochs": dict(run.history.best), "optimism": 0.0
    }  # fmt: skip
    if "green" in classes:
        assert run.test_scores is None
        assert "test was not measured: " in capsys.readouterr().out
        assert "best of 14 epochs, so their scores are slightly optimistic" in run.summary
        return
    assert (run.test_scores.examples, run.final_scores.examples) == (10, 8)
    assert metrics["test"]["examples"] == 10
    assert "(not used for selection)" in run.summary
    assert load_run(tmp_path / "run").test_scores.to_dict() == run.test_scores.to_dict()


@pytest.mark.nightly
def test_arrays_and_names_as_labels(capsys):
    random = np.random.default_rng(0)
    labels = np.array(["dark", "light"])[random.integers(0, 2, 60)]
    images = np.where(labels == "light", 200, 40)[:, None, None] + random.integers(-20, 20, (60, 8, 8))
    run = finetune(backbone(), (images.astype("uint8"), labels), **{**FAST, "verbose": 2, "unfreeze": "none"})
    assert run.class_names == ("dark", "light")
    assert run.folder is None
    assert run.export is None
    assert run.final_scores is run.frozen_scores  # one phase only
    assert run.final_scores.accuracy > 0.9
    text = capsys.readouterr().out
    for told in (
        "48 training examples, 12 held out",
        "plan for test",
        "frozen  1/12",
        "frozen variables unchanged",
    ):
        assert told in text
    finetune(backbone(), (images.astype("uint8"), labels), **{**FAST, "verbose": True, "unfreeze": "none"})
    lines = capsys.readouterr().out.splitlines()
    lines = [line for line in lines if not line.startswith("frozen  ")]  # epochs, on a slow machine
    assert len(lines) <= 7
    assert lines[1] == "plan lp_ft for test: head, 12 epochs at 0.2"
    assert lines[2].startswith("frozen: accuracy 0.9") or lines[2].startswith("frozen: accuracy 1.0")
    assert "frozen variables unchanged" in lines[2]


@pytest.mark.nightly
def test_ready_datasets_with_vectors(image_folder):
    inputs = keras.Input((4,), name="features")
    hidden = keras.layers.Dense(8, activation="relu", name="layer1_dense")(inputs)
    vectors = Backbone("vectors", keras.Model(inputs, hidden), "test", None)
    x = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, (x[:, 0] > 0).astype("int32"))).batch(16)
    run = finetune(vectors, (data.take(4), data.skip(4), ["low", "high"]), unfreeze="all", **FAST)
    assert run.frozen_scores.examples == 16
    assert evaluate(run.model, data.skip(4)).accuracy == run.final_scores.accuracy
    with pytest.raises(DataError, match="A backbone without one takes no images"):
        finetune(vectors, image_folder(per_class=2), **FAST)


def test_nothing_is_touched_when_out_is_not_empty(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(PlanError, match=r"is not empty \(notes.txt\)"):
        finetune("no-such-backbone", "no-such-folder", out=tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]
    with pytest.raises(PlanError, match="is a file"):
        finetune("no-such-backbone", "no-such-folder", out=tmp_path / "run" / "notes.txt")
    (tmp_path / "served" / "1").mkdir(parents=True)
    with pytest.raises(ExportError, match="exist"):
        finetune("no-such-backbone", "no-such-folder", export_to=tmp_path / "served" / "1")


def test_all_wrong_settings_are_told_at_once_before_anything_is_loaded():
    wrong = {
        "unfreeze": None, "epochs": -1, "head_epochs": 0, "batch_size": 0, "learning_rate": -1, "seed": -1,
        "image_size": "big", "validation": 1.5, "dropout": 1.0, "l2": -1, "label_smoothing": -0.1, "batch_norm": "no",
        "input_range": (1, 0),
    }  # fmt: skip
    with pytest.raises(PlanError, match="13 problems") as caught:
        finetune("no-such-backbone", "no-such-folder", **wrong)
    assert all(f"- {name}: Expected " in str(caught.value) for name in wrong)
    with pytest.raises(
        PlanError, match=r"(?s)2 problems.*'unfreez'. Did you mean 'unfreeze'.*'outt'. Did you mean 'out"
    ):
        finetune("no-such-backbone", "no-such-folder", unfreez=3, outt="run")
    with pytest.raises(PlanError, match="callbacks: Expected"):
        finetune("no-such-backbone", "no-such-folder", callbacks=[print])


def test_callbacks_come_in_each_form_that_keras_takes():
    data = (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0))
    for callbacks in (None, keras.callbacks.TerminateOnNaN(), (keras.callbacks.TerminateOnNaN(),)):
        with pytest.raises(DataError):  # the callbacks are fine
            finetune("nowhere", data, callbacks=callbacks, verbose=False)
    with pytest.raises(PlanError, match=r"make an object of the class: TerminateOnNaN\(\.\.\.\)"):
        finetune("nowhere", data, callbacks=[keras.callbacks.TerminateOnNaN], verbose=False)


@pytest.mark.parametrize("place", ["out", "export_to", "cache"])
def test_a_place_that_is_no_path_is_named(place):
    with pytest.raises(PlanError, match=f"{place}: Expected a path, True or False or None. Received: 5"):
        finetune("nowhere", "photos", **{place: 5})


def test_bad_data_stops_before_the_backbone_is_opened():
    with pytest.raises(DataError, match="no-such-folder"):
        finetune("no-such-backbone", "no-such-folder")
    with pytest.raises(DataError, match="Received: dict"):
        finetune("no-such-backbone", {})
    with pytest.raises(DataError, match="all 4 examples have the label '0'"):
        finetune("no-such-backbone", (np.zeros((4, 8, 8)), np.zeros(4, int)))
    with pytest.raises(DataError, match="too few: 1"):
        finetune("no-such-backbone", (np.zeros((3, 8, 8)), np.array([0, 0, 1])))


def test_blocks_that_do_not_exist_stop_before_training(tmp_path):
    images = (np.zeros((8, 8, 8), "uint8"), np.arange(8) % 2)
    with pytest.raises(BlockError, match="the backbone has 3"):
        finetune(backbone(), images, unfreeze=9, out=tmp_path / "run", **FAST)
    assert not (tmp_path / "run").exists()


def test_settings_beside_a_plan_are_refused(tmp_path):
    plan = recommend(DatasetStats(100, 2, 3, (16, 16)))
    with pytest.raises(PlanError, match="batch_size, seed given together with plan="):
        finetune("b", "d", plan=plan, batch_size=4, seed=5)
    with pytest.raises(PlanError, match="task: Expected a task: classification.* Received: 'detection'"):
        finetune("b", "d", plan=dataclasses.replace(plan, task="detection"))
    with pytest.raises(PlanError, match="epochs: Expected an integer of at least 1"):
        finetune("b", "d", plan=dataclasses.replace(plan, phases=(Phase("x", 1, 0, 1e-3),)))
    path = tmp_path / "plan.yaml"
    with pytest.raises(PlanError, match="does not exist"):
        plan_from_yaml(path)
    for text, message in (
        ("- a", "Expected a YAML mapping"),
        ("{", "cannot be read"),
        ("backbon: x", "Did you mean 'backbone'"),
    ):
        path.write_text(text)
        with pytest.raises(PlanError, match=message):
            plan_from_yaml(path)


def test_a_folder_that_is_no_run_says_so(tmp_path, done):
    with pytest.raises(TfftError, match="does not exist"):
        load_run(tmp_path / "nope")
    with pytest.raises(TfftError, match="has no plan.yaml, metrics.json, history.csv, model.keras"):
        load_run(tmp_path)


def test_recommendations_follow_the_data_and_say_why():
    plan = recommend(DatasetStats(1437, 10, 18, (224, 224), True, 8.0), backbone="b", data="d")
    assert plan.image_size == (64, 64)
    assert [phase.name for phase in plan.phases] == ["frozen", "fine-tune"]
    assert plan.phases[1].unfreeze == 9
    assert plan.phases[0].head == "linear_probe"
    assert "1,437 examples are too few to train more without forgetting" in plan.reasons["unfreeze"]
    few = recommend(DatasetStats(300, 10, 18, (224, 224), True, 65.0))
    assert (few.phases[1].unfreeze, few.phases[1].learning_rate) == (9, 3e-4)
    assert set(plan.reasons) == {
        "image_size", "unfreeze", "head", "l2", "epochs", "learning_rate",
    }  # fmt: skip
    assert "median side 8 px" in plan.reasons["image_size"]
    text = format_plan(plan)
    assert "64x64" in text
    assert "8 px" in text


def test_more_examples_train_more_blocks_and_fewer_epochs():
    plans = [recommend(DatasetStats(n, 5, 18, (224, 224))) for n in (100, 1_000, 10_000, 100_000)]
    assert [plan.phases[1].unfreeze for plan in plans] == [9, 9, 9, "all"]
    assert [plan.phases[1].learning_rate for plan in plans] == [3e-4] * 4
    epochs = [plan.phases[1].epochs for plan in plans]
    assert epochs == sorted(epochs, reverse=True)
    assert epochs[-1] == 2
    assert all(plan.image_size == (224, 224) for plan in plans)  # not flexible


def test_what_the_user_sets_is_kept_and_needs_no_reason():
    wishes = RunConfig(
        unfreeze="block1", epochs=4, head_epochs=2, batch_size=8, learning_rate=1e-5, seed=7, image_size=96,
        batch_norm="train", dropout=0.0,
    )  # fmt: skip
    plan = recommend(DatasetStats(1437, 10, 18, (224, 224), True, 8.0), wishes)
    assert plan.image_size == (96, 96)
    assert plan.seed == 7
    assert plan.batch_norm == "train"
    assert (plan.phases[1].unfreeze, plan.phases[1].epochs, plan.phases[1].learning_rate) == ("block1", 4, 1e-5)
    assert set(plan.reasons) == {"frozen_learning_rate", "l2"}
    assert len(recommend(DatasetStats(10, 2, 3), RunConfig(epochs=0)).phases) == 1


@pytest.mark.parametrize("task", ["object_detection", "semantic_segmentation"])
@pytest.mark.parametrize(
    "name", ["linear_probe", "lp_ft", "measured", "gradual", "full", "from_scratch", "bit", "fastai"]
)
def test_defaults_of_a_task_are_no_settings_of_the_user(task, name):
    stats = DatasetStats(100, 2, 18, (224, 224))
    plan = recommend(stats, RunConfig(task=task), plan=NamedPlan(name))
    assert plan.name == name
    reasons = " ".join(plan.reasons.get(each, "") for each in ("unfreeze", "head_epochs"))
    frozen = all(phase.unfreeze == "none" for phase in plan.phases)
    assert ("deep enough" in reasons) == (frozen and task == "semantic_segmentation")
    assert ("a new de" in reasons) == any(phase.unfreeze == "none" and phase.epochs > 1 for phase in plan.phases)
    if name == "linear_probe":
        assert [(phase.unfreeze, phase.head) for phase in plan.phases] == [("none", "train")]
        assert plan.phases[0].epochs >= 20
    if name in ("full", "from_scratch", "bit", "fastai"):
        assert plan.phases[-1].unfreeze == "all"
        assert plan.phases[-1].epochs >= 20  # the head is random
    if name == "gradual":
        assert len(plan.phases) == 4
    with pytest.raises(PlanError, match="head_epochs= does not apply to the plan 'full'"):
        recommend(stats, RunConfig(task=task, head_epochs=3), plan=NamedPlan("full"))


def test_a_head_without_weights_is_not_trained_alone():
    stats, decoder = DatasetStats(100, 2, 18), {"task": "transcription", "architecture": "encoder_decoder"}
    for settings in (decoder, {"task": "text_to_text"}):
        with pytest.raises(PlanError, match="it trains the head alone, and that of the task .* has no weights"):
            recommend(stats, RunConfig(**settings), plan=NamedPlan("linear_probe"))
        [phase] = recommend(stats, RunConfig(**settings), plan=NamedPlan("fastai")).phases
        assert phase.unfreeze == "all"
    probe = recommend(stats, RunConfig(task="transcription"), plan=NamedPlan("linear_probe"))  # that of CTC has
    assert probe.phases[0].epochs > 1


def test_random_weights_do_not_get_the_rate_of_a_pretrained_decoder():
    decoder = {"task": "transcription", "architecture": "encoder_decoder"}
    plan = recommend(DatasetStats(100, 2, 18, pretrained=False), RunConfig(**decoder))
    assert plan.name == "from_scratch"
    assert plan.phases[0].learning_rate > 5e-4
    given = recommend(DatasetStats(100, 2, 18, pretrained=False), RunConfig(**decoder, learning_rate=1e-4))
    assert given.phases[0].learning_rate == 1e-4


def ready(images=None, labels=(0, 1, 2, 1), names=("a", "b", "c"), change=lambda data: data):
    """(train, validation, class_names) with a validation dataset that is `change`d."""
    images = np.full((len(labels), 16, 16, 3), 9, np.uint8) if images is None else images
    good = tf.data.Dataset.from_tensor_slices((np.full((4, 16, 16, 3), 9, np.uint8), np.arange(4) % 3)).batch(2)
    return good, change(tf.data.Dataset.from_tensor_slices((images, np.array(labels))).batch(2)), names


@pytest.mark.daily("single examples")
@pytest.mark.parametrize(
    "data",
    [
        ready(labels=np.eye(3)),
        ready(np.full((4, 16, 16, 4), 9, np.uint8)),
        ready(np.full((4, 16, 16), 9, np.uint8)),
        ready(change=lambda data: data.unbatch()),
    ],
    ids=["one-hot", "rgba", "grey", "single examples"],
)
def test_a_validation_dataset_of_another_form_is_brought_to_that_of_the_training(data):
    run = finetune(backbone(), data, unfreeze="none", export_to=False, batch_size=2, verbose=False)
    assert run.final_scores.examples == (
        3 if len(list(data[1])) == 2 and data[1].element_spec[1].shape.rank == 2 else 4
    )


@pytest.mark.representative("data0-must be 0 to 2, one for each of 3 class names. Received: 0 to 3")
@pytest.mark.parametrize(
    ("data", "match"),
    [
        (
            ready(labels=(0, 1, 3, 1)),
            "must be 0 to 2, one for each of 3 class names. Received: 0 to 3",
        ),
        (ready(labels=(0, -1, 2, 1)), "Received: -1 to 2"),
        (ready(change=lambda data: data.take(0)), "validation dataset is empty"),
        (ready(change=lambda data: data.repeat()), "repeats without end"),
        (ready(np.full((4, 16, 16, 3), 0.5)), "validation dataset cannot be used: pixels must be in 0 to 255.*by 255"),
    ],
)
def test_ready_datasets_are_checked_before_anything_is_trained(data, match):
    kernel = (opened := backbone()).model.weights[0]
    before = kernel.numpy()
    with pytest.raises(DataError, match=match):
        finetune(opened, data, unfreeze="all", **FAST)
    assert np.array_equal(kernel.numpy(), before)


@pytest.mark.nightly
def test_a_batch_size_is_tried_and_parts_of_it_are_no_other_training():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60)
    images = np.clip(labels[:, None, None] * 160 + random.integers(0, 80, (60, 8, 8)), 0, 255).astype("uint8")
    settings = {"unfreeze": 1, "epochs": 2, "verbose": False, "dropout": 0.0, "cache": "memory"}
    run = finetune(backbone(), (images, labels), batch_size="auto", **settings)
    size = run.plan.batch_size
    assert 1 <= size <= 4  # ten steps in an epoch of 48
    assert "the fastest" in run.plan.reasons["batch_size"]
    whole = finetune(backbone(), (images, labels), batch_size=size, **settings)
    parts = finetune(backbone(), (images, labels), batch_size=size, microbatch_size=3, **settings)
    for one, other, third in zip(*(r.model.get_weights() for r in (run, whole, parts)), strict=True):
        assert np.array_equal(one, other)  # the trials left nothing behind
        np.testing.assert_allclose(other, third, rtol=1e-3, atol=1e-4)
    assert parts.plan.microbatch_size == 3


@pytest.mark.nightly
def test_augmented_runs_repeat_and_ready_datasets_are_not_augmented():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40)
    images = np.clip(labels[:, None, None] * 120 + random.integers(0, 120, (40, 20, 24)), 0, 255).astype("uint8")
    settings = {"unfreeze": 1, "epochs": 3, "batch_size": 8, "verbose": False, "augment": ["flip", "crop"]}
    run = finetune(backbone(), (images, labels), cache="memory", **settings)
    assert run.plan.views == 3
    again = rerun(run.plan, backbone=backbone(), data=(images, labels), cache=None, verbose=False)
    for one, other in zip(run.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)  # cached and not
    dataset = tf.data.Dataset.from_tensor_slices((np.repeat(images[..., None], 3, -1), labels)).batch(8)
    with pytest.raises(PlanError, match="For a tf.data.Dataset, augment in its own map"):
        finetune(backbone(), (dataset, dataset, ["a", "b"]), **settings)


@pytest.mark.nightly
def test_ready_datasets_are_cached_when_asked_and_only_if_they_repeat():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 40)
    images = np.clip(labels[:, None, None, None] * 120 + random.integers(0, 120, (40, 16, 16, 3)), 0, 255)
    dataset = tf.data.Dataset.from_tensor_slices((images.astype("uint8"), labels))
    settings = {"unfreeze": 1, "epochs": 2, "verbose": False, "dropout": 0.0}
    steady = (dataset.batch(10), dataset.batch(10), ["a", "b"])
    weights = [finetune(backbone(), steady, cache=c, **settings).model.get_weights() for c in ("auto", "memory")]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    shuffled = (dataset.shuffle(40).batch(10), dataset.batch(10), ["a", "b"])
    finetune(backbone(), shuffled, **settings)
    with pytest.raises(DataError, match="gave other examples, or another order"):
        finetune(backbone(), shuffled, cache="memory", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("kept_in", ["memory", "folder"])
def test_a_last_phase_that_lowers_the_score_is_undone(kept_in, done, tmp_path, monkeypatch, capsys):
    """The best epoch is chosen by a metric of the fit, and the score of the run may disagree with it."""
    root, *_ = done
    measured, weights = _PhaseResults._measured, []

    def pessimistic(self, part):
        weights.append([v.numpy().copy() for v in self._model.weights])
        return dataclasses.replace(measured(self, part), accuracy=0.5 - 0.1 * len(weights))

    monkeypatch.setattr(_PhaseResults, "_measured", pessimistic)
    out = tmp_path / "run" if kept_in == "folder" else None
    settings = {**FAST, "verbose": True, "unfreeze": 1, "l2": 1e-4}
    run = finetune(backbone(), root / "photos", out=out, export_to=False, **settings)
    frozen, tuned, *_ = weights  # the last is for the logits of those from before
    assert any(not np.array_equal(old, new) for old, new in zip(frozen, tuned, strict=True))
    for old, variable in zip(frozen, run.model.weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), old)
    assert run.history.best["fine-tune"] == 0
    assert (run.final_scores.value, run.frozen_scores.value) == (0.4, 0.4)
    said = capsys.readouterr().out
    assert "accuracy 0.3000, epoch" in said
    assert "accuracy 0.4000 before this phase, so the weights from then were kept" in said
