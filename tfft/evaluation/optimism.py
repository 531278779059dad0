"""Optimism of a score on the examples that selected the epoch: :func:`selection_optimism`."""

from __future__ import annotations

import numpy as np


def selection_optimism(scores: np.ndarray, *, draws: int = 500, seed: int = 0) -> float:
    """Estimate how much selecting an epoch inflates its score.

    An out-of-bag bootstrap (Efron & Tibshirani, "Improvements on cross-validation: the .632+ bootstrap method", 1997;
    for the choice among settings, Tsamardinos et al., "Bootstrapping the out-of-sample predictions for efficient and
    accurate cross-validation", 2018): the examples are drawn with replacement, the best epoch is chosen anew on the
    draw, and its score there is compared with that on the examples that were not drawn. Differences: nothing is trained
    again, and ties go to the earliest epoch. In simulations of epochs that are equally good it gives 1.2 to 1.5 times
    the true optimism, and more where they differ, so it is an upper estimate.

    Args:
        scores: Score of each example after each epoch, higher is better, [epochs, examples].
        draws: Number of draws.
        seed: Seed for the draws.

    Returns:
        The optimism in units of the mean score, at least 0; 0 for a single epoch.

    Example:
        >>> selection_optimism(np.random.default_rng(0).random((10, 100)) < 0.9)
        0.05...
    """
    scores = np.asarray(scores, np.float64)
    epochs, count = scores.shape
    if epochs < 2 or count < 2:
        return 0.0
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    drawn = drawn[(drawn == 0).any(axis=1)]
    inside, left = drawn @ scores.T / count, drawn == 0
    outside = left @ scores.T / left.sum(axis=1, keepdims=True)
    best, rows = inside.round(12).argmax(axis=1), np.arange(len(drawn))  # rounding errors decide no tie
    return max(0.0, float((inside[rows, best] - outside[rows, best]).mean()))
