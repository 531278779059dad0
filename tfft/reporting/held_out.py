"""Predictions of a run on its held-out examples: :func:`held_out_results`."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads, registry
from tfft.data import BatchOptions
from tfft.errors import BackboneError, PlanError, TfftError
from tfft.evaluation.answers import class_labels
from tfft.evaluation.temperature import TemperatureScaling, fit_temperature, has_temperature
from tfft.features import split_head
from tfft.recipes import Run
from tfft.recipes.labelled import labelled_examples


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out examples with their predictions.

    Attributes:
        results: One result per example; empty if the task shows none.
        names: Name of each example: a path, or a text.
        note: Reason why there are no results; empty if there are.
        sections: Further sections of the task.
        features: Features in front of the head, [N, width]; None if the model has not one vector for each example.
        scaling: Temperature scaling that fits the examples; None for a task without probabilities of classes, or too
            few examples.
    """

    results: tuple[registry.ExampleResult, ...] = ()
    names: tuple[str, ...] = ()
    note: str = ""
    sections: tuple[registry.ReportSection, ...] = ()
    features: np.ndarray | None = None
    scaling: TemperatureScaling | None = None

    @functools.cached_property
    def ranked(self) -> list[tuple[str, registry.ExampleResult]]:
        """Names and results, the largest error first."""
        return sorted(zip(self.names, self.results, strict=True), key=lambda pair: -pair[1].error)


def held_out_results(run: Run, *, batch_size: int = 32) -> HeldOut:
    """Predict for the held-out examples of a run.

    Args:
        run: Run with a folder, whose plan names the data.
        batch_size: Examples per step.

    Returns:
        The results, or a note if the data is gone or the task shows no single examples.
    """
    head = heads.from_model(run.model)
    task = head.definition
    builder = task.report_builder(head)
    shows_results = type(task).example_results is not registry.Task.example_results
    if builder is None and not shows_results:
        return HeldOut(note=f"Single predictions are not shown for the task {head.task!r}.")
    if not os.path.exists(run.plan.data):
        return HeldOut(note=f"Single predictions need the data of the run, and {run.plan.data} does not exist here.")
    try:
        examples, spec, _, _ = labelled_examples(run, run.plan.data)
    except TfftError as error:
        return HeldOut(note=f"Single predictions need the data of the run: {error}")
    if (lengths := examples.lengths) is not None:
        examples = examples.take(np.argsort(lengths, kind="stable"))  # the order of batches of similar length
    answer = _answer(run.model)
    rows: list[registry.ExampleResult] = []
    features: list[np.ndarray] = []
    answers: list[tuple[np.ndarray, np.ndarray]] = []
    done = 0
    for inputs, labels, *_ in examples.evaluation_batches(spec, BatchOptions(batch_size, cache=False)):
        (vectors, logits), labels = answer(inputs), labels.numpy()
        if vectors is not None:
            features.append(vectors.numpy())
        if builder is not None:
            builder.add(examples.captions[done : done + len(labels)], labels, logits.numpy())
        if shows_results:
            outputs = {name: value.numpy() for name, value in head.postprocess(logits).items()}
            rows += task.example_results(head, outputs, labels) or []
        if has_temperature(head):
            answers.append((logits.numpy(), labels))
        done += len(labels)
    sections = () if builder is None else tuple(builder.sections())
    return HeldOut(
        tuple(rows), examples.captions, sections=sections, features=np.concatenate(features) if features else None,
        scaling=_scaling(head, answers),
    )  # fmt: skip


def _scaling(head: heads.Head, answers: Sequence[tuple[np.ndarray, np.ndarray]]) -> TemperatureScaling | None:
    if not answers:
        return None
    logits, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    logits = logits.astype(np.float64)
    return fit_temperature(head, logits, class_labels(head, logits, labels))


def _answer(model: keras.Model) -> Any:
    """Return a function from inputs to the features in front of the head, [B, width] or None, and the logits."""
    try:
        prefix, suffix = split_head(model)
    except (PlanError, BackboneError, StopIteration):  # another head, or a model that is not functional
        prefix = None
    if prefix is None or len(prefix.outputs) != 1 or len(prefix.outputs[0].shape) != 2:
        return tf.function(lambda inputs: (None, model(inputs, training=False)), reduce_retracing=True)

    def both(inputs: Any) -> tuple[tf.Tensor, tf.Tensor]:
        features = prefix(inputs, training=False)
        return features, suffix(features, training=False)

    return tf.function(both, reduce_retracing=True)
