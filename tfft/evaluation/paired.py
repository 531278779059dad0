"""Differences of scores on the same examples: :func:`paired_difference`."""

from __future__ import annotations

import dataclasses
import statistics

import numpy as np

_LEVEL = 0.05  # two-sided


@dataclasses.dataclass(frozen=True)
class Difference:
    """Difference of two mean scores on the same examples.

    Attributes:
        mean: Mean score of the one minus that of the other.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Format the difference with its interval, such as ``-0.0120 (-0.0310 to +0.0050)``."""
        return f"{self.mean:+.4f} ({self.low:+.4f} to {self.high:+.4f})"

    def __neg__(self) -> Difference:
        """Return the difference the other way round."""
        return Difference(-self.mean, -self.high, -self.low)


def paired_difference(scores: np.ndarray, others: np.ndarray, comparisons: int = 1) -> Difference:
    """Return the mean difference of scores on the same examples, with a 95 % interval.

    The interval is that of Agresti and Min ("Simple improved confidence intervals for comparing matched proportions",
    2005): two examples are added, half of one at each end of the observed range and one without a difference, so that a
    few right answers more do not look certain. With scores of 0 and 1 it is theirs; other scores are treated alike.

    Args:
        scores: Score of each example, [N].
        others: Scores of the other candidate, [N].
        comparisons: Number of comparisons among which the error of 5 % is divided (Bonferroni).

    Example:
        >>> paired_difference(np.array([1.0, 1, 1, 0]), np.array([1.0, 0, 1, 0])).mean
        0.25
    """
    gains = np.asarray(scores, np.float64) - np.asarray(others, np.float64)
    count, largest = len(gains) + 2, float(np.abs(gains).max(initial=0.0))
    middle = float(gains.sum()) / count
    variance = (float((gains**2).sum()) + largest**2) / count - middle**2
    reach = statistics.NormalDist().inv_cdf(1 - _LEVEL / 2 / max(comparisons, 1)) * (max(variance, 0.0) / count) ** 0.5
    return Difference(float(gains.mean()), middle - reach, middle + reach)
