"""Training under tf.distribute, in processes of its own: two copies in one process, and two workers.

Each process trains the same models (distributed_process.py); here is compared what came of it.
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

process_fixtures = ("found",)
pytestmark = pytest.mark.nightly  # four processes train for over a minute

HERE = pathlib.Path(__file__).parent
DISTRIBUTED = ("mirrored", "worker0", "worker1")
LIMIT = 300  # seconds, for a machine with much else to do


class Found:
    """What the processes wrote."""

    def __init__(self, folder: pathlib.Path, printed: dict[str, str]) -> None:
        self.folder, self.printed = folder, printed
        self.results = {me: json.loads((folder / f"{me}.json").read_text()) for me in ("plain", *DISTRIBUTED)}

    def of(self, me: str, name: str) -> Any:
        return self.results[me][name]

    def weights(self, me: str, name: str) -> list[np.ndarray]:
        with np.load(self.folder / f"{me}_{name}.npz") as file:
            return [file[key] for key in file.files]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Found:
    import keras
    import savedmodels

    folder = tmp_path_factory.mktemp("distributed")
    (folder / "models").mkdir()
    keras.utils.set_random_seed(5)
    for kind in ("plain_convnet", "lookup"):
        savedmodels.MAKERS[kind](folder / "models" / kind)
    savedmodels.reusable(folder / "models" / "convnet", savedmodels.convnet(32))
    workers = [f"localhost:{port}" for port in _free_ports(2)]
    started = {
        me: _start(me, folder, workers if me.startswith("worker") else [])
        for me in ("worker0", "worker1", "mirrored", "plain")
    }
    try:
        printed = {me: process.communicate(timeout=LIMIT)[0] for me, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
    failed = {me: printed[me][-6000:] for me, process in started.items() if process.returncode}
    assert not failed, "\n".join(f"----- {me}\n{text}" for me, text in failed.items())
    return Found(folder, printed)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def _start(me: str, folder: pathlib.Path, workers: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
    if workers:
        task = {"type": "worker", "index": int(me[-1])}
        environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": workers}, "task": task})
    command = [sys.executable, str(HERE / "distributed_process.py"), me.rstrip("01"), str(folder)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def _largest(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("me", DISTRIBUTED)
def test_two_phases_give_the_weights_of_one_process(found, me):
    plain, shared = found.of("plain", "two_phases"), found.of(me, "two_phases")
    assert shared["before"] == plain["before"]
    assert _largest(found.weights("plain", "two_phases"), found.weights(me, "two_phases")) < 1e-5
    assert shared["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert shared["val_losses"] == pytest.approx(plain["val_losses"], abs=1e-5)
    assert (shared["best"], shared["frozen"]) == (plain["best"], plain["frozen"])  # the audit looked at all of it
    assert shared["frozen"][0] > shared["frozen"][1] > 0
    assert shared["losses"][-1] < shared["losses"][0]
    assert shared["best"] == [2, 3]  # else the second phase's weights would not be among those compared
    assert shared["evaluated"] == pytest.approx(plain["evaluated"], abs=1e-5)
    assert shared["copies"] == (2 if me == "mirrored" else 1)
    assert shared["alike"]


@pytest.mark.parametrize("me", DISTRIBUTED)
def test_statistics_are_the_mean_over_the_copies(found, me):
    plain, shared = found.of("plain", "statistics"), found.of(me, "statistics")
    assert shared["alike"]
    assert shared["means"][0] == pytest.approx(plain["means"][0], abs=1e-6)  # the mean of the shares' means
    assert shared["means"][0] == found.of("mirrored", "statistics")["means"][0]
    assert shared["evaluated"] == pytest.approx(shared["val_losses"][0], abs=1e-5)


def test_a_batch_smaller_than_the_copies_is_filled(found):
    assert _largest(found.weights("plain", "one"), found.weights("mirrored", "one")) < 1e-5


def test_only_the_chief_prints_and_writes(found):
    assert "frozen: accuracy" in found.printed["worker0"]
    assert "frozen: accuracy" not in found.printed["worker1"]
    assert found.of("worker0", "finetune")["exported"]
    assert not found.of("worker1", "finetune")["exported"]
    run = found.folder / "worker_run"
    assert {path.name for path in run.iterdir()} == {
        "export", "history.csv", "labels.txt", "metrics.json", "model.keras", "plan.yaml",
        "timing.json",
    }  # fmt: skip
    for name in ("val_losses", "scores"):
        assert found.of("worker0", "finetune")[name] == found.of("worker1", "finetune")[name]
    assert json.loads((run / "metrics.json").read_text())["final"] == found.of("worker1", "finetune")["scores"]


def test_what_was_trained_on_two_copies_is_saved_and_exported(found):
    files = found.of("mirrored", "files")
    assert files["difference"] < 1e-5
    assert files["reloaded"]


def test_a_model_with_its_own_compile_is_fitted_by_several_workers(found):
    first, second = (found.of(me, "own_compile") for me in ("worker0", "worker1"))
    assert first["logs"] == second["logs"]
    assert set(first["logs"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert first["put_back"]


def test_keras_alone_cannot_fit_with_several_workers(found):
    """The day it can, tfft may drop its ways round."""
    assert found.of("worker0", "own_compile")["keras"].startswith("Attempt to convert a value (PerReplica:{")


def test_texts_and_variables_without_a_gradient_train_on_two_copies(found):
    texts = found.of("mirrored", "texts")
    assert texts["losses"][-1] < texts["losses"][0]
    assert texts["alike"]
    assert found.of("mirrored", "no_gradient")["notes"] == ["phase 'all': no gradient reaches dead/kernel, dead/bias"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("outside", "27 of 27 variables of the model were made outside of the strategy's scope"),
        ("mixed", "25 of 27 variables of the model were made outside of the strategy's scope"),
        ("metric", "the metric 'mine' was made outside of it: make it and compile inside `with strategy.scope():`"),
        ("optimizer", "the optimizer was made outside of it: make it and compile inside `with strategy.scope():`"),
        ("central", "tfft cannot train under CentralStorageStrategy"),
    ],
)
def test_what_does_not_belong_together_is_refused(found, name, sentence):
    assert sentence in found.of("mirrored", "mistakes")[name]
