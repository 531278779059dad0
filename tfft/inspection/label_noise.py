"""Detection of label noise: :func:`label_candidates`.

Implementation notes: cross-validation predicts each example with a probe that was not trained on it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfft import heads
from tfft.features.linear_probe.out_of_fold import FOLDS, out_of_fold_logits


@dataclasses.dataclass(frozen=True)
class LabelCandidate:
    """Example whose label may be wrong.

    Attributes:
        position: Position of the example.
        label: Its label.
        suggested: Class that the probe predicts.
        probability: Probability of the suggested class.
    """

    position: int
    label: str
    suggested: str
    probability: float


def label_candidates(
    features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], *, seed: int = 0
) -> list[LabelCandidate]:
    """List examples whose label may be wrong, the most doubtful first.

    This is confident learning (Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset
    Labels", 2021): an example is a candidate if another class is as probable for it as that class usually is for its
    own examples. The probabilities come from a linear head on frozen features that was not trained on the example.
    Differences: the strength of the head's penalty is chosen once on all examples; and nothing is removed, only listed,
    since in the authors' tests only about half of the candidates are wrong.

    Args:
        features: Features [N, D], one row per example.
        labels: Integers [N].
        class_names: Class names in the order of the labels.
        seed: Seed for the folds.

    Returns:
        Candidates. None if a class has fewer examples than there are folds (5).

    Example:
        >>> label_candidates(features, labels, ["ant", "bee"])[0].suggested
        'bee'
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < FOLDS:
        return []
    probabilities = out_of_fold(features, labels, class_names, seed)
    usual = np.array([probabilities[labels == k, k].mean() for k in range(len(class_names))])
    passing = np.where(probabilities >= usual, probabilities, 0)
    rows = np.arange(len(labels))
    best = passing.argmax(axis=1)
    doubted = np.flatnonzero((passing[rows, best] > 0) & (best != labels))
    margin = probabilities[doubted, best[doubted]] - probabilities[doubted, labels[doubted]]
    return [
        LabelCandidate(
            int(at),
            class_names[labels[at]],
            class_names[best[at]],
            round(float(probabilities[at, best[at]]), 4),
        )
        for at in doubted[np.argsort(-margin, kind="stable")]
    ]


def out_of_fold(features: np.ndarray, labels: np.ndarray, class_names: Sequence[str], seed: int) -> np.ndarray:
    """Return probabilities [N, K] of linear heads for examples that they were not trained on."""
    logits = out_of_fold_logits(features, labels, heads.classification(list(class_names)), strata=labels, seed=seed)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))
