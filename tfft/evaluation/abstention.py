"""Accuracy of a classifier that abstains where it is uncertain: :func:`coverage_curve`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfft.evaluation.scores import wilson_interval

_SHARES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Answers with at least a certain probability.

    Attributes:
        threshold: Lowest probability of an answer, 0 to 1.
        coverage: Share of the examples that get an answer, 0 to 1.
        accuracy: Share of these answers that are right, 0 to 1.
        interval: 95 % interval of it, by Wilson.
        answers: Number of answers.
    """

    threshold: float
    coverage: float
    accuracy: float
    interval: tuple[float, float]
    answers: int


def coverage_curve(
    confidence: np.ndarray, correct: np.ndarray, *, shares: Sequence[float] = _SHARES
) -> tuple[Coverage, ...]:
    """Return the accuracy of predictions above thresholds of their probability.

    Use it to choose the probability below which a person decides instead of the model: the risk-coverage curve
    of El-Yaniv and Wiener, "On the foundations of noise-free selective classification", 2010. Examples of equal
    probability are answered together, so a coverage may be larger than the share asked for. A threshold that is chosen
    here makes its accuracy look slightly better than it is.

    Args:
        confidence: Probability of each predicted label, float [N].
        correct: Whether it is right, bool [N].
        shares: Shares of the examples to answer, over 0 to 1.

    Returns:
        One row for each share, without repetitions, the largest coverage first.

    Example:
        >>> coverage_curve(np.array([0.9, 0.6]), np.array([True, False]), shares=(1.0, 0.5))[1].accuracy
        1.0
    """
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, bool)
    falling = np.sort(confidence)[::-1]
    thresholds = dict.fromkeys(float(falling[max(round(share * len(falling)), 1) - 1]) for share in shares)
    rows = []
    for threshold in sorted(thresholds):
        answered = confidence >= threshold
        right, total = int(correct[answered].sum()), int(answered.sum())
        rows.append(Coverage(threshold, total / len(confidence), right / total, wilson_interval(right, total), total))
    return tuple(rows)
