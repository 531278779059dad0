"""Diagnosis of a phase: :func:`audit_phase`, and of a non-finite loss: :func:`diagnose_nan_loss`."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfft.config import Phase
from tfft.errors import AuditError, join_names
from tfft.freezing import Audit, AuditReport
from tfft.training import distribute
from tfft.training.suffix import TrainableSuffix

_NO_GRADIENT = 1e-7  # Adam's epsilon: below it a step is smaller than float32 can show


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
    found = _gradients(part.model, part.dataset, check.unchanged)
    still = [v for v, g in zip(check.unchanged, found, strict=True) if g > _NO_GRADIENT]
    if still:
        raise AuditError(
            f"In phase {phase.name!r} {len(still)} trainable variables have a gradient but did not change: "
            f"{join_names(v.path for v in still)}. Learning rate {phase.learning_rate:g}; did a callback put them back?"
        )
    return report, [f"phase {phase.name!r}: no gradient reaches {join_names(report.trainable_unchanged)}"]


def _gradients(model: keras.Model, dataset: tf.data.Dataset, variables: Sequence[keras.Variable]) -> list[float]:
    inputs, labels = next(iter(dataset))[:2]
    with tf.GradientTape() as tape:
        loss = model.compute_loss(x=inputs, y=labels, y_pred=model(inputs, training=False))
    found = tape.gradient(loss, [distribute.one_copy(v) for v in variables])
    return [0.0 if g is None else float(tf.reduce_max(tf.abs(tf.convert_to_tensor(g)))) for g in found]
