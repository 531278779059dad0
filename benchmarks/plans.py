"""Which plan is best: accuracy on test examples that no plan has seen, over several seeds, and seconds.

``python benchmarks/plans.py`` takes the digits of scikit-learn (extra ``demo``); ``--photos FOLDER`` adds a folder with
``train/`` and ``val/``, whose ``val/`` is the test set, and ``--sounds FOLDER`` the Free Spoken Digit Dataset, as
spectrograms, with the last speakers as the test set. Of the rest a fifth is held out for choosing epochs. A plan is
compared with the default one seed by seed: the mean difference and its 95 % interval (Student's t over the seeds).
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Sequence

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import common
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table
from scipy import stats

import tfft

Arrays = tuple[np.ndarray, np.ndarray]
PLANS = ("linear_probe", "lp_ft", "gradual", "surgical", "full", "fastai", "bit")
SPEAKERS = ("theo", "yweweler")  # of the spoken digits, for the test


def digits() -> tuple[Arrays, Arrays]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.clip(images.reshape(-1, 8, 8, 1) * 16, 0, 255).repeat(3, -1).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(labels))
    test, rest = order[:360], order[360:]
    return (pixels[rest], labels[rest]), (pixels[test], labels[test])


def photos(folder: pathlib.Path, side: int) -> tuple[Arrays, Arrays]:
    parts = []
    for part in ("train", "val"):
        loaded = keras.utils.image_dataset_from_directory(
            folder / part, label_mode="int", image_size=(side, side), batch_size=None, shuffle=False,
            crop_to_aspect_ratio=True, verbose=False,
        )  # fmt: skip
        images, labels = zip(*loaded.as_numpy_iterator(), strict=True)
        parts.append((np.round(np.stack(images)).astype(np.uint8), np.array(labels)))
    return parts[0], parts[1]


@functools.cache
def mel_weights(side: int) -> tf.Tensor:
    return tf.signal.linear_to_mel_weight_matrix(side, 129, 8000, 60.0, 3800.0)


def spectrogram(path: pathlib.Path, side: int = 64) -> np.ndarray:
    mel = mel_weights(side)
    wave, _ = tf.audio.decode_wav(tf.io.read_file(str(path)), desired_channels=1)
    power = tf.abs(tf.signal.stft(wave[:, 0], 256, 64)) ** 2 @ mel
    level = tf.math.log(power + 1e-6)
    level = (level - tf.reduce_min(level)) / (tf.reduce_max(level) - tf.reduce_min(level))
    image = tf.image.resize(tf.transpose(level)[::-1, :, None], (side, side)) * 255
    return tf.repeat(tf.cast(image, tf.uint8), 3, -1).numpy()


def sounds(folder: pathlib.Path, side: int = 64) -> tuple[Arrays, Arrays]:
    found: dict[bool, list[tuple[np.ndarray, int]]] = {False: [], True: []}
    for path in sorted(folder.glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        found[speaker in SPEAKERS].append((spectrogram(path, side), int(digit)))
    train, test = ((np.stack([x for x, _ in part]), np.array([y for _, y in part])) for part in found.values())
    return train, test


def run(name: str, data: Arrays, test: Arrays, seed: int, settings: dict[str, object]) -> tuple[float, float]:
    """Trains by one plan and returns accuracy on the test examples and seconds, everything counted but loading."""
    special = {"steps": settings["bit_steps"]} if name == "bit" else {}
    quiet, began = io.StringIO(), time.perf_counter()
    with tempfile.TemporaryDirectory() as cache, contextlib.redirect_stdout(quiet):
        done = tfft.finetune(
            common.BACKBONE, data, plan=tfft.plans.named(name, **special), seed=seed, image_size=settings["side"],
            cache=cache, verbose=False,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    logits = done.model.predict(resized(test[0], settings["side"]), batch_size=64, verbose=0)
    keras.backend.clear_session()
    return float(np.mean(logits.argmax(-1) == test[1])), seconds


def resized(images: np.ndarray, side: int) -> np.ndarray:
    if images.shape[1] == side:
        return images
    small = tf.image.resize(images, (side, side), "bilinear")
    return tf.cast(tf.clip_by_value(tf.round(small), 0, 255), tf.uint8).numpy()


def table(title: str, data: Arrays, test: Arrays, plans: Sequence[str], seeds: int, settings: dict) -> None:
    made = Table(title=f"{title}: {len(data[1])} examples, {len(test[1])} for the test, {seeds} seeds, "
                       f"{settings['side']} px", title_justify="left")  # fmt: skip
    for column in ("plan", "test accuracy", "least to most", "against lp_ft (95 %)", "seconds"):
        made.add_column(column, justify="left" if column == "plan" else "right", no_wrap=True)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in plans}
    for seed in range(seeds):  # plans in turn, so that other work on the machine meets them alike
        for name in plans:
            found[name].append(run(name, data, test, seed, settings))
            print(f"{title} {name} seed {seed}: {found[name][-1][0]:.4f}, {found[name][-1][1]:.0f} s", flush=True)
    for name, values in found.items():
        scores = [score for score, _ in values]
        against = "" if name == "lp_ft" or "lp_ft" not in found else versus(scores, [s for s, _ in found["lp_ft"]])
        seconds = statistics.median(second for _, second in values)
        spread = f"{min(scores):.4f} to {max(scores):.4f}"
        made.add_row(name, f"{statistics.mean(scores):.4f}", spread, against, f"{seconds:.0f}")
    Console(width=110).print(made)


def versus(scores: Sequence[float], base: Sequence[float]) -> str:
    gaps = [a - b for a, b in zip(scores, base, strict=True)]
    mean = statistics.mean(gaps)
    if len(gaps) < 2:
        return f"{mean:+.4f}"
    half = stats.t.ppf(0.975, len(gaps) - 1) * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{mean:+.4f} ± {half:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=pathlib.Path, help="folder with train/ and val/")
    parser.add_argument("--sounds", type=pathlib.Path, help="folder of the Free Spoken Digit Dataset")
    parser.add_argument("--no-digits", action="store_true", help="leave the digits of scikit-learn out")
    parser.add_argument("--plans", nargs="+", default=PLANS, choices=tfft.plans.PLAN_NAMES, metavar="PLAN")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--side", type=int, default=128, help="pixels of the photos")
    parser.add_argument("--bit-steps", type=int, default=250, help="of the plan bit, whose rule says 500")
    options = parser.parse_args()
    common.machine()
    sets = {} if options.no_digits else {"digits": (digits(), 64)}
    if options.photos:
        sets[options.photos.name] = (photos(options.photos, options.side), options.side)
    if options.sounds:
        sets["spoken digits"] = (sounds(options.sounds), 64)
    for title, ((data, test), side) in sets.items():
        table(title, data, test, options.plans, options.seeds, {"side": side, "bit_steps": options.bit_steps})


if __name__ == "__main__":
    main()
