"""Spoken digits, split by speaker: an image backbone on pictures of the sound, frozen and fine-tuned.

``python benchmarks/fsdd.py FOLDER``: the Free Spoken Digit Dataset, files called ``digit_speaker_number.wav``. Each
speaker in turn is measured on, the next one chooses the best epoch, and the others are learned from: nothing is chosen
by the voice that a score is of.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import statistics
import tempfile
import time

import common
import numpy as np

import tfft
from tfft.data import Splits
from tfft.evaluation import wilson_interval
from tfft.modalities.audio import AudioExamples, load_recordings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--backbone", default=common.BACKBONE)
    parser.add_argument("--image-size", type=int, nargs=2, metavar="PIXELS", help="(what the backbone was made for)")
    parser.add_argument("--range", type=float, metavar="DECIBELS", help="that the pictures show (the default of tfft)")
    parser.add_argument("--unfreeze", metavar="BLOCKS", help="last so many blocks, or all (what the plan chooses)")
    parser.add_argument("--augment", nargs="+", metavar="CHANGE", help="shift, mask (none)")
    parser.add_argument("--frozen-only", action="store_true", help="measure the solved head alone")
    parser.add_argument("--speakers", type=int, default=6, help="how many are measured on, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common.machine()
    everything = read(options.folder)
    if options.range:
        everything = dataclasses.replace(everything, spec=dataclasses.replace(everything.spec, range=options.range))
    who = np.array([pathlib.Path(path).stem.split("_")[1] for path in everything.paths])
    speakers = sorted(set(who))
    print(f"\n{len(who)} recordings of {len(speakers)} speakers; {options.backbone}; {everything.spec}")
    settings = {"seed": options.seed, "cache": "memory", "export_to": False, "verbose": False}
    if options.image_size:
        settings["image_size"] = tuple(options.image_size)
    tuned = {"unfreeze": blocks(options.unfreeze), "augment": options.augment}
    ways = {"frozen": {"plan": "linear_probe"}, "fine-tuned": tuned}
    if options.frozen_only:
        del ways["fine-tuned"]
    print(f"{'speaker':10s} " + " ".join(f"{name:>11s} {'seconds':>8s}" for name in ways))
    right: dict[str, list[int]] = {name: [] for name in ways}
    counts = []
    for i, speaker in enumerate(speakers[: options.speakers]):
        chooser = speakers[(i + 1) % len(speakers)]
        splits, test = parted(everything, who, chooser, speaker)
        line = f"{speaker:10s} "
        for name, way in ways.items():
            start = time.perf_counter()
            run = tfft.finetune(options.backbone, splits, **settings, **way)
            seconds = time.perf_counter() - start
            scores = tfft.evaluate(run.model, tfft.data.to_dataset(test))
            right[name].append(round(scores.accuracy * scores.examples))
            line += f"{scores.accuracy:11.4f} {seconds:8.0f} "
        counts.append(scores.examples)
        print(line, flush=True)
    for name, values in right.items():
        report(name, values, counts)
    if len(ways) == 2:
        gains = [(b - a) / n for a, b, n in zip(*right.values(), counts, strict=True)]
        middle, spread = statistics.mean(gains), statistics.stdev(gains) if len(gains) > 1 else float("nan")
        print(f"fine-tuning changed it by {middle:+.4f}; by speaker {min(gains):+.4f} to {max(gains):+.4f}, "
              f"standard deviation {spread:.4f}")  # fmt: skip


def read(folder: pathlib.Path) -> AudioExamples:
    """Reads all recordings, by way of one folder for each digit."""
    with tempfile.TemporaryDirectory() as name:
        for file in sorted(folder.glob("*_*_*.wav")):
            place = pathlib.Path(name, file.stem.split("_")[0])
            place.mkdir(exist_ok=True)
            os.symlink(file.resolve(), place / file.name)
        splits = load_recordings(name)
        splits.train.read()  # while the links are there
        return splits.train.join(splits.validation)


def parted(
    everything: AudioExamples, who: np.ndarray, chooser: str, measured: str
) -> tuple[Splits[AudioExamples], AudioExamples]:
    """Returns recordings to learn from and to choose by, and those of the speaker that is measured on."""
    learned, chosen, test = (
        everything.take(np.flatnonzero(own))
        for own in ((who != chooser) & (who != measured), who == chooser, who == measured)
    )
    return Splits(learned, chosen, f"{chooser} chooses, {measured} is left out"), test


def blocks(text: str | None) -> int | str:
    return "auto" if text is None else int(text) if text.isdecimal() else text


def report(name: str, right: list[int], counts: list[int]) -> None:
    low, high = wilson_interval(sum(right), sum(counts))
    each = [r / n for r, n in zip(right, counts, strict=True)]
    spread = statistics.stdev(each) if len(each) > 1 else float("nan")
    print(
        f"{name}: {sum(right) / sum(counts):.4f} of {sum(counts)} (95 % interval {low:.4f} to {high:.4f}); "
        f"by speaker {min(each):.4f} to {max(each):.4f}, standard deviation {spread:.4f}"
    )


if __name__ == "__main__":
    main()
