"""A batch size for ``batch_size="auto"``: :func:`fitting_batch_size`.

Hides what is tried: what the last phase will fit, which is less than the model where the frozen part is cached.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tfft import heads
from tfft.config import Phase
from tfft.errors import BackboneError
from tfft.features import split_frozen
from tfft.freezing import unfreeze
from tfft.training import BatchSize, find_batch_size

_LEAST_STEPS = 10  # in an epoch: fewer would leave nothing of a schedule


def fitting_batch_size(
    model: keras.Model, batch: tuple[tf.Tensor, tf.Tensor], phase: Phase, *, examples: int, cached: bool
) -> BatchSize:
    """Finds a batch size for a phase by trial.

    Args:
        model: as it will be trained; its slicing is changed.
        batch: some (inputs, labels).
        phase: with the blocks that train.
        examples: that an epoch has; it gets at least 10 steps.
        cached: whether what is frozen runs beforehand.

    Returns:
        The size, the trials and the reason.
    """
    unfreeze(model, phase.unfreeze)
    inputs, labels = batch
    if cached:
        try:
            prefix, model = split_frozen(model)
            inputs = prefix(inputs, training=False)
        except BackboneError:  # nothing is frozen, or it is not constant: the whole model is fitted
            pass
    model.compile("adam", **heads.from_model(model).compile_args())
    return find_batch_size(model, (inputs, labels), limit=max(1, examples // _LEAST_STEPS))
