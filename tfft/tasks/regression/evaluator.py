"""Scores for regression."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfft.errors import DataError
from tfft.evaluation.scores import Scores, mean_interval, names_of_units
from tfft.heads import Head
from tfft.registry import Evaluator
from tfft.tasks.regression import MEAN_BASELINE, MEDIAN_BASELINE, RMSE_BASELINE


class RegressionEvaluator(Evaluator):
    """Sums for numbers; each sum has one number for each value of the head."""

    def __init__(self, head: Head) -> None:
        self.head: Any = head
        self.units = head.units
        self.examples, self.errors, self.error_squares = 0, 0.0, 0.0
        self.absolute, self.squares, self.true, self.true_squares = (np.zeros(head.units) for _ in range(4))
        self.from_mean, self.from_median, self.mean_squares = (np.zeros(head.units) for _ in range(3))
        self.first: np.ndarray | None = None  # sums of squares are of what is over it, or they would lose all digits

    def check(self, labels: np.ndarray) -> None:
        """Raise an error for labels without an output in the head."""
        if labels.size != len(labels) * self.units or not np.isfinite(labels).all():
            raise DataError(f"Expected finite labels [B, {self.units}], one per output. Received: {labels.shape}.")

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        true, given = (a.reshape(len(labels), -1).astype(np.float64) for a in (labels, logits))
        off = np.abs(given - true)
        self.first = true[0] if self.first is None else self.first
        self.examples += len(true)
        self.errors += float(off.mean(axis=-1).sum())
        self.error_squares += float((off.mean(axis=-1) ** 2).sum())
        self.absolute += off.sum(axis=0)
        self.squares += (off**2).sum(axis=0)
        self.true += (true - self.first).sum(axis=0)
        self.true_squares += ((true - self.first) ** 2).sum(axis=0)
        if getattr(self.head, "means", None) is not None:
            self.from_mean += np.abs(true - self.head.means).sum(axis=0)
            self.mean_squares += ((true - self.head.means) ** 2).sum(axis=0)
            self.from_median += np.abs(true - self.head.medians).sum(axis=0)

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all batches."""
        low, high = mean_interval(self.errors, self.error_squares, count)
        measures = {
            "mean_absolute_error": self.errors / count,
            "root_mean_square_error": float(np.sqrt(self.squares.mean() / count)),
        }
        spread = self.true_squares - self.true**2 / count
        if (spread > 0).all():
            measures["r2"] = float(np.mean(1 - self.squares / spread))
        if getattr(self.head, "means", None) is not None:
            measures[MEAN_BASELINE] = float(self.from_mean.mean() / count)
            measures[MEDIAN_BASELINE] = float(self.from_median.mean() / count)
            measures[RMSE_BASELINE] = float(np.sqrt(self.mean_squares.mean() / count))
        if self.units > 1:
            measures |= self._of_each(count)
        return Scores(
            task="regression",
            examples=count,
            loss=loss,
            accuracy=None,
            interval=(max(0.0, low), high),
            metric="mean_absolute_error",
            measures=measures,
        )

    def _of_each(self, count: int) -> dict[str, float]:
        """Return the error of each value: one mean over values in metres and in grams says little."""
        found = {}
        for unit, name in enumerate(names_of_units(self.head.class_names, self.units)):
            found[f"mean_absolute_error of {name}"] = float(self.absolute[unit] / count)
            if getattr(self.head, "means", None) is not None:
                found[f"{MEDIAN_BASELINE} of {name}"] = float(self.from_median[unit] / count)
        return found
