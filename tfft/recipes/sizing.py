"""Search for the batch size with ``batch_size="auto"``: :func:`fitting_batch_size`.

Implementation notes: the trials use the model that the last phase fits, which is smaller if the frozen part is cached.
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

_LEAST_STEPS = 10  # per epoch: with fewer, a schedule has no effect


def fitting_batch_size(
    model: keras.Model, batch: tuple[tf.Tensor, tf.Tensor], phase: Phase, *, examples: int, cached: bool
) -> BatchSize:
    """Find a batch size for a phase by trial.

    Args:
        model: Model, as it will be trained; its microbatch size changes.
        batch: Pair of inputs and labels.
        phase: Phase with the blocks that train.
        examples: Number of examples per epoch; the size leaves at least 10 steps.
        cached: Whether the frozen part runs beforehand.

    Returns:
        The batch size, the trials and the reason.
    """
    unfreeze(model, phase.unfreeze)
    inputs, labels = batch
    if cached:
        try:
            prefix, model = split_frozen(model)
            inputs = prefix(inputs, training=False)
        except BackboneError:  # nothing is frozen, or its output varies: fit the whole model
            pass
    model.compile("adam", **heads.from_model(model).compile_args())
    return find_batch_size(model, (inputs, labels), limit=max(1, examples // _LEAST_STEPS))
