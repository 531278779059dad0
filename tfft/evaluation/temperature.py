"""Temperature scaling: :func:`calibrate` makes the probabilities of a model match its accuracy.

Implementation notes: logits are changed through kernel and bias of the last layer, so files, exports and phones need no
further operation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.errors import PlanError
from tfft.evaluation.answers import LogitSample, logits_and_labels
from tfft.evaluation.calibration import Calibration, calibration
from tfft.heads.logits import logits_layers

_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures
_SPREAD = 0.5  # standard deviation of the logarithm of the temperature before anything is known
_STEPS = 35  # of the golden section, to 1e-7 of the range
_SHIFT = 1.0  # standard deviation of the bias of a label before anything is known
_ROUNDS, _NEWTON = 20, 8  # of temperature and biases in turn, and steps of Newton's method for the biases
_FOLDS = 5
_LEAST = 50  # examples, below which a temperature says little
_MOST, _LOGITS = 5_000, 1_000_000  # examples, and logits of at least 1,000 examples: more hardly change two numbers


@dataclasses.dataclass(frozen=True, eq=False)
class TemperatureScaling:
    """Result of :func:`calibrate`; ``print`` compares the probabilities before and after.

    Attributes:
        temperature: Number by which logits were divided; above 1 for a model that was too sure.
        bias: Number that was added to the logit of each label afterwards, float [labels]; all 0 for one class per
            example, and where that does not lower the cross-entropy of other examples.
        examples: Number of examples.
        before: Calibration of the model as it was.
        after: Calibration with temperature and biases of other examples (five folds), so that it is not too good.
        loss_before: Mean cross-entropy of the model as it was.
        loss_after: Mean cross-entropy with temperature and biases of other examples.
    """

    temperature: float
    bias: np.ndarray
    examples: int
    before: Calibration
    after: Calibration
    loss_before: float
    loss_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        calibrations = {"before": self.before.to_dict(), "after": self.after.to_dict()}
        return {**dataclasses.asdict(self), "bias": self.bias.tolist(), **calibrations}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TemperatureScaling:
        """Return the scaling from :meth:`to_dict`."""
        calibrations = {name: Calibration.from_dict(values[name]) for name in ("before", "after")}
        return cls(**{**values, "bias": np.array(values["bias"], float), **calibrations})

    @property
    def brief(self) -> str:
        """The change of the logits in one line."""
        also = ", plus a bias per label" if self.bias.any() else ""
        return f"logits divided by {self.temperature:.3g}{also}, fitted to {self.examples} held-out examples"

    def __str__(self) -> str:
        also = f" and a bias per label ({self.bias.min():.2g} to {self.bias.max():.2g})" if self.bias.any() else ""
        return (
            f"temperature {self.temperature:.3g}{also} from {self.examples} examples: expected calibration error "
            f"{_shown(self.before)} before, {_shown(self.after)} after; Brier score {self.before.brier:.4f} and "
            f"{self.after.brier:.4f}, cross-entropy {self.loss_before:.4f} and {self.loss_after:.4f}"
        )


def calibrate(model: keras.Model, dataset: Any, *, seed: int = 0) -> TemperatureScaling:
    """Divide the logits of a model by the temperature that fits held-out examples best.

    Use it after training and before saving or exporting, where probabilities are shown or compared with a threshold.
    With one class per example, the predicted classes stay the same: only their probabilities change. This is
    temperature scaling (Guo et al., "On calibration of modern neural networks", 2017). Differences: a weak prior holds
    the temperature near 1 (its logarithm has a standard deviation of 0.5); and one more example counts as a mistake, as
    in a rule of succession, because held-out examples that selected the epoch show fewer mistakes than new ones.
    Without it, models that make no mistake on few examples become too sure. The scores afterwards are cross-fitted.
    :func:`tfft.finetune` does this at the end of a run.

    With several labels per example, each label also gets a bias (Platt, "Probabilistic outputs for support vector
    machines", 1999, with one slope for all labels), if the cross-fitted cross-entropy is lower with it than without: a
    loss with class weights, or resampled examples, make rare labels look too likely. This may change which
    labels near the threshold are given. The prior of a bias has a standard deviation of 1.

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
    if not can_calibrate(model):
        raise PlanError(
            f"Expected a model with one head for classes to calibrate. Received: {len(logits_layers(model))} of "
            f"{head.task}. Only the probabilities of classes have a temperature."
        )
    logits, labels = logits_and_labels(model, dataset, least=_LEAST, purpose="calibrate on")
    found = fit_temperature(head, logits, labels, seed=seed)
    assert found is not None  # noqa: S101  # head and number of examples were checked above
    scale_logits(model, found)
    return found


def can_calibrate(model: keras.Model) -> bool:
    """Whether a model has one head with probabilities of classes, which a temperature can change."""
    return len(logits_layers(model)) == 1 and has_temperature(heads.from_model(model))


def has_temperature(head: heads.Head) -> bool:
    """Whether a head gives probabilities of classes, which a temperature can change."""
    return head.convex_loss in _LOSSES


def scale_logits(model: keras.Model, scaling: TemperatureScaling) -> None:
    """Divide the logits of a model by a temperature and add the biases, by changing its last layer in place."""
    [layer] = logits_layers(model)
    layer.kernel.assign(layer.kernel / scaling.temperature)
    layer.bias.assign(layer.bias / scaling.temperature + scaling.bias)


def sample_for(head: heads.Head, *, seed: int = 0) -> LogitSample:
    """Return an empty sample for the logits of an evaluation, as large as :func:`fit_temperature` needs it."""
    return LogitSample(head, _most(head), seed=seed)


def _most(head: heads.Head) -> int:
    return min(_MOST, max(1000, _LOGITS // head.units))


def fit_temperature(
    head: heads.Head, logits: np.ndarray, labels: np.ndarray, *, seed: int = 0
) -> TemperatureScaling | None:
    """Fit temperature and biases to logits, as :func:`calibrate` does, without changing a model.

    Args:
        head: Head of the logits.
        logits: Logits of held-out examples, float [N, units].
        labels: Labels as :func:`tfft.evaluation.answers.class_labels` gives them.
        seed: Seed for the folds and the bootstrap of the intervals.

    Returns:
        The scaling; None for a head without classes, or fewer than 50 examples.
    """
    if not has_temperature(head) or len(logits) < _LEAST:
        return None
    losses_of = _LOSSES[head.convex_loss]
    if len(logits) > _most(head):
        rows = np.sort(np.random.default_rng(seed).permutation(len(logits))[: _most(head)])
        logits, labels = logits[rows], labels[rows]

    def temperature_alone(some: np.ndarray, their_labels: np.ndarray) -> tuple[float, np.ndarray]:
        return _fit(some, their_labels, losses_of), np.zeros(head.units)

    fits: list[_Fit] = [temperature_alone]
    if head.convex_loss == "sigmoid" and head.units > 1:
        fits.append(_fit_biases)
    others = [_cross_fitted(fit, logits, labels, seed) for fit in fits]
    best = int(np.argmin([losses_of(each, labels).mean() for each in others]))
    before, after = (calibration(*_decisions(each, labels, head), seed=seed) for each in (logits, others[best]))
    losses, scaled = losses_of(logits, labels), losses_of(others[best], labels)
    temperature, bias = fits[best](logits, labels)
    return TemperatureScaling(
        temperature, bias, len(labels), before, after, float(losses.mean()), float(scaled.mean())
    )  # fmt: skip


# From logits and labels to the temperature and the bias of each label.
_Fit = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]


def _cross_fitted(fit: _Fit, logits: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """Return logits with temperature and biases of the examples in other folds."""
    parts, found = np.random.default_rng(seed).permutation(len(labels)) % _FOLDS, np.empty_like(logits)
    for fold in range(_FOLDS):
        known = parts != fold
        temperature, bias = fit(logits[known], labels[known])
        found[~known] = logits[~known] / temperature + bias
    return found


# From logits and labels to the cross-entropy of each example, float [N].
_Losses = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _softmax_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    odds = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(odds).sum(axis=1)) - odds[np.arange(len(labels)), labels]


def _sigmoid_losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return (np.logaddexp(0, logits) - labels * logits).mean(axis=1)


_LOSSES: dict[str | None, _Losses] = {"softmax": _softmax_losses, "sigmoid": _sigmoid_losses}


def _mistaken(logits: np.ndarray, losses_of: _Losses) -> np.ndarray:
    """Return the labels of plausible mistakes: the second most probable class, or the other decision on each label."""
    if losses_of is _softmax_losses:
        return np.argpartition(logits, -2, axis=1)[:, -2]
    return (logits <= 0).astype(np.float64)


def _fit(logits: np.ndarray, labels: np.ndarray, losses_of: _Losses, bias: np.ndarray | float = 0.0) -> float:
    """Return the most probable temperature, by a golden section over its logarithm.

    One more example counts as a mistake of average confidence.
    """
    mistaken, count = _mistaken(logits, losses_of), len(labels)

    def cost(at: float) -> float:
        cooled = logits / np.exp(at) + bias
        mistake = losses_of(cooled, mistaken).mean()
        return float(losses_of(cooled, labels).mean() + (mistake + (at / _SPREAD) ** 2 / 2) / count)

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


def _fit_biases(logits: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the most probable temperature and biases of several labels: each given the other, in turn.

    The cross-entropy is convex in the inverse temperature and the biases.
    """
    temperature, bias, count = 1.0, np.zeros(logits.shape[1]), len(labels)
    mistaken = _mistaken(logits, _sigmoid_losses)
    for _ in range(_ROUNDS):
        before = temperature
        temperature = _fit(logits, labels, _sigmoid_losses, bias)
        for _ in range(_NEWTON):
            odds = 1 / (1 + np.exp(-(logits / temperature + bias)))
            slope = (odds - labels).mean(axis=0) + ((odds - mistaken).mean(axis=0) + bias / _SHIFT**2) / count
            curvature = (1 + 1 / count) * (odds * (1 - odds)).mean(axis=0) + 1 / _SHIFT**2 / count
            bias = bias - slope / curvature
        if abs(temperature - before) < 1e-6 * before:
            break
    return temperature, bias


def _decisions(logits: np.ndarray, labels: np.ndarray, head: heads.Head) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each decision, and whether it is right; several labels are a decision each."""
    if head.convex_loss == "softmax":
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds.max(axis=1) / odds.sum(axis=1), logits.argmax(axis=1) == labels
    return (1 / (1 + np.exp(-np.abs(logits)))).reshape(-1), ((logits > 0) == (labels > 0.5)).reshape(-1)


def _shown(found: Calibration) -> str:
    return f"{found.error:.4f} ({found.interval[0]:.4f} to {found.interval[1]:.4f})"
