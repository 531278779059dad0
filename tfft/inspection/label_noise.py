"""Labels that may be wrong: :func:`label_candidates`.

Hides the probe that every example is judged by without having been learned from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfft import heads
from tfft.data.split import folds
from tfft.features import fit_linear_probe

_FOLDS = 5


@dataclasses.dataclass(frozen=True)
class LabelCandidate:
    """An example whose label a probe doubts.

    Attributes:
        position: of the example.
        label: that it has.
        suggested: that the probe takes it for.
        probability: of the suggested class.
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
    Labels", 2021): an example is doubted where another class is as probable for it as that class usually is for its own
    examples. The probabilities come from a linear head on frozen features that has not seen the example. Where we
    differ: the strength of the head's penalty is chosen once on all examples; and nothing is removed, only listed,
    since in tests of the authors only about half of what is doubted is wrong.

    Args:
        features: [N, D], one row for each example.
        labels: whole numbers [N].
        class_names: in the order of the labels.
        seed: of the folds.

    Returns:
        Candidates. None where a class has fewer examples than there are folds (5).

    Example:
        >>> label_candidates(features, labels, ["ant", "bee"])[0].suggested
        'bee'
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.min() < _FOLDS:
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
    """Return probabilities [N, K] of a linear head for examples that it was not solved on."""
    head = heads.classification(list(class_names))
    strength = fit_linear_probe(features, labels, head, seed=seed).l2
    part = folds([str(i) for i in range(len(labels))], _FOLDS, seed, labels=labels)
    found = np.zeros((len(labels), len(class_names)))
    for fold in range(_FOLDS):
        solved = fit_linear_probe(features[part != fold], labels[part != fold], head, l2=strength, seed=seed)
        logits = features[part == fold] @ solved.kernel + solved.bias
        logits -= logits.max(axis=1, keepdims=True)
        odds = np.exp(logits)
        found[part == fold] = odds / odds.sum(axis=1, keepdims=True)
    return found
