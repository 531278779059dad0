"""Statistics of candidates on the same examples: :func:`paired_difference`, :func:`nested_order`."""

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


def nested_order(strata: np.ndarray | None, count: int, seed: int) -> np.ndarray:
    """Return an order of examples in which every beginning has about the same shares of the strata.

    Args:
        strata: Integer of each example, [N]; None for none.
        count: Number of examples.
        seed: Seed for the order.

    Example:
        >>> np.array([0, 0, 0, 0, 1, 1])[nested_order(np.array([0, 0, 0, 0, 1, 1]), 6, 0)][:3].tolist()
        [0, 1, 0]
    """
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(count)
    if strata is None:
        return shuffled
    when = np.empty(count)
    for stratum in np.unique(strata):
        rows = shuffled[strata[shuffled] == stratum]
        when[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return shuffled[np.argsort(when[shuffled], kind="stable")]
