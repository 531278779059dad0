"""Calibration of probabilities: :func:`calibration`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_BINS = 10
_DRAWS = 1000
_MANY = 20_000  # predictions, whose sums are as good as normal


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """How well the probabilities of predictions match their accuracy.

    Attributes:
        counts: Number of predictions per bin, int [bins].
        confidence: Mean probability per bin, NaN for empty ones, float [bins].
        accuracy: Share of correct predictions per bin, NaN for empty ones, float [bins].
        error: Expected calibration error.
        interval: 95 % interval of it.
        brier: Brier score of the predicted label, the mean squared difference between probability and correctness.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float
    interval: tuple[float, float]
    brier: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None for the means of empty bins."""
        found: dict[str, Any] = {**dataclasses.asdict(self), "counts": self.counts.tolist()}
        for name in ("confidence", "accuracy"):
            found[name] = [None if np.isnan(value) else float(value) for value in getattr(self, name)]
        return {**found, "interval": list(self.interval)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Return the calibration from :meth:`to_dict`."""
        bins = {name: np.array(values[name], float) for name in ("confidence", "accuracy")}  # None becomes NaN
        low, high = values["interval"]
        return cls(**{**values, **bins, "counts": np.array(values["counts"]), "interval": (low, high)})


def calibration(confidence: np.ndarray, correct: np.ndarray, *, seed: int = 0) -> Calibration:
    """Compute the expected calibration error of predictions, and its reliability diagram.

    The error is the mean distance between probability and accuracy over ten bins of equal width (Guo et al., "On
    calibration of modern neural networks", 2017; they take 15 bins), weighted by the number of predictions. It is never
    0 on few examples, even for perfect probabilities. The interval is a bootstrap over examples.

    Args:
        confidence: Probability of each predicted label, float [N].
        correct: Whether it is right, bool [N].
        seed: Seed for the bootstrap.

    Returns:
        The calibration.

    Example:
        >>> calibration(np.array([0.9, 0.8]), np.array([True, False])).error
        0.45
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.eye(_BINS)[bins] * (confidence - correct)[:, None]  # [N, bins]; the sum of a bin is its weighted gap
    error = float(np.abs(gaps.sum(axis=0)).sum() / len(bins))
    sums = _bootstrapped_sums(gaps, np.random.default_rng(seed))
    low, high = np.quantile(np.abs(sums).sum(axis=1) / len(bins), (0.025, 0.975)).tolist()
    counts = np.bincount(bins, minlength=_BINS)
    with np.errstate(invalid="ignore"):
        means = (np.bincount(bins, values, _BINS) / counts for values in (confidence, correct))
        mean_confidence, accuracy = means
    brier = float(np.mean((confidence - correct) ** 2))
    return Calibration(counts, mean_confidence, accuracy, error, (min(low, error), max(high, error)), brier)


def _bootstrapped_sums(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the sums of bootstrap samples of rows [N, bins], float [draws, bins]."""
    count = len(rows)
    if count > _MANY:
        spread = count * np.cov(rows, rowvar=False, bias=True)
        return random.multivariate_normal(rows.sum(axis=0), spread, size=_DRAWS, method="eigh")
    return random.multinomial(count, np.full(count, 1 / count), size=_DRAWS) @ rows
