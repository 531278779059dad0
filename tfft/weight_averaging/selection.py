"""Comparison of two models by their validation results: :func:`selection_score`.

It selects epochs, WiSE-FT points and soups. The task of the model's head defines the metric, see
:class:`tfft.registry.Metric`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import keras

from tfft import heads
from tfft.errors import PlanError
from tfft.registry import Metric

Score = tuple[float, float]  # the metric, negative where lower is better, then the negative loss: higher is better

ACCURACY = Metric("accuracy")
_WORST: Score = (-math.inf, -math.inf)


def selection_score(logs: Mapping[str, float], metric: Metric = ACCURACY, prefix: str = "") -> Score | None:
    """Return a score for comparing models: a metric if it was measured, then the loss. Higher is better.

    Args:
        logs: Results by name, from ``model.evaluate(..., return_dict=True)`` or the logs of an epoch.
        metric: Metric that decides first; see :func:`measured`.
        prefix: Prefix of the names: ``"val_"`` for logs of an epoch.

    Returns:
        The metric (0 if it was not measured) and the negative loss; the worst possible score if one of them is not
        finite; None without a loss.

    Example:
        >>> selection_score({"loss": 0.5, "accuracy": 0.9}) > selection_score({"loss": 0.1, "accuracy": 0.8})
        True
        >>> error = Metric("error", higher_is_better=False)
        >>> selection_score({"loss": 1.0, "error": 0.2}, error) > selection_score({"loss": 0.1, "error": 0.3}, error)
        True
    """
    loss = logs.get(f"{prefix}loss")
    if loss is None:
        return None
    value = measured(logs, metric.name, prefix) or 0.0
    if not math.isfinite(loss) or not math.isfinite(value):
        return _WORST
    return value if metric.higher_is_better else -value, -float(loss)


def measured(logs: Mapping[str, float], name: str, prefix: str = "") -> float | None:
    """Return the result of a name, else the first one whose name contains it, or None.

    Keras calls the accuracy of classes ``sparse_categorical_accuracy``, unless it is given a name.
    """
    if prefix + name in logs:
        return float(logs[prefix + name])
    return next((float(v) for k, v in logs.items() if k.startswith(prefix) and name in k[len(prefix) :]), None)


def selection_of(model: keras.Model) -> Metric:
    """Return the selection metric of a model: that of its head's task; the accuracy without a head of tfft.

    Args:
        model: Any Keras model.
    """
    try:
        return heads.from_model(model).selection
    except PlanError:
        return ACCURACY
