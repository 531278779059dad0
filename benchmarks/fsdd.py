"""Spoken digits, split by speaker: an image backbone on pictures of the sound, frozen and fine-tuned.

``python benchmarks/fsdd.py FOLDER``: the Free Spoken Digit Dataset, files called ``digit_speaker_number.wav``. Each
speaker is held out once, so no voice is learned from and measured. The epoch is chosen on the held-out voice, though,
which makes the second number too good.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import tempfile
import time

import common

import tfft
from tfft.evaluation import wilson_interval


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--backbone", default=common.BACKBONE)
    parser.add_argument("--image-size", type=int, nargs=2, default=[96, 96])
    parser.add_argument("--speakers", type=int, default=6, help="how many are held out, one after the other")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    common.machine()
    files = sorted(options.folder.glob("*_*_*.wav"))
    speakers = sorted({file.stem.split("_")[1] for file in files})
    print(f"\n{len(files)} recordings of {len(speakers)} speakers; {options.backbone}")
    print(f"{'speaker':10s} {'frozen':>8s} {'fine-tuned':>11s} {'seconds':>8s}")
    right, count, scores = [0, 0], 0, []
    for speaker in speakers[: options.speakers]:
        with tempfile.TemporaryDirectory() as name:
            for file in files:
                digit, who, _ = file.stem.split("_")
                place = pathlib.Path(name, "val" if who == speaker else "train", digit)
                place.mkdir(parents=True, exist_ok=True)
                (place / file.name).symlink_to(file.resolve())
            start = time.perf_counter()
            run = tfft.finetune(
                options.backbone, name, seed=options.seed, image_size=tuple(options.image_size), cache="memory",
                export_to=False, verbose=False,
            )  # fmt: skip
            seconds = time.perf_counter() - start
        pair = run.frozen.accuracy, run.final.accuracy
        scores.append(pair)
        count += run.final.examples
        right = [total + round(one * run.final.examples) for total, one in zip(right, pair, strict=True)]
        print(f"{speaker:10s} {pair[0]:8.4f} {pair[1]:11.4f} {seconds:8.0f}", flush=True)
    for name, values, total in zip(("frozen", "fine-tuned"), zip(*scores, strict=True), right, strict=True):
        low, high = wilson_interval(total, count)
        print(
            f"{name}: {total / count:.4f} of {count} (95 % interval {low:.4f} to {high:.4f}); "
            f"by speaker {min(values):.4f} to {max(values):.4f}, standard deviation {statistics.stdev(values):.4f}"
        )


if __name__ == "__main__":
    main()
