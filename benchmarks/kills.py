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


def kills(folder: pathlib.Path, count: int, seed: int = 0) -> None:
    """Kills one process after the other at a random moment of its life, and lets the next one go on.

    A run that has come to its end before its moment is compared with one that was never killed; the next kill then
    meets a new run. The moments go over the import of TensorFlow, the set-up, every phase and every save.
    """
    environment = os.environ | {"TFFT_EVERY": "1", "PYTHONPATH": str(PROCESS.parents[1])}
    started = time.monotonic()
    undisturbed = _results(_run(folder / "undisturbed", environment).communicate()[0])
    span = time.monotonic() - started
    moments, killed, ended, same = random.Random(seed), 0, 0, 0
    while killed < count:
        one = folder / f"run-{ended}"
        while True:
            child = _run(one, environment)
            try:
                out = child.communicate(timeout=moments.uniform(0.2, 1.0) * span if killed < count else None)[0]
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                killed += 1
                continue
            break
        if child.returncode:
            raise RuntimeError(f"A run that went on failed with {child.returncode}:\n{out}")
        ended += 1
        same += _results(out) == undisturbed
    print(f"\nThree phases, {span:.0f} s with the import of TensorFlow, killed at random moments of the last 80 %")
    print(
        f"  {killed} kills over {ended} runs: {same} of {ended} ended with the same weights, optimizer, history",
        flush=True,
    )


def each(folder: pathlib.Path, count: int, seed: int = 0) -> None:
    """Kills a process once, at a random step, validation or sync, and lets one go on: a run for every kill."""
    environment = os.environ | {"TFFT_EVERY": "1", "PYTHONPATH": str(PROCESS.parents[1])}
    counted = _run(folder / "undisturbed", environment | {"TFFT_COUNT": "1"}).communicate()[0]
    undisturbed = _results(counted)
    numbers = {name: int(n) for name, n in re.findall(r"^COUNT (\w+) (\d+)", counted, re.M)}
    moments, same = random.Random(seed), 0
    for i in range(count):
        where = moments.choice(sorted(numbers))
        at = f"{where}:{moments.randint(1, numbers[where])}"
        _run(folder / str(i), environment | {"TFFT_KILL": at}).communicate()
        equal = _results(_run(folder / str(i), environment).communicate()[0]) == undisturbed
        same += equal
        if not equal:
            print(f"  killed at {at}: other results", flush=True)
    print(f"\nA run of three phases killed once, at a random step, validation or sync of a file ({numbers})")
    print(f"  {same} of {count} ended with the same weights, optimizer, history, to the last bit", flush=True)


def _run(folder: pathlib.Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", str(PROCESS), "train", str(folder / "checkpoints")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def _results(text: str) -> list[str]:
    found = [line for line in text.splitlines() if line.startswith("RESULT")]
    return found or ["nothing"]
