"""Score of each validation example after each epoch: :class:`ExampleScores`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.errors import PlanError
from tfft.training.suffix import TrainableSuffix

_MOST = 20_000  # validation examples, above which the choice of an epoch is hardly optimistic


class ExampleScores:
    """Scores of the validation examples, from which the optimism of choosing an epoch follows.

    Args:
        part: Model and data that a phase fits.
        whole: Whole model, whose head scores examples.

    Example:
        >>> scores = ExampleScores(part, model)
        >>> scores()  # after an epoch
        array([1., 0., 1.], dtype=float32)
    """

    def __init__(self, part: TrainableSuffix, whole: keras.Model) -> None:
        self._part = part
        self._head: heads.Head | None = None
        if part.validation is not None and not tf.distribute.has_strategy():
            try:
                head = heads.from_model(whole)
            except PlanError:  # a model with another head and its own loss
                return
            if type(head).example_scores is heads.Head.example_scores:  # nothing to trace and to run in each epoch
                return
            self._head = head
            model = part.model

            @tf.function(input_signature=[part.validation.element_spec[0]])  # one trace also for a shorter last batch
            def forward(inputs: Any) -> tf.Tensor:
                return model(inputs, training=False)

            self._forward = forward

    def __call__(self) -> np.ndarray | None:
        """Return the score of each validation example, [N]; None if the head has none or there are too many."""
        if self._head is None:
            return None
        found: list[np.ndarray] = []
        for inputs, labels, *_ in self._part.validation or ():
            scores = self._head.example_scores(np.asarray(labels), np.asarray(self._forward(inputs)))
            if scores is None or sum(map(len, found)) > _MOST:
                self._head = None
                return None
            found.append(np.asarray(scores, np.float32))
        return np.concatenate(found)
