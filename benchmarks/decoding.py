"""JPEG files decoded at a fraction of their size against full size: time, difference of the pixels, effect on scores.

``python benchmarks/decoding.py --photos ants_bees``: the photos are enlarged to several sizes, with noise as that of a
camera, so that there is detail to lose. For each size: milliseconds of one processor to decode and resize an image, the
two ways in turn, and the difference of the pixels. For ``--side``: accuracy of the linear probe with either way on the
same held-out photos, with the interval of the difference (paired bootstrap), and the seconds of the whole run after the
data was checked once.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import pathlib
import statistics
import tempfile
import time

import common
import numpy as np
import tensorflow as tf
from PIL import Image

import tfft
from tfft.modalities.image.decode import decode_image
from tfft.specs import InputSpec

FULL = InputSpec(224, 224)
DOWNSCALED = dataclasses.replace(FULL, downscaled_decoding=True)
SIDES = (640, 1920, 3000, 4000)
_REPEATS = 5


def enlarge(path: pathlib.Path, target: pathlib.Path, side: int, noise: float, random: np.random.Generator) -> None:
    """Write a photo with another longer side and noise."""
    picture = Image.open(path).convert("RGB")
    scale = side / max(picture.size)
    size = tuple(round(edge * scale) for edge in picture.size)
    pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + random.normal(0, noise, pixels.shape).astype(np.float32)
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(target, quality=90)


def decoded(files: list[bytes], spec: InputSpec) -> tuple[np.ndarray, float]:
    """Return pixels, and the milliseconds of a processor for each image."""
    dataset = tf.data.Dataset.from_tensor_slices(files).map(lambda one: decode_image(one, spec), num_parallel_calls=1)
    pixels = np.stack([one.numpy() for one in dataset])
    repeated, count = dataset.repeat(_REPEATS), 0
    for _ in repeated:
        count += 1
        if count == 1:  # what a dataset does before its first element would be a large part of the time
            began = time.process_time()
    return pixels.astype(np.int32), 1000 * (time.process_time() - began) / (count - 1)


def speed(photos: list[pathlib.Path], noise: float, rounds: int) -> None:
    """Print time and difference for several sizes."""
    print("longer side   full ms   downscaled ms   ratio   mean difference   largest")
    for side in SIDES:
        with tempfile.TemporaryDirectory() as place:
            files = []
            for number, path in enumerate(photos):
                enlarge(path, pathlib.Path(place, f"{number}.jpg"), side, noise, np.random.default_rng(number))
                files.append(pathlib.Path(place, f"{number}.jpg").read_bytes())
            times: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(rounds):
                full, one = decoded(files, FULL)
                small, other = decoded(files, DOWNSCALED)
                times[True].append(one)
                times[False].append(other)
        a, b = (statistics.median(times[key]) for key in (True, False))
        gap = np.abs(full - small)
        print(f"{side:>11}{a:>10.1f}{b:>16.1f}{a / b:>8.2f}{gap.mean():>18.2f}{gap.max():>10}", flush=True)


def photos_in(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))


def scores(folder: pathlib.Path, side: int, noise: float, per_class: int) -> None:
    """Print the accuracy of the linear probe either way."""
    with tempfile.TemporaryDirectory() as place:
        written: collections.Counter[pathlib.Path] = collections.Counter()
        for number, path in enumerate(photos_in(folder)):
            target = pathlib.Path(place, "photos", path.relative_to(folder)).with_suffix(".jpg")
            if written[path.parent] < per_class:
                enlarge(path, target, side, noise, np.random.default_rng(number))
                written[path.parent] += 1
        tfft.check(pathlib.Path(place, "photos"))  # what it reads is kept
        right = {}
        for full in (True, False):
            began = time.perf_counter()
            run = tfft.finetune(
                common.BACKBONE, pathlib.Path(place, "photos"), plan="linear_probe", full_decoding=full,
                cache="memory", verbose=False,
            )  # fmt: skip
            seconds = time.perf_counter() - began
            examples = tfft.data.load(pathlib.Path(place, "photos")).validation
            logits = run.model.predict(
                tfft.data.to_dataset(examples, run.model.get_layer("preprocess").spec), verbose=0
            )
            right[full] = logits.argmax(axis=1) == examples.labels
            name = "full size" if full else "downscaled"
            print(f"{name:>10}: accuracy {right[full].mean():.4f} of {len(right[full])}, {seconds:.0f} s", flush=True)
    change = right[False].astype(float) - right[True]
    draws = np.random.default_rng(0).choice(change, (10_000, len(change))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    print(f"difference {change.mean():+.4f} (95 % interval {low:+.4f} to {high:+.4f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos",
        type=pathlib.Path,
        required=True,
        help="folder with one folder per class, or with train/ and val/ of these",
    )
    parser.add_argument("--count", type=int, default=12, help="photos for the times")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=3.0, help="standard deviation of the noise, in levels")
    parser.add_argument("--per-class", type=int, default=1000, help="at most so many photos of a class for the scores")
    parser.add_argument("--no-speed", action="store_true", help="the scores alone")
    parser.add_argument("--side", type=int, default=3000, help="longer side of the photos for the scores")
    options = parser.parse_args()
    common.machine()
    photos = photos_in(options.photos)
    if not options.no_speed:
        speed(photos[:: max(1, len(photos) // options.count)][: options.count], options.noise, options.rounds)
    scores(options.photos, options.side, options.noise, options.per_class)


if __name__ == "__main__":
    main()
