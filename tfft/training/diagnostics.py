"""Diagnosis of a phase: :func:`audit_phase`, and of a non-finite loss: :func:`diagnose_nan_loss`."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfft.config import Phase
from tfft.errors import AuditError, join_names
from tfft.freezing import Audit, AuditReport
from tfft.freezing.weight_audit import step_shows
from tfft.training import distribute
from tfft.training.suffix import TrainableSuffix

_NO_GRADIENT = 1e-7  # Adam's epsilon: below it a step is smaller than float32 can show
_OF_RATE = ("adam", "adamw", "nadam", "adamax", "lion", "rmsprop")  # a step is about the rate, whatever the gradient


def diagnose_nan_loss(dataset: tf.data.Dataset, phase: Phase) -> str:
    """Find the cause of a NaN loss: non-finite values in the data, otherwise the learning rate."""
    parts: dict[str, int] = {}
    for batch in dataset:
        for name, part in zip(("inputs", "labels"), batch, strict=False):
            for tensor in keras.tree.flatten(part):
                if tensor.dtype.is_floating:
                    bad = int(np.sum(~np.isfinite(np.asarray(tensor, np.float32))))
                    parts[name] = parts.get(name, 0) + bad
    found = [f"{n} values of the {name}" for name, n in parts.items() if n]
    if found:
        return f"Cause: {join_names(found)} are NaN or infinite. Remove those examples."
    return f"The data is finite, so most likely the rate is too high: try {phase.learning_rate / 10:g}."


def audit_phase(check: Audit, part: TrainableSuffix, phase: Phase) -> tuple[AuditReport, list[str]]:
    """Audit a phase; accept an unchanged variable only if it provably has no gradient."""
    report = check.compare()
    if report.ok:
        return report, []
    if report.frozen_moved:
        check.check()
    gradients = _gradients(part.model, part.dataset, check.unchanged)
    found = {v.path: gradient for v, gradient in zip(check.unchanged, gradients, strict=True)}
    pulled = [v for v in check.unchanged if np.max(found[v.path]) > _NO_GRADIENT]
    still = [v for v in pulled if step_shows(v, _steps(found[v.path], phase, _rate_of(part.model, v.path, phase)))]
    if still:
        raise AuditError(
            f"In phase {phase.name!r} {len(still)} trainable variables have a gradient but did not change: "
            f"{join_names(v.path for v in still)}. Learning rate {phase.learning_rate:g}; did a callback restore them?"
        )
    notes, large = [], [v.path for v in pulled]
    if large:
        notes.append(
            f"phase {phase.name!r}: {join_names(large)} did not change: at a learning rate of {phase.learning_rate:g} "
            f"a step is smaller than {pulled[0].dtype} can show there; a higher rate moves them"
        )
    if without := [path for path in found if path not in large]:
        notes.append(f"phase {phase.name!r}: no gradient reaches {join_names(without)}")
    return report, notes


def _rate_of(model: keras.Model, path: str, phase: Phase) -> float:
    factors = getattr(model.optimizer, "factors", {})
    return float(phase.learning_rate * factors.get(path, 1.0))


def _steps(gradient: np.ndarray, phase: Phase, rate: float) -> np.ndarray:
    """Return about how far one step moves each element."""
    if phase.optimizer in _OF_RATE:
        return rate * gradient / (gradient + _NO_GRADIENT)
    limit = phase.global_clipnorm or np.inf
    return rate * np.minimum(gradient, limit if phase.optimizer == "sgd" else 1e-3)


def _gradients(model: keras.Model, dataset: tf.data.Dataset, variables: Sequence[keras.Variable]) -> list[np.ndarray]:
    """Return the absolute gradient of each variable."""
    inputs, labels = next(iter(dataset))[:2]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=inputs, y=labels, y_pred=model(inputs, training=False))
    found = tape.gradient(loss, [distribute.one_copy(v) for v in variables])
    return [np.zeros(1) if g is None else np.abs(np.asarray(tf.convert_to_tensor(g), np.float64)) for g in found]
