"""Cross-validated linear probe that shows how well a frozen backbone fits the data: :func:`fit_of`.

Implementation notes: nothing is computed twice; the probe reads the cached features that the first phase uses.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.evaluation.scores import wilson_interval
from tfft.features import fit_linear_probe, split_head
from tfft.recipes.run_data import RunData
from tfft.training import FeatureSource


def fit_of(
    model: keras.Model, data: RunData, source: FeatureSource, *, seed: int, verbose: int, grouped: bool = False
) -> tuple[float, float] | None:
    """Measure a linear head on frozen features, by cross-validation on the training examples.

    If it makes no mistake there, but some on the held-out examples, that counts as one mistake.

    Args:
        model: Backbone with a head for the classes; not changed.
        data: Data with the class counts.
        source: Source of the same examples' features.
        seed: Seed for the folds.
        verbose: As in :func:`tfft.features.extract`.
        grouped: Whether the held-out examples are of other groups, such as speakers. The folds ignore groups, so a head
            that recognizes voices scores too high; with ``grouped``, the head is also measured on the held-out
            examples, and the lower score counts.

    Returns:
        Accuracy, scaled so that predicting the most frequent class is 0 and a perfect score is 1, and the upper end of
        its 95 % interval; None if no examples can be held out.
    """
    prefix, _ = split_head(model)
    train, held_out = source.extract(prefix, verbose, varied=False)
    labels: Any = train.labels  # without labels, solving raises the error
    solved = fit_linear_probe(np.asarray(train.arrays), labels, heads.from_model(model), seed=seed)
    if solved.best is None or solved.best.accuracy is None:
        return None
    accuracy, count = solved.best.accuracy, len(labels)
    if held_out is not None and (grouped or accuracy == 1):
        logits = np.asarray(held_out.arrays) @ solved.kernel + solved.bias
        right = logits.argmax(axis=-1) == held_out.labels
        if grouped and right.mean() < accuracy:
            accuracy, count = float(right.mean()), len(logits)
        elif not right.all():
            accuracy = min(accuracy, 1 - 1 / count)
    majority = max(data.counts) / sum(data.counts)
    _, high = wilson_interval(accuracy * count, count)
    return (accuracy - majority) / (1 - majority), (high - majority) / (1 - majority)
