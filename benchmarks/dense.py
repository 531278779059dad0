"""Object detection and semantic segmentation: scores on held-out pictures over several seeds, and minutes.

``python benchmarks/dense.py object_detection FOLDER`` and ``python benchmarks/dense.py semantic_segmentation FOLDER``
train the default plan of the task on an EfficientNet-Lite0: the head on kept feature maps of the frozen backbone, and
for detection then the last blocks. ``--way kept anew`` compares the head alone: on kept maps, and with the frozen
backbone run again in every step (``cache=None``). ``--architecture`` takes another head. Held-out pictures chose the
epoch, so the scores are slightly optimistic; a folder that is split keeps its parts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pathlib
import resource
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
from rich.console import Console
from rich.table import Table

import tfft

WAYS = {
    "default": {},
    "last blocks": {"unfreeze": 3},
    "kept": {"unfreeze": "none"},
    "anew": {"unfreeze": "none", "cache": None},
}


class Cpu(keras.callbacks.Callback):
    """CPU seconds of each epoch, over all threads: other programs change them less than the time of a clock."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Start to count."""
        self._began = time.process_time()

    def on_epoch_end(self, epoch: int, logs: object = None) -> None:
        """Keep the seconds since the begin."""
        self.seconds.append(time.process_time() - self._began)


def train(task: str, folder: pathlib.Path, way: str, seed: int, settings: dict[str, object]) -> list[tuple[str, ...]]:
    """Trains once; returns way, seed, score, minutes to its end, seconds and CPU seconds per epoch for each phase."""
    began, quiet, cpu = time.perf_counter(), io.StringIO(), Cpu()
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(quiet):
        run = tfft.finetune(
            common.BACKBONE, folder, task=task, seed=seed, export_to=False, callbacks=[cpu],
            **{"cache": cache, **settings, **WAYS[way]},
        )  # fmt: skip
    whole, rows, found = time.perf_counter() - began, run.history.rows, []
    for phase, scores in zip(run.plan.phases, (run.frozen_scores, run.final_scores), strict=False):
        seconds = [row["seconds"] for row in rows if row["phase"] == phase.name]
        used = [of_epoch for row, of_epoch in zip(rows, cpu.seconds, strict=True) if row["phase"] == phase.name]
        later = (
            sum(row["seconds"] for row in rows if row["phase"] != phase.name) if phase is run.plan.phases[0] else 0.0
        )
        low, high = scores.interval
        found.append((
            f"{way}: {phase.name}", f"{seed}", f"{scores.metric} {scores.value:.3f} ({low:.3f} to {high:.3f})",
            " ".join(f"{name} {value:.3f}" for name, value in scores.measures.items() if name in ("map50", "accuracy")),
            f"{(whole - later) / 60:.1f}", f"{statistics.median(seconds):.1f}", f"{statistics.median(used):.1f}",
        ))  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("object_detection", "semantic_segmentation"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--way", nargs="+", choices=tuple(WAYS), default=["default"], help="ways, in turn")
    parser.add_argument("--architecture", help="head, such as retinanet or deeplab_v3")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--head-epochs", type=int, help="epochs of the head, to shorten the comparison")
    options = parser.parse_args()
    common.machine()
    given = {"head_epochs": options.head_epochs, "architecture": options.architecture}
    settings = {name: value for name, value in given.items() if value is not None}
    table = Table("way and phase", "seed", "score (95 % interval)", "also", "minutes", "s per epoch", "CPU s")
    for seed in range(options.seeds):
        for way in options.way:
            for row in train(options.task, options.folder, way, seed, settings):
                table.add_row(*row)
                print(*row, sep="  ", flush=True)
    Console(width=140).print(table)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
