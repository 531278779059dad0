"""Sentiment of film reviews: accuracy and seconds of a frozen text backbone, of its last layers and of all trained.

``python benchmarks/reviews.py --backbone FOLDER --sst2 FOLDER`` needs ``train.tsv``, ``dev.tsv`` and ``test.tsv`` with
a sentence and a label in each line. Epochs are chosen on ``dev``, so its numbers are a little too good; ``test`` is
seen by nobody before the end. Ways run in turn, seed by seed.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time

import common
import keras
from plans import versus
from rich.console import Console
from rich.table import Table

import tfft

WAYS = {
    "frozen, solved head": ("linear_probe", {}),
    "last 2 layers": ("lp_ft", {"unfreeze": 2}),
    "as recommended": (None, {}),
    "everything": ("lp_ft", {"unfreeze": "all"}),
}


def run(way: str, options: argparse.Namespace, seed: int) -> dict[str, float]:
    """Trains one way; gives both accuracies, seconds of everything and of an epoch of the last phase."""
    plan, wishes = WAYS[way]
    if plan == "lp_ft" and options.epochs:
        wishes = wishes | {"epochs": options.epochs}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as cache:
        done = tfft.finetune(
            options.backbone, (options.sst2 / "train.tsv", options.sst2 / "dev.tsv"), text=0, label=1, plan=plan,
            seed=seed, cache=cache, verbose=False, **wishes,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    splits = tfft.modalities.text.load_texts((options.sst2 / "train.tsv", options.sst2 / "test.tsv"), text=0, label=1)
    test = tfft.evaluate(done.model, tfft.data.to_dataset(splits.validation))
    epochs = [row["seconds"] for row in done.history.rows if row["learning_rate"]]
    keras.backend.clear_session()
    return {
        "dev": done.final_scores.accuracy, "test": test.accuracy, "seconds": seconds, "epochs": len(epochs),
        "epoch": statistics.median(epochs) if epochs else 0.0,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True, help="handle of a text backbone")
    parser.add_argument("--sst2", type=pathlib.Path, required=True, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), metavar="WAY")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="of the phases with unfrozen blocks; by default what the plan says")
    options = parser.parse_args()
    common.machine()
    found: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
    for seed in range(options.seeds):
        for way in options.ways:
            found[way].append(run(way, options, seed))
            one = found[way][-1]
            print(f"{way}, seed {seed}: dev {one['dev']:.4f}, test {one['test']:.4f}, {one['seconds']:.0f} s, "
                  f"{one['epochs']:.0f} epochs of {one['epoch']:.1f} s", flush=True)  # fmt: skip
    table = Table(title=f"SST-2 with {options.backbone}, {options.seeds} seeds", title_justify="left")
    for column in ("way", "dev", "test", "against the first (test, 95 %)", "seconds", "an epoch"):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    first = [one["test"] for one in found[options.ways[0]]]
    for way, rows in found.items():
        scores = {part: [one[part] for one in rows] for part in ("dev", "test", "seconds", "epoch")}
        spread = {p: f"{statistics.mean(v):.4f} ({min(v):.4f} to {max(v):.4f})" for p, v in scores.items()}
        against = "" if way == options.ways[0] else versus(scores["test"], first)
        seconds = [f"{statistics.median(scores[name]):.0f} s" for name in ("seconds", "epoch")]
        table.add_row(way, spread["dev"], spread["test"], against, *seconds)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
