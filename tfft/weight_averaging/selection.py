"""Which of two models is better by what validation measured: :func:`rank_of`.

Hides the order in which measurements count, so that all of tfft chooses in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

Rank = tuple[float, float]  # accuracy, then negative loss: higher is better

_WORST: Rank = (-math.inf, -math.inf)


def rank_of(logs: Mapping[str, float], prefix: str = "") -> Rank | None:
    """Returns how good a model is: by its accuracy where there is one, then by its loss. Higher is better.

    Args:
        logs: results by name, as ``model.evaluate(..., return_dict=True)`` gives them, or logs of an epoch.
        prefix: of the names that count: ``"val_"`` for logs of an epoch.

    Returns:
        Accuracy (0 without one) and negative loss; the worst there is where the loss is no finite number;
        None without a loss.

    Example:
        >>> rank_of({"loss": 0.5, "accuracy": 0.9}) > rank_of({"loss": 0.1, "accuracy": 0.8})
        True
    """
    loss = logs.get(f"{prefix}loss")
    if loss is None:
        return None
    if not math.isfinite(loss):
        return _WORST
    return accuracy_of(logs, prefix) or 0.0, -float(loss)


def accuracy_of(logs: Mapping[str, float], prefix: str = "") -> float | None:
    """Returns the first result whose name speaks of accuracy, or None."""
    return next((float(v) for k, v in logs.items() if k.startswith(prefix) and "accuracy" in k), None)
