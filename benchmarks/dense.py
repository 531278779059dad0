"""Object detection and semantic segmentation: scores on held-out pictures over several seeds, and minutes.

``python benchmarks/dense.py object_detection FOLDER`` and ``python benchmarks/dense.py semantic_segmentation FOLDER``
train the default plan of the task on an EfficientNet-Lite0: first the head on kept feature maps of the frozen backbone,
then the last blocks. With ``--way`` other ways run in turn: ``frozen`` is the head alone, ``anew`` the head alone
with the backbone run again in every epoch. Held-out pictures chose the epoch, so the scores are slightly optimistic; a
folder that is split keeps its parts.
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
from rich.console import Console
from rich.table import Table

import tfft

WAYS = {
    "frozen": {"unfreeze": "none"},
    "default": {},
    "anew": {"unfreeze": "none", "cache": None},
}


def train(task: str, folder: pathlib.Path, way: str, seed: int, settings: dict[str, object]) -> dict[str, object]:
    """Trains once; returns the score with its interval, minutes and seconds of an epoch after the first."""
    began, quiet = time.perf_counter(), io.StringIO()
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(quiet):
        options = {"cache": cache, **settings, **WAYS[way]}
        run = tfft.finetune(common.BACKBONE, folder, task=task, seed=seed, export_to=False, **options)
    scores, rows = run.final_scores, run.history.rows
    return {
        "scores": scores, "minutes": (time.perf_counter() - began) / 60,
        "epoch": statistics.median([row["seconds"] for row in rows if row["phase"] == rows[0]["phase"]][1:] or [0.0]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=("object_detection", "semantic_segmentation"))
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--way", nargs="+", choices=tuple(WAYS), default=["frozen", "default"], help="ways, in turn")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--head-epochs", type=int, help="epochs of the head, to shorten the comparison")
    options = parser.parse_args()
    common.machine()
    settings = {} if options.head_epochs is None else {"head_epochs": options.head_epochs}
    found: dict[str, list[dict[str, object]]] = {way: [] for way in options.way}
    for seed in range(options.seeds):
        for way in options.way:
            done = train(options.task, options.folder, way, seed, settings)
            found[way].append(done)
            print(f"{way}, seed {seed}, {done['minutes']:.1f} min: {done['scores'].summary}", flush=True)
    table = Table("way", "score by seed", "mean", "minutes", "s per epoch of the head")
    for way, runs in found.items():
        values = [run["scores"].value for run in runs]
        table.add_row(
            way, " ".join(f"{value:.3f}" for value in values), f"{statistics.mean(values):.3f}",
            f"{statistics.mean(run['minutes'] for run in runs):.1f}",
            f"{statistics.median(run['epoch'] for run in runs):.1f}",
        )  # fmt: skip
    Console().print(table)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
