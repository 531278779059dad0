"""Does a training that is killed give the same weights? Kills at random moments over a run of three phases."""

from __future__ import annotations

import os
import pathlib
import random
import re
import subprocess
import sys
import time

PROCESS = pathlib.Path(__file__).parents[1] / "tests" / "resume_process.py"


def kills(folder: pathlib.Path, count: int = 50, seed: int = 0) -> None:
    """Kills each of many runs once, without a warning, lets the same command go on, and compares the ends.

    The moments are drawn among all steps, batches of validation and syncs of files; checkpoints are written after every
    second step. What is compared is all of: weights, optimizer, random state, history, the state of callbacks.
    """
    environment = os.environ | {"TFFT_EVERY": "2", "PYTHONPATH": str(PROCESS.parents[1])}
    undisturbed = _run(folder / "undisturbed", environment)
    wanted = _results(undisturbed)
    numbers = {name: int(n) for name, n in re.findall(r"^COUNT (\w+) (\d+)", undisturbed.stdout, re.M)}
    moments = [f"{name}:{i + 1}" for name, n in sorted(numbers.items()) for i in range(n)]
    began, same = time.perf_counter(), 0
    for number, at in enumerate(random.Random(seed).sample(moments, min(count, len(moments)))):
        killed = _run(folder / str(number), environment | {"TFFT_KILL": at})
        went_on = _run(folder / str(number), environment)
        equal = killed.returncode == -9 and went_on.returncode == 0 and _results(went_on) == wanted
        same += equal
        if not equal:
            print(f"  killed at {at}: {killed.returncode}, then {went_on.returncode}, other results", flush=True)
    print(f"\nA run of three phases, killed at one of {len(moments)} moments ({numbers})")
    print(f"  {same} of {number + 1} ended with the same bits; {time.perf_counter() - began:.0f} s", flush=True)


def _run(folder: pathlib.Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", str(PROCESS), "train", str(folder / "checkpoints")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _results(process: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in process.stdout.splitlines() if line.startswith("RESULT")] or ["nothing"]
