"""Experiment trackers: what they get, what they may not stop, and which are refused before anything is read."""

import importlib.util

import keras
import numpy as np
import pytest
import tensorflow as tf
import weight_models

import tfft
from tfft.errors import DependencyError, PlanError
from tfft.training import tracking


def coloured(count=48):
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, count)
    images = np.eye(3)[labels][:, None, None, :] * 150 + generator.integers(0, 60, (count, 32, 32, 3))
    return images.astype(np.uint8), labels


def trained(**settings):
    keras.utils.set_random_seed(0)
    return tfft.finetune(
        weight_models.three_blocks(), coloured(), plan="lp_ft", epochs=2, export_to=False, verbose=False, **settings
    )


def events(folder):
    """Return the values of each name by step."""
    found = {}
    for file in folder.glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = tf.make_ndarray(value.tensor)
    return found


@pytest.mark.slow
def test_event_files_have_settings_each_epoch_and_scores(tmp_path):
    run = trained(out=tmp_path / "run", log="tensorboard")
    found = events(tmp_path / "run" / "tensorboard")
    rows = run.history.rows
    assert [row["phase"] for row in rows] == ["frozen", "fine-tune", "fine-tune"]
    for name in ("loss", "val_loss", "val_accuracy", "learning_rate"):
        assert found[name] == {i + 1: pytest.approx(row[name]) for i, row in enumerate(rows)}
    assert found["frozen/accuracy"] == {1: pytest.approx(run.frozen_scores.accuracy)}
    assert found["fine-tune/accuracy"] == {3: pytest.approx(run.final_scores.accuracy)}
    assert b"| seed | 0 |" in found["settings"][0].item()


@pytest.mark.nightly
def test_a_tracker_that_fails_does_not_stop_the_training(tmp_path, monkeypatch):
    class Broken:
        def __init__(self, folder, settings):
            self.rows = []

        def log(self, values, step):
            raise ConnectionError("the server is gone")

        def finish(self, records, failed):
            raise AssertionError("it was left out")

    closed = []

    class Kept(Broken):
        def log(self, values, step):
            self.rows.append(step)

        def finish(self, records, failed):
            closed.append((self.rows, [path.name for path in records], failed))

    monkeypatch.setitem(tracking.TRACKERS, "broken", Broken)
    monkeypatch.setitem(tracking.TRACKERS, "kept", Kept)
    with pytest.warns(UserWarning, match="broken failed and is disabled for the rest of the run: the server is gone"):
        run = trained(out=tmp_path / "run", log=("broken", "kept"))
    assert run.final_scores.accuracy is not None
    assert closed == [([1, 1, 2, 3, 3], ["plan.yaml", "metrics.json", "history.csv", "labels.txt"], False)]


def test_the_end_of_a_failed_training_is_passed_on(monkeypatch, tmp_path):
    closed = []

    class Kept:
        def __init__(self, folder, settings):
            pass

        def finish(self, records, failed):
            closed.append(failed)

    monkeypatch.setitem(tracking.TRACKERS, "kept", Kept)
    with pytest.raises(KeyboardInterrupt), tracking.tracking(("kept",), tmp_path, {}):
        raise KeyboardInterrupt
    assert closed == [True]


def test_unknown_trackers_and_missing_folders_are_refused_before_the_data_are_read(tmp_path):
    def finetune(**settings):
        return tfft.finetune("no-such-backbone", tmp_path / "nothing", **settings)

    with pytest.raises(PlanError, match="Expected one of tensorboard, mlflow, wandb. Received: 'tensorbord'.*board"):
        finetune(log="tensorbord", out=tmp_path / "run")
    with pytest.raises(PlanError, match="log='tensorboard' writes into the run folder. Received: none. Give one: out="):
        finetune(log="tensorboard")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("wandb") is not None, reason="wandb is installed")
def test_a_missing_package_is_named(tmp_path):
    with pytest.raises(DependencyError, match="log='wandb' needs the package 'wandb'.*pip install wandb"):
        tfft.finetune("no-such-backbone", tmp_path / "nothing", log="wandb")
