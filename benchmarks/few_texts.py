"""Few texts of each class: the frozen encoder with a solved head against features tuned on pairs (``plans.setfit``).

``python benchmarks/few_texts.py --backbone FOLDER --sst2 FOLDER --per-class 8 64 --seeds 5``: SST-2, with ``train.tsv``
and ``dev.tsv`` of sentence and label. Each seed draws other examples of ``train.tsv``, and all of them are learnt from:
nothing is held out, and nothing chosen. Accuracy is that on the whole of ``dev.tsv``. Both heads come out of one run of
the plan, on the same examples, and are compared seed by seed: the mean difference and its 95 % interval (Student's t).
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from collections.abc import Sequence

import common
import keras
import numpy as np
import tensorflow as tf
from plans import versus
from rich.console import Console
from rich.table import Table

import tfft
from tfft import heads, plans, training
from tfft.backbones.base import Backbone
from tfft.config import Phase, RunConfig
from tfft.plans import DatasetStats, recommend

Texts = tuple[np.ndarray, np.ndarray]
PROBE, TUNED = "frozen, head solved", "setfit"


def read(path: pathlib.Path) -> Texts:
    rows = [line.rsplit("\t", 1) for line in path.read_text("utf-8").splitlines() if line]
    return np.array([text for text, _ in rows], object), np.array([int(label) for _, label in rows])


def drawn(data: Texts, per_class: int, seed: int) -> Texts:
    random = np.random.default_rng(seed)
    rows = np.concatenate([random.permutation(np.flatnonzero(data[1] == c))[:per_class] for c in np.unique(data[1])])
    return data[0][rows], data[1][rows]


def run(backbone: Backbone, data: Texts, test: Texts, seed: int, wishes: RunConfig) -> dict[str, tuple[float, float]]:
    """Returns accuracy on the test texts and seconds of learning, of the probe and of all phases."""
    keras.utils.set_random_seed(seed)
    model = tfft.build(backbone, heads.classification(["negative", "positive"]))
    counts = np.bincount(data[1])
    facts = DatasetStats(
        len(data[1]), len(counts), len(backbone.blocks), smallest=min(counts), largest=max(counts), texts=True
    )
    plan = recommend(facts, wishes, plan=plans.setfit())
    scores, began, tested = {}, time.perf_counter(), 0.0

    def measure(phase: Phase, _: training.History, part: training.TrainableSuffix | None) -> None:
        nonlocal tested
        start = time.perf_counter()
        if phase.solves_head:
            logits = model.predict(test[0], batch_size=64, verbose=0)
            accuracy = float(np.mean(logits.argmax(-1) == test[1]))
            scores[PROBE if phase is plan.phases[0] else TUNED] = (accuracy, start - began - tested)
        tested += time.perf_counter() - start

    batches = tf.data.Dataset.from_tensor_slices(data).batch(32)
    training.train(model, batches, None, plan.phases, seed=seed, verbose=False, after_phase=measure)
    return scores


def table(backbone: Backbone, data: Texts, test: Texts, sizes: Sequence[int], seeds: int, wishes: RunConfig) -> None:
    made = Table(title=f"SST-2: {len(test[1])} texts of dev.tsv, {seeds} seeds", title_justify="left")
    for column in ("per class", "", "accuracy", "least to most", "against the probe (95 %)", "seconds"):
        made.add_column(column, justify="left" if not column else "right", no_wrap=True)
    order = np.argsort([len(text) for text in test[0]], kind="stable")  # texts of like length share a batch
    test = test[0][order], test[1][order]
    start = backbone.model.get_weights()
    for size in sizes:
        found: dict[str, list[tuple[float, float]]] = {PROBE: [], TUNED: []}
        for seed in range(seeds):
            backbone.model.set_weights(start)
            for name, value in run(backbone, drawn(data, size, seed), test, seed, wishes).items():
                found[name].append(value)
                print(f"{size} per class, seed {seed}, {name}: {value[0]:.4f}, {value[1]:.1f} s", flush=True)
        for name, values in found.items():
            scores = [score for score, _ in values]
            against = "" if name == PROBE else versus(scores, [score for score, _ in found[PROBE]])
            spread = f"{min(scores):.4f} to {max(scores):.4f}"
            seconds = statistics.median(second for _, second in values)
            made.add_row(str(size), name, f"{statistics.mean(scores):.4f}", spread, against, f"{seconds:.1f}")
    Console(width=110).print(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", required=True, help="handle or folder of a text encoder")
    parser.add_argument("--sst2", required=True, type=pathlib.Path, help="folder with train.tsv and dev.tsv")
    parser.add_argument("--per-class", nargs="+", type=int, default=(8, 64))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=None, help="of the pairs; the plan's by default")
    parser.add_argument("--unfreeze", type=int, default=None, help="last blocks that are tuned; all by default")
    options = parser.parse_args()
    common.machine()
    given = {"learning_rate": options.rate, "unfreeze": options.unfreeze}
    wishes = RunConfig(**{name: value for name, value in given.items() if value is not None})
    data, test = read(options.sst2 / "train.tsv"), read(options.sst2 / "dev.tsv")
    table(tfft.load_backbone(options.backbone), data, test, options.per_class, options.seeds, wishes)


if __name__ == "__main__":
    main()
