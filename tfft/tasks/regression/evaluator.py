"""Scores for regression."""

from __future__ import annotations

import numpy as np

from tfft.errors import DataError
from tfft.evaluation.scores import Scores, mean_interval
from tfft.heads import Head
from tfft.registry import Evaluator


class RegressionEvaluator(Evaluator):
    """Error sums for regression."""

    def __init__(self, head: Head) -> None:
        self.units, self.values = head.units, 0
        self.absolute, self.absolute_squares, self.squares, self.true, self.true_squares = (0.0,) * 5

    def check(self, labels: np.ndarray) -> None:
        """Raise an error for labels without an output in the head."""
        if labels.size != len(labels) * self.units or not np.isfinite(labels).all():
            raise DataError(f"Expected finite labels [B, {self.units}], one per value of the head; got {labels.shape}.")

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        true, given = (a.reshape(len(labels), -1).astype(np.float64) for a in (labels, logits))
        off = np.abs(given - true)
        self.values += true.size
        self.absolute += float(off.mean(axis=-1).sum())
        self.absolute_squares += float((off.mean(axis=-1) ** 2).sum())
        self.squares += float((off**2).sum())
        self.true += float(true.sum())
        self.true_squares += float((true**2).sum())

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all batches."""
        spread = self.true_squares - self.true**2 / self.values
        low, high = mean_interval(self.absolute, self.absolute_squares, count)
        measures = {
            "mean_absolute_error": self.absolute / count,
            "root_mean_square_error": (self.squares / self.values) ** 0.5,
        }
        if spread > 0:
            measures["r2"] = 1 - self.squares / spread
        return Scores(
            task="regression",
            examples=count,
            loss=loss,
            accuracy=None,
            interval=(max(0.0, low), high),
            metric="mean_absolute_error",
            measures=measures,
        )
