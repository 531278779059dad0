"""Temperature scaling on test examples: ``python benchmarks/calibration.py --data FOLDER``.

For each set of ``benchmarks/default_sets.py``, the default plan trains on a part of the training examples; the rest
selects the epoch and then fits the temperature (``tfft.calibrate``, as ``tfft.finetune`` does by default). The test
examples, which chose nothing, show the expected calibration error, the Brier score and the cross-entropy before and
after, and the difference of the cross-entropy with its 95 % interval (a bootstrap over examples).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import pathlib

import common
import default_sets
import keras
import numpy as np
import plans as plan_table
from rich.console import Console
from rich.table import Table

import tfft
from tfft.evaluation.calibration import Calibration, calibration

SETS = ("digits", "ants_bees", "sign_digits", "fsdd_speakers")
_DRAWS = 2000


def judged(model: keras.Model, inputs: np.ndarray, labels: np.ndarray) -> tuple[Calibration, np.ndarray]:
    """Return the calibration of a model, and the cross-entropy of each example."""
    logits = np.asarray(model.predict(inputs, verbose=0), float)
    shifted = logits - logits.max(axis=1, keepdims=True)
    odds = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    losses = -np.log(np.maximum(odds[np.arange(len(labels)), labels], 1e-12))
    return calibration(odds.max(axis=1), odds.argmax(axis=1) == labels), losses


def measure(made: default_sets.Set, size: str, seed: int, options: argparse.Namespace) -> list[str]:
    """Return the cells of a row."""
    examples = made.train if size == "full" else made.small(int(size), seed)
    (inputs, labels), settings = made.test, dict(made.settings)
    splits = tfft.data.load(examples, validation=0.25, seed=seed)
    if inputs.dtype == object:
        backbone = options.text_backbone
    else:
        backbone, inputs = options.backbone, plan_table.resized(inputs, settings["image_size"])
    with contextlib.redirect_stdout(io.StringIO()):
        run = tfft.finetune(backbone, splits, seed=seed, cache="memory", calibrate=False, **settings)
    names = [str(name) for name in splits.class_names]
    labels = np.array([names.index(str(label)) for label in labels])
    before, losses_before = judged(run.model, inputs, labels)
    fitted = tfft.calibrate(run.model, splits.validation, seed=seed)
    after, losses_after = judged(run.model, inputs, labels)
    differences = losses_after - losses_before
    rows = np.random.default_rng(0).integers(0, len(labels), (_DRAWS, len(labels)))
    low, high = np.quantile(differences[rows].mean(axis=1), (0.025, 0.975))
    shown = [f"{one.error:.3f} ({one.interval[0]:.3f} to {one.interval[1]:.3f})" for one in (before, after)]
    return [
        f"{fitted.examples}", f"{len(labels)}", f"{fitted.temperature:.2f}", *shown,
        f"{before.brier:.3f}, {after.brier:.3f}", f"{losses_before.mean():.3f}, {losses_after.mean():.3f}",
        f"{differences.mean():+.3f} ({low:+.3f} to {high:+.3f})",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of the sets that no package ships")
    parser.add_argument("--sets", nargs="+", default=SETS, metavar="SET")
    parser.add_argument("--sizes", nargs="+", default=["full"], help="examples of a class, or full")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--side", type=int, default=128, help="pixels of photographs")
    parser.add_argument("--backbone", default=common.BACKBONE)
    parser.add_argument("--text-backbone", help="handle or folder of a text encoder, for sst2")
    options = parser.parse_args()
    makers = default_sets.makers(options.data, options.side, options.text_backbone is not None)
    common.machine()
    table = Table(
        "set", "size", "seed", "held out", "test", "temperature", "ECE before", "after", "Brier score",
        "cross-entropy", "difference (95 %)",
    )  # fmt: skip
    for name in options.sets:
        made = makers[name]()
        for size in options.sizes:
            for seed in range(options.seeds):
                cells = measure(made, size, seed, options)
                print(name, size, seed, *cells, flush=True)
                table.add_row(name, size, str(seed), *cells)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
