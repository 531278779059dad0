"""A task and a kind of data from outside of tfft go the whole way, and no file of tfft changes for them.

``extension_task.py`` is ordinal regression, ``extension_modality.py`` files of measurements.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from extension_task import GRADES

HERE = pathlib.Path(__file__).parent
SCRIPT = HERE / "extension_process.py"

pytestmark = [pytest.mark.slow, pytest.mark.process]


def run(*arguments, kill=None):
    environment = {**os.environ, **({} if kill is None else {"TFFT_KILL": str(kill)})}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("sensor"), np.random.default_rng(0)
    for level, name in enumerate(GRADES[:3]):
        (folder / name).mkdir()
        for i in range(16):
            numbers = random.normal(2.0 * level, 0.3, 4)
            (folder / name / f"{i:02}.num").write_text(";".join(f"{value:.3f}" for value in numbers))
    (folder / "poor" / "broken.num").write_text("1;2;nan;4")
    (folder / "good" / "extreme.num").write_text("1;2;400;4")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """The folder of a run that was killed in the middle of a phase and went on, and of one that was not."""
    folder = tmp_path_factory.mktemp("runs")
    killed, whole = folder / "killed", folder / "whole"
    assert run("train", data, killed, kill=8).returncode == -9
    assert not (killed / "metrics.json").exists()
    for out in (killed, whole):
        done = run("train", data, out)
        assert done.returncode == 0, done.stderr[-2000:]
    return killed, whole


def test_a_killed_training_goes_on_to_the_same_weights(trained):
    weights = []
    for out in trained:
        served = tf.saved_model.load(str(out / "export" / "1"))
        assert "serving_default" in served.signatures
        weights.append([np.asarray(v) for v in served.owned if hasattr(v, "numpy")])
    metrics = [json.loads((out / "metrics.json").read_text()) for out in trained]
    assert metrics[0] == metrics[1]
    assert len(weights[0]) > 3
    for resumed, straight in zip(*weights, strict=True):
        np.testing.assert_array_equal(resumed, straight)


@pytest.mark.nightly
def test_its_held_out_examples_are_measured(data, trained):
    done = run("tfft", "evaluate", trained[0], data, "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    scores = json.loads(done.stdout)
    assert scores["data"].startswith("held-out examples")
    assert scores["measures"]["mean_absolute_error"] < 0.5
    assert scores["metric"] == "mean_absolute_error"


@pytest.mark.nightly
def test_faults_of_the_data_are_found(data):
    done = run("tfft", "check", data, "--json")
    findings = {one["kind"]: one for one in json.loads(done.stdout)["findings"]}
    assert "broken.num" in json.dumps(findings["unusable"])
    assert "extreme.num" in json.dumps(findings["range"])


@pytest.mark.nightly
def test_a_fresh_process_predicts_with_the_run_and_with_the_export(data, trained):
    files = [data / name / "03.num" for name in GRADES[:3]]
    served = tf.saved_model.load(str(trained[0] / "export" / "1")).signatures["serving_default"]
    rows = np.array([file.read_text().split(";") for file in files], np.float32)
    names = [name.decode() for name in served(numbers=tf.constant(rows))["name"].numpy()]
    for model in (trained[0], trained[0] / "export" / "1"):
        done = run("tfft", "predict", model, *files)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.splitlines() == [f"{file} is {name}" for file, name in zip(files, names, strict=True)]


@pytest.mark.parametrize("name", ["extension_task.py", "extension_modality.py"])
def test_each_takes_fewer_than_120_lines(name):
    assert len((HERE / name).read_text().splitlines()) < 120
