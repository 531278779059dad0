"""How well a frozen backbone fits some data, before a plan is made: :func:`fit_of`.

Hides that nothing is computed twice: the features are those that the first phase solves its head on, from the cache.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.features import fit_linear_probe, split_head
from tfft.recipes.run_data import RunData
from tfft.training import FeatureSource


def fit_of(
    model: keras.Model, data: RunData, source: FeatureSource, *, seed: int, verbose: bool, grouped: bool = False
) -> float | None:
    """Measures a linear head on the features of a frozen backbone, by cross-validation on the training examples.

    Args:
        model: the backbone with a head for the classes; not changed.
        data: that the counts of the classes are of.
        source: the same examples.
        seed: of the folds.
        verbose: print what is computed.
        grouped: True where the held-out examples are of other groups, such as speakers: the folds do not know the
            groups, and a head that knows the voices looks better than it is. Then the held-out examples, which are
            of other groups, are looked at too, and the lower of the two counts.

    Returns:
        Where the accuracy lies between that of naming the commonest class (0) and all right (1); None where no
        examples can be held out.
    """
    prefix, _ = split_head(model)
    train, held_out = source.extract(prefix, verbose, varied=False)
    labels: Any = train.labels  # where there are none, solving says so
    solved = fit_linear_probe(np.asarray(train.arrays), labels, heads.from_model(model), seed=seed)
    if solved.best is None or solved.best.accuracy is None:
        return None
    accuracy = solved.best.accuracy
    if grouped and held_out is not None:
        logits = np.asarray(held_out.arrays) @ solved.kernel + solved.bias
        accuracy = min(accuracy, float((logits.argmax(axis=-1) == held_out.labels).mean()))
    commonest = max(data.counts) / sum(data.counts)
    return (accuracy - commonest) / (1 - commonest)
