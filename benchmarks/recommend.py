"""Test accuracy that a recommended backbone loses against the best one, over several seeds.

``python benchmarks/recommend.py`` takes the digits of scikit-learn (extra ``demo``); ``--photos FOLDER ...`` adds
folders with ``train/`` and ``val/``, whose ``val/`` is the test set. Candidates are EfficientNet-Lite0 up to three of
its blocks and MobileNetV3Small with random weights. The truth is a linear probe on all training examples, scored on the
test examples. Each seed recommends from a random sample of the training examples. Beside the accuracy lost by the
recommendation stands that of always taking the largest candidate, and of a random one.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time

import common
import numpy as np
import plans
from rich.console import Console
from rich.table import Table

import tfft
from tfft import heads
from tfft.features import extract, fit_linear_probe, split_head

CUTS = ("block5", "block10", None)
RANDOM = "keras:MobileNetV3Small:random"


def candidates() -> list[tfft.backbones.Backbone]:
    """Returns the opened candidates."""
    found = [tfft.load_backbone(common.BACKBONE, output=cut, name=f"lite0 up to {cut or 'its end'}") for cut in CUTS]
    return [*found, tfft.load_backbone(RANDOM, name="random weights")]


def truth(backbone: tfft.backbones.Backbone, train: plans.Arrays, test: plans.Arrays, side: int) -> float:
    """Returns the test accuracy of the linear probe on all training examples."""
    head = heads.classification([str(i) for i in range(int(train[1].max()) + 1)])
    prefix, _ = split_head(tfft.build(backbone, head, image_size=side))
    known, new = (np.asarray(extract(prefix, part[0], cache="memory", verbose=False).arrays) for part in (train, test))
    solved = fit_linear_probe(known, train[1], head)
    return float(((new @ solved.kernel + solved.bias).argmax(axis=1) == test[1]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=pathlib.Path, nargs="+", default=[], help="folders with train/ and val/")
    parser.add_argument("--side", type=int, default=96, help="pixels of the photos")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=200, help="training examples for each recommendation")
    options = parser.parse_args()
    common.machine()
    sets = {"digits": (*plans.digits(), 64)}
    for folder in options.photos:
        sets[folder.name] = (*plans.photos(folder, options.side), options.side)
    table = Table(title=f"test accuracy lost, {options.seeds} seeds", title_justify="left")
    for name in ("set", "candidates", "recommended", "largest", "random", "chosen", "seconds each"):
        table.add_column(name, justify="left" if name in ("set", "candidates", "chosen") else "right")
    opened = candidates()
    for title, (train, test, side) in sets.items():
        scores = {each.name: truth(each, train, test, side) for each in opened}
        best, chosen, began = max(scores.values()), [], time.perf_counter()
        for seed in range(options.seeds):
            rows = np.random.default_rng(seed).permutation(len(train[1]))[: int(1.25 * options.examples)]
            part = (train[0][rows], train[1][rows])
            found = tfft.recommend(part, opened, cache="memory", verbose=False, seed=seed, image_size=side)
            chosen.append(found.best)
        spent = (time.perf_counter() - began) / options.seeds
        largest = max(opened, key=lambda each: each.model.count_params()).name
        regrets = [statistics.mean(best - scores[name] for name in names) for names in (chosen, [largest], scores)]
        shown = "\n".join(f"{name} {score:.4f}" for name, score in scores.items())
        counts = "\n".join(f"{chosen.count(name)} x {name}" for name in dict.fromkeys(chosen))
        table.add_row(title, shown, *(f"{regret:.4f}" for regret in regrets), counts, f"{spent:.0f}")
        print(f"{title}: {scores}, chosen {chosen}", flush=True)
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
