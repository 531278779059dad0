"""Targets of a linear probe: :func:`checked_targets`, :func:`classes_of`."""

from __future__ import annotations

import numpy as np

from tfft import registry
from tfft.data.forms import labels_for
from tfft.errors import DataError, join_names, raise_problems
from tfft.features.linear_probe.objective import blocks
from tfft.heads import Head


def checked_targets(
    features: np.ndarray, labels: np.ndarray, head: Head, what: str, width: int | None = None
) -> np.ndarray:
    """Return int [N] for classification, float [N, units] for the rest; raise all that is wrong."""
    labels = labels_for(head, np.asarray(labels))
    problems = []
    if not isinstance(features, np.ndarray) or features.ndim != 2 or not features.size or features.dtype.kind != "f":
        received = f"{features.dtype} {features.shape}" if isinstance(features, np.ndarray) else type(features).__name__
        problems.append(f"{what} must be an array of floats [N, D], received {received}")
    elif width is not None and features.shape[1] != width:
        problems.append(f"{what} must be [N, {width}] like the training features, received {features.shape}")
    elif bad := _not_finite(features):
        problems.append(f"{what} hold values that are NaN or infinite, in the rows {join_names(bad, limit=5)}")
    single = is_exclusive(head)
    shapes = [(len(features),)] * (single or head.units == 1) + [(len(features), 1 if single else head.units)]
    if labels.shape not in shapes:
        problems.append(f"labels of a {head.task} head must have the shape {shapes[0]}, received {labels.shape}")
    elif not np.all(np.isfinite(labels)):
        problems.append("labels hold values that are NaN or infinite")
    elif head.convex_loss != "squared" and (wrong := _not_labels(labels, head)):
        highest = head.units - 1 if head.convex_loss == "softmax" else 1
        problems.append(f"labels must be integers from 0 to {highest}, received {join_names(wrong, limit=5)}")
    raise_problems(DataError, f"The head cannot be solved on these {what}", problems)
    if head.convex_loss == "softmax":
        return labels.reshape(-1).astype(np.int64)
    return head.scaled(labels.reshape(len(labels), head.units).astype(np.float64))


def _not_finite(features: np.ndarray) -> list[int]:
    bad: list[int] = []
    for part in blocks(*features.shape):
        sums = np.asarray(features[part], np.float64).sum(1)  # of finite floats always finite in float64
        bad += (np.flatnonzero(~np.isfinite(sums)) + part.start).tolist()
    return bad


def _not_labels(labels: np.ndarray, head: Head) -> list[object]:
    top = head.units if head.convex_loss == "softmax" else 2
    return np.unique(labels[(labels < 0) | (labels >= top) | (labels != np.floor(labels))]).tolist()


def classes_of(targets: np.ndarray, head: Head) -> np.ndarray:
    """Return the class of each target, int64 [N]; 0 for targets that are not classes."""
    if is_exclusive(head):
        return targets.reshape(-1).astype(np.int64)
    return np.zeros(len(targets), np.int64)


def is_exclusive(head: Head) -> bool:
    """Whether each example has exactly one class."""
    return registry.task(head.task).exclusive_classes
