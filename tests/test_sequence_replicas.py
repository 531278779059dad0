"""Loss and decoded texts of text to text and transcription on two copies of a model equal those of one."""

import json
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.nightly
@pytest.mark.process
@pytest.mark.parametrize("task", ["text_to_text", "transcription"])
def test_two_replicas_have_losses_and_scores_of_one(task):
    script = pathlib.Path(__file__).with_name("sequence_replicas.py")
    done = subprocess.run([sys.executable, script, task], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    one, two = found["one"], found["two"]
    for name, values in one["history"].items():
        assert two["history"][name] == pytest.approx(values, rel=1e-4), name
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)
    assert one["history"]["loss"][1] < one["history"]["loss"][0]
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert two["value"] == pytest.approx(one["value"], rel=1e-4)
    numbers = {name: value for name, value in one["measures"].items() if isinstance(value, float)}
    assert {name: two["measures"][name] for name in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-6)
