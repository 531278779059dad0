"""Samples of training examples: :func:`nested_order`."""

from __future__ import annotations

import numpy as np


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
