"""What holds for runs of every task, for object detection and segmentation: resume, folds, seeds, replicas."""

import json
import pathlib
import subprocess
import sys
import types

import detection_models
import keras
import numpy as np
import pytest
import tensorflow as tf
from test_dense_recipes import boxes, masks

import tfft
from tfft.cli import main
from tfft.data import BatchOptions
from tfft.modalities.image import headers
from tfft.modalities.image.batches import view_labels
from tfft.specs import Augmentation, InputSpec
from tfft.training.example_scores import ExampleScores

TASKS = pytest.mark.parametrize(("task", "write"), [("object_detection", boxes), ("semantic_segmentation", masks)])
SHORT = {"head_epochs": 1, "epochs": 1, "views": 2, "batch_size": 4, "verbose": False}
PICTURES = 10  # 8 of them train, in two steps


class Power(Exception):
    """The power fails."""


class Fail(keras.callbacks.Callback):
    """Fails at a step; a resumed run gets a new one."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def on_train_batch_end(self, *_, **__):
        self.left -= 1
        if not self.left:
            raise Power

    def get_state(self):
        return None

    def set_state(self, state):
        pass


def backbone():
    keras.utils.set_random_seed(0)
    return detection_models.untrained()


# Blocks that train and the step of the stop: within the only phase, and in the phase of the last block. Tracing takes
# most of the time of these tests, so each task has one of them.
STOPS = {"object_detection": ("none", 1), "semantic_segmentation": (1, 3)}


@pytest.mark.nightly
@TASKS
def test_a_stopped_run_ends_with_the_same_weights(task, write, tmp_path, capsys):
    data = write(tmp_path / "data", PICTURES)
    blocks, step = STOPS[task]

    def run(name, **more):
        settings = {**SHORT, "unfreeze": blocks, "deterministic": True, "export_to": False}
        return tfft.finetune(backbone(), data, task, out=tmp_path / name, cache=tmp_path / "kept", **settings, **more)

    whole = run("whole")
    with pytest.raises(Power):
        run("stopped", callbacks=[Fail(step)])
    again = run("stopped")
    for one, other in zip(whole.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "stopped"), str(data), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["metric"] == again.final_scores.metric
    assert shown["measures"] == pytest.approx(again.final_scores.to_dict()["measures"], abs=1e-6)


@pytest.mark.nightly
@TASKS
def test_folds(task, write, tmp_path):
    data = write(tmp_path / "data", PICTURES)
    folds = tfft.cross_validate(backbone(), data, task, folds=2, **SHORT, unfreeze="none", cache=tmp_path / "kept")
    assert sum(row.final_scores.examples for row in folds.rows) == PICTURES
    assert "standard deviation" in str(folds)


@pytest.mark.nightly
def test_seeds(tmp_path):
    data = masks(tmp_path / "data", PICTURES)
    settings = {**SHORT, "unfreeze": "none", "cache": tmp_path / "kept"}
    seeds = tfft.finetune_seeds(backbone(), data, "semantic_segmentation", seeds=(3, 4), **settings)
    assert [row.seed for row in seeds.rows] == [3, 4]
    assert "standard deviation" in str(seeds)


@pytest.mark.slow
def test_headers_are_traced_once(tmp_path):
    data = boxes(tmp_path / "data", 4)
    examples = tfft.data.load(data, task="object_detection", validation=0.5).train
    spec = InputSpec(32, 32, resize="stretch")
    for seed in (0, 1):
        view_labels(
            examples.paths, examples.labels, spec, Augmentation(flip=True), 2, BatchOptions(seed=seed), examples.follow
        )
    assert headers._traced_size.experimental_get_tracing_count() == 1


def test_a_head_without_scores_of_examples_runs_nothing_for_them():
    model = detection_models.detector(width=8)
    part = types.SimpleNamespace(model=None, validation=tf.data.Dataset.from_tensors((np.zeros(2), np.zeros(2))))
    assert ExampleScores(part, model)() is None  # without a model to run


@pytest.mark.daily("semantic_segmentation-masks")
@TASKS
def test_a_plan_is_recommended_without_training(task, write, tmp_path):
    data = write(tmp_path / "data")
    plan = tfft.recommend_plan(data, backbone(), task=task, cache=tmp_path / "kept")
    assert plan.task == task
    assert plan.phases[0].unfreeze == "none"
    assert plan.batch_size == 8
    assert not (tmp_path / "kept").exists()  # there is no linear probe for pixels or boxes


@pytest.mark.slow
@TASKS
def test_a_data_check_by_command(task, write, tmp_path, capsys):
    assert main(["check", str(write(tmp_path / "data")), "--task", task, "--json"]) == 0
    assert not [one for one in json.loads(capsys.readouterr().out)["findings"] if one["level"] == "error"]


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.parametrize("task", ["object_detection", "semantic_segmentation"])
def test_two_replicas_have_the_loss_of_one(task):
    script = pathlib.Path(__file__).with_name("dense_replicas.py")
    done = subprocess.run([sys.executable, script, task], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["alike"]
    # BatchNorm has the statistics of the part that a replica has, so the numbers are close and not equal.
    np.testing.assert_allclose(found["two"], found["one"], rtol=0.05)


@pytest.mark.nightly
@TASKS
def test_microbatches_train(task, write):
    images, labels = detection_models.pictures(8, seed=1)
    if task == "semantic_segmentation":
        labels = (images[..., 0] > 120).astype(np.int32)
    losses = []
    for size in (None, 4):
        keras.utils.set_random_seed(0)
        head = getattr(tfft.heads, task)(("square", "ring"), width=8, dropout=0.0)
        model = tfft.build(detection_models.untrained(), head)
        tfft.unfreeze(model, "all")
        parts = model if size is None else tfft.training.microbatched(model, size, batch_norm="parts")
        parts.compile(keras.optimizers.SGD(1e-3), **head.compile_args())
        losses.append(
            parts.fit(tf.data.Dataset.from_tensors((images, labels)), verbose=0, shuffle=False).history["loss"][0]
        )
    whole, in_parts = losses
    # BatchNorm and the divisor of a detector's loss are those of a part, so the numbers are close and not equal.
    assert in_parts == pytest.approx(whole, rel=0.1)


@pytest.mark.nightly
@pytest.mark.parametrize("task", ["object_detection", "semantic_segmentation"])
def test_ready_datasets_train(task):
    images, labels = detection_models.pictures(12, seed=1)
    if task == "semantic_segmentation":
        labels = (images[..., 0] > 120).astype(np.int32)
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(4)
    settings = {**SHORT, "unfreeze": "none", "export_to": False, "cache": None}
    run = tfft.finetune(backbone(), (data, data, ["square", "ring"]), task, **settings)
    assert run.final_scores.examples == 12
    assert [row.name for row in run.final_scores.per_class] == ["square", "ring"]
