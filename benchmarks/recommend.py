"""Test accuracy that a recommended backbone loses against the best one, over several seeds.

``python benchmarks/recommend.py`` takes the digits of scikit-learn (extra ``demo``); ``--data FOLDER`` adds other sets
of ``benchmarks/defaults.py``. Candidates for images are EfficientNet-Lite0 up to three of its blocks and
MobileNetV3Small with random weights; for texts, the encoder of ``--text-backbone`` with three poolings, and with the
first tokens only. The truth is a linear probe on all training examples (at most ``--most`` of them), scored on the test
examples. Each seed recommends from a random sample of the training examples. Beside the accuracy lost by the
recommendation stands that of always taking the largest candidate (the first of several), and of a random one.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from typing import Any

import common
import default_sets
import numpy as np
from rich.console import Console
from rich.table import Table

import tfft
from tfft import heads
from tfft.features import extract, fit_linear_probe, split_head

SETS = ("digits", "ants_bees", "sign_digits", "fsdd", "sst2")
CUTS = ("block5", "block10", None)
READINGS = ({"pooling": "mean"}, {"pooling": "cls"}, {"pooling": "last"}, {"pooling": "mean", "max_length": 8})
RANDOM = "keras:MobileNetV3Small:random"


def candidates(text_backbone: str | None) -> list[tfft.backbones.Backbone]:
    """Returns the opened candidates: encoders of texts if one is given, else networks for images."""
    if text_backbone is not None:
        names = [" ".join(f"{key}={value}" for key, value in each.items()) for each in READINGS]
        return [
            tfft.load_backbone(text_backbone, name=name, **each) for name, each in zip(names, READINGS, strict=True)
        ]
    found = [tfft.load_backbone(common.BACKBONE, output=cut, name=f"lite0 up to {cut or 'its end'}") for cut in CUTS]
    return [*found, tfft.load_backbone(RANDOM, name="random weights")]


def truth(backbone: tfft.backbones.Backbone, train: default_sets.Arrays, test: default_sets.Arrays, side: Any) -> float:
    """Returns the test accuracy of the linear probe on all training examples."""
    head = heads.classification([str(i) for i in range(int(train[1].max()) + 1)])
    prefix, _ = split_head(tfft.build(backbone, head, image_size=side))
    known, new = (np.asarray(extract(prefix, part[0], cache="memory", verbose=False).arrays) for part in (train, test))
    solved = fit_linear_probe(known, train[1], head)
    return float(((new @ solved.kernel + solved.bias).argmax(axis=1) == test[1]).mean())


def sample(arrays: default_sets.Arrays, most: int, seed: int) -> default_sets.Arrays:
    """Returns at most so many random examples."""
    rows = np.random.default_rng(seed).permutation(len(arrays[1]))[:most]
    return arrays[0][rows], arrays[1][rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, help="folder of the sets that no package ships")
    parser.add_argument("--sets", nargs="+", default=SETS, choices=SETS, help="those that are at hand by default")
    parser.add_argument("--text-backbone", help="handle or folder of a text encoder, for sst2")
    parser.add_argument("--side", type=int, default=96, help="pixels of the photos")
    parser.add_argument("--most", type=int, default=2000, help="training examples for the truth")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=200, help="training examples for each recommendation")
    options = parser.parse_args()
    common.machine()
    made = default_sets.makers(options.data, options.side, options.text_backbone is not None)
    table = Table(title=f"test accuracy lost, {options.seeds} seeds", title_justify="left")
    for name in ("set", "candidates", "recommended", "largest", "random", "chosen", "seconds each"):
        table.add_column(name, justify="left" if name in ("set", "candidates", "chosen") else "right")
    for title in (name for name in options.sets if name in made):
        data = made[title]()
        train, test, side = sample(data.train, options.most, 0), data.test, data.settings.get("image_size")
        opened = candidates(None if side else options.text_backbone)
        scores = {each.name: truth(each, train, test, side) for each in opened}
        best, chosen, began = max(scores.values()), [], time.perf_counter()
        for seed in range(options.seeds):
            part = sample(train, int(1.25 * options.examples), seed)
            size = {"image_size": side} if side else {}
            found = tfft.recommend(part, opened, cache="memory", verbose=False, seed=seed, **size)
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
