"""Temperature scaling: :func:`calibrate` makes the probabilities of a model match its accuracy.

Implementation notes: logits are divided by the temperature through kernel and bias of the last layer, so files, exports
and phones need no further operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.errors import PlanError
from tfft.evaluation.answers import logits_and_labels
from tfft.evaluation.calibration import Calibration, calibration
from tfft.heads.logits import logits_layers

_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures
_SPREAD = 0.5  # standard deviation of the logarithm of the temperature before anything is known
_STEPS = 50  # of the golden section, to 1e-10 of the range
_FOLDS = 5
_LEAST = 50  # examples, below which a temperature says little


@dataclasses.dataclass(frozen=True, eq=False)
class TemperatureScaling:
    """Result of :func:`calibrate`; ``print`` compares the probabilities before and after.

    Attributes:
        temperature: Number by which logits were divided; above 1 for a model that was too sure, 1 if no temperature
            lowers the cross-entropy of other examples.
        examples: Number of examples.
        before: Calibration of the model as it was.
        after: Calibration with temperatures of other examples (five folds), so that it is not too good.
        loss_before: Mean cross-entropy of the model as it was.
        loss_after: Mean cross-entropy with temperatures of other examples.
    """

    temperature: float
    examples: int
    before: Calibration
    after: Calibration
    loss_before: float
    loss_after: float

    def __str__(self) -> str:
        if self.temperature == 1:
            return (
                f"no temperature improves the probabilities of {self.examples} examples: expected calibration error "
                f"{_shown(self.before)}, Brier score {self.before.brier:.4f}, cross-entropy {self.loss_before:.4f}"
            )
        return (
            f"temperature {self.temperature:.3g} from {self.examples} examples: expected calibration error "
            f"{_shown(self.before)} before, {_shown(self.after)} after; Brier score {self.before.brier:.4f} and "
            f"{self.after.brier:.4f}, cross-entropy {self.loss_before:.4f} and {self.loss_after:.4f}"
        )


def calibrate(model: keras.Model, dataset: Any, *, seed: int = 0) -> TemperatureScaling:
    """Divide the logits of a model by the temperature that fits held-out examples best.

    Use it after training and before saving or exporting, where probabilities are shown or compared with a threshold.
    The predicted classes stay the same: only their probabilities change. This is temperature scaling (Guo et al., "On
    calibration of modern neural networks", 2017). Differences: a weak prior holds the temperature near 1 (its logarithm
    has a standard deviation of 0.5), so that a model without a mistake on few examples does not become certain; the
    scores afterwards are cross-fitted; and if those show no lower cross-entropy, the model stays as it is.

    Args:
        model: Model from :func:`tfft.build` for classes, one per example or several. Changed in place: kernel and bias
            of its layer ``logits``.
        dataset: Examples that the model was not trained on, at least 50, as in :func:`tfft.evaluate`.
        seed: Seed for the folds and the bootstrap of the intervals.

    Returns:
        A :class:`TemperatureScaling`.

    Raises:
        PlanError: If the model has no probabilities, or several heads.
        DataError: If there are fewer than 50 examples, or they cannot be used.

    Example:
        >>> print(tfft.calibrate(model, tfft.data.load("photos/").validation))
        >>> tfft.export(model, "served/2")
    """
    head = heads.from_model(model)
    layers = logits_layers(model)
    if head.convex_loss not in _LOSSES or len(layers) != 1:
        raise PlanError(
            f"Expected a model with one head for classes to calibrate. Received: {len(layers)} of {head.task}. Only "
            "the probabilities of classes have a temperature."
        )
    logits, labels = logits_and_labels(model, dataset, least=_LEAST, purpose="calibrate on")
    loss_of = _LOSSES[head.convex_loss]
    parts = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS
    cooled = np.empty_like(logits)
    for fold in range(_FOLDS):
        known = parts != fold
        cooled[~known] = logits[~known] / _fit(logits[known], labels[known], loss_of)
    (loss_before, before), (loss_after, after) = (
        (loss_of(each, labels), calibration(*_decisions(each, labels, head), seed=seed)) for each in (logits, cooled)
    )
    temperature = _fit(logits, labels, loss_of) if loss_after < loss_before else 1.0
    for variable in (layers[0].kernel, layers[0].bias):
        variable.assign(variable / temperature)
    return TemperatureScaling(temperature, len(labels), before, after, loss_before, loss_after)


def _softmax_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    odds = logits - logits.max(axis=1, keepdims=True)
    right = odds[np.arange(len(labels)), labels] - np.log(np.exp(odds).sum(axis=1))
    return float(-right.mean())


def _sigmoid_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((np.logaddexp(0, logits) - labels * logits).mean())


_LOSSES: dict[str | None, Callable[[np.ndarray, np.ndarray], float]] = {
    "softmax": _softmax_loss, "sigmoid": _sigmoid_loss,
}  # fmt: skip


def _fit(logits: np.ndarray, labels: np.ndarray, loss: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """Return the most probable temperature, by a golden section over its logarithm."""

    def cost(at: float) -> float:
        return loss(logits / np.exp(at), labels) + (at / _SPREAD) ** 2 / 2 / len(labels)

    low, high = np.log(_COLDEST), np.log(_HOTTEST)
    golden = (5**0.5 - 1) / 2
    inner = [high - golden * (high - low), low + golden * (high - low)]
    values = [cost(at) for at in inner]
    for _ in range(_STEPS):
        if values[0] < values[1]:
            high, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = high - golden * (high - low)
            values[0] = cost(inner[0])
        else:
            low, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = low + golden * (high - low)
            values[1] = cost(inner[1])
    return float(np.exp((low + high) / 2))


def _decisions(logits: np.ndarray, labels: np.ndarray, head: heads.Head) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each decision, and whether it is right; several labels are a decision each."""
    if head.convex_loss == "softmax":
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds.max(axis=1) / odds.sum(axis=1), logits.argmax(axis=1) == labels
    return (1 / (1 + np.exp(-np.abs(logits)))).reshape(-1), ((logits > 0) == (labels > 0.5)).reshape(-1)


def _shown(found: Calibration) -> str:
    return f"{found.error:.4f} ({found.interval[0]:.4f} to {found.interval[1]:.4f})"
