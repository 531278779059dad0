"""Evaluation loop: :func:`evaluate`, :func:`evaluate_and_sample`.

Implementation notes: the evaluator of the head's task keeps counts and sums only, so memory does not grow with the
dataset.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.console.profile import stage
from tfft.data.dataset_forms import batches_for
from tfft.errors import DataError, PlanError, TfftError
from tfft.evaluation.answers import LogitSample
from tfft.evaluation.scores import Scores


def evaluate(model: keras.Model, dataset: Any, *, head: heads.Head | None = None) -> Scores:
    """Evaluate a model on labelled examples that it was not trained on.

    Use it on held-out data; it needs no ``compile``.

    Args:
        model: Gives logits (values for regression), as models of :func:`tfft.build` do.
        dataset: Finite, batches of (inputs, labels): int labels [B] for classes (also one-hot [B, classes], [B, 1], or
            names), 0 or 1 for a binary head, floats [B, classes] of 0 and 1 for several labels, floats [B] or [B, n]
            for regression, ints [B, W] for the tags of words, below 0 for padding. Or ``(inputs, labels)`` as arrays
            or lists, or a part of what :func:`tfft.data.load` gives. Sample weights are ignored: every example
            counts once.
        head: Head that defines the outputs. Defaults to that of the model.

    Returns:
        Scores with a 95 % interval, precision and recall per class, and the baseline of always predicting the most
        frequent class. For token classification with ``B-`` and ``I-`` tags, precision, recall and F1 refer to whole
        entities (:func:`tfft.tasks.token_classification.entities`); words beyond the model's limit count with their
        predicted tag, ``"O"``, and ``measures["words_not_seen"]`` is their number.

    Raises:
        DataError: If the dataset is empty, infinite, has labels without a class in the head, or has floating images in
            0 to 1 for a model that takes pixels in 0 to 255.
        TfftError: If the model has no head of tfft and none is given, or returns NaN.

    Example:
        >>> scores = tfft.evaluate(model, validation)
        >>> print(scores.summary)
        accuracy 0.9542 (95 % interval 0.9085 to 0.9776, 153 examples), majority class 0.5425
    """
    return evaluate_and_sample(model, dataset, head=head)


@stage("evaluate")
def evaluate_and_sample(
    model: keras.Model, dataset: Any, *, head: heads.Head | None = None, sample: LogitSample | None = None
) -> Scores:
    """Evaluate a model as :func:`evaluate` does, and add the logits and labels of all examples to a sample.

    Args:
        model: As in :func:`evaluate`.
        dataset: As in :func:`evaluate`.
        head: As in :func:`evaluate`.
        sample: Sample to add to; None for none.

    Returns:
        Scores as in :func:`evaluate`.

    Raises:
        TfftError: As in :func:`evaluate`.
    """
    if not isinstance(model, keras.Model):
        raise PlanError(f"Expected a keras.Model. Received: {type(model).__name__}. A run has one: run.model.")
    head = heads.from_model(model) if head is None else head
    dataset = batches_for(model, head, dataset, measured=True)
    spec = dataset.element_spec
    loss_of = head.loss()

    @tf.function(input_signature=[spec[0], spec[1]])  # one trace also for a shorter last batch
    def forward(inputs: Any, labels: Any) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.cast(model(inputs, training=False), tf.float32)
        # Keras divides a loss by the replicas of the current strategy, also where only one copy computes it.
        return logits, loss_of(labels, logits) * tf.distribute.get_strategy().num_replicas_in_sync

    evaluator = head.definition.evaluator(head)
    count, weighed, loss, bad = 0, 0, 0.0, 0
    for batch in dataset:
        labels = np.asarray(batch[1])
        evaluator.check(labels)
        evaluator.observe(model, batch[0])
        logits, batch_loss = (np.asarray(t) for t in forward(batch[0], batch[1]))
        count += len(labels)
        weight = evaluator.weight(labels, logits)
        weighed += weight
        loss += float(batch_loss) * weight
        bad += int((~np.isfinite(logits)).reshape(len(labels), -1).any(axis=-1).sum())
        evaluator.update(labels, logits)
        if sample is not None:
            sample.add(labels, logits)
    if not count:
        raise DataError("Expected a dataset with examples. Received: an empty one.")
    if bad:
        raise TfftError(
            f"The model gives NaN or infinity for {bad} of {count} examples: its weights or inputs are not finite."
        )
    return evaluator.result(count, loss / max(weighed, 1))
