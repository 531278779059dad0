"""Predictions of linear probes: :func:`out_of_fold_logits`, :func:`probe_logits`."""

from __future__ import annotations

import numpy as np

from tfft.data.split import folds
from tfft.features.linear_probe.solver import Solved, fit_linear_probe
from tfft.heads import Head

FOLDS = 5


def out_of_fold_logits(
    features: np.ndarray,
    labels: np.ndarray,
    head: Head,
    *,
    strata: np.ndarray | None = None,
    groups: list[str] | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return logits of each example from a linear probe that was trained on other examples.

    The strength of the penalty is chosen once on all examples, which is the same advantage for every backbone.

    Args:
        features: Features [N, D].
        labels: Labels as in :func:`tfft.features.fit_linear_probe`, [N] or [N, units].
        head: Head of the labels.
        strata: Integers [N] that each fold has in the same shares; None for none. Every stratum needs 5 examples.
        groups: Group names [N], such as speakers, none of which is divided; None for none.
        seed: Seed for the folds.

    Returns:
        Float [N, units].

    Raises:
        DataError: If a stratum has fewer than 5 examples, or there are fewer than 5 groups.

    Example:
        >>> logits = out_of_fold_logits(features, labels, tfft.heads.classification(["ant", "bee"]), strata=labels)
        >>> float((logits.argmax(axis=1) == labels).mean())
        0.93
    """
    labels = np.asarray(labels)
    strength = fit_linear_probe(features, labels, head, seed=seed).l2
    part = folds([str(i) for i in range(len(labels))], FOLDS, seed, labels=strata, groups=groups)
    found = np.zeros((len(labels), head.units))
    for fold in range(FOLDS):
        solved = fit_linear_probe(features[part != fold], labels[part != fold], head, l2=strength, seed=seed)
        found[part == fold] = probe_logits(solved, features[part == fold], head)
    return found


def probe_logits(solved: Solved, features: np.ndarray, head: Head) -> np.ndarray:
    """Return the outputs of a model with a solved head for features, [N, units], in the units of the labels."""
    return np.asarray(head.to_units(features @ solved.kernel + solved.bias))
