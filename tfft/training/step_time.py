"""Seconds of a training step on this machine, before anything is trained: :func:`step_time`.

Implementation notes: tracing a step takes far longer than running it (2 to 14 s for the blocks of EfficientNet-Lite0 on
two cores), and ``fit`` would trace it again. So the trial runs eagerly, where forward and backward pass take about as
long as the compiled step with its optimizer, and the time for tracing follows from the time that the eager optimizer
takes for its many small operations. ``python benchmarks/expected_time.py`` compares the result with real runs.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.freezing.weight_values import restored

_LEAST_SHARE = 1 / 8  # of a step on a GPU, after what starting its operations takes
_LONG, _TOO_LONG = 2.0, 6.0  # seconds of a trial that is long enough to tell the rest, and that no other follows
_TRACED = 32  # eager updates of the optimizer in the time that tracing and compiling a step takes


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Expected seconds of training steps.

    Attributes:
        step: Seconds of a step.
        start: Seconds until the first step runs: tracing and compiling.
    """

    step: float
    start: float


def step_time(
    model: keras.Model,
    batch: tuple[Any, Any],
    loss: Callable[[Any, Any], Any],
    optimizer: keras.optimizers.Optimizer,
    batch_size: int,
) -> StepTime:
    """Measure how long a training step takes, and leave the model as it was, bit for bit.

    Args:
        model: Model to fit: a whole one or the trainable suffix; need not be compiled.
        batch: Inputs and labels of a few examples, which are repeated to fill a batch.
        loss: Loss of labels and outputs.
        optimizer: Optimizer, not used for anything else.
        batch_size: Examples per step.

    Returns:
        The seconds of a step and of its tracing.

    Example:
        >>> suffix_time = step_time(suffix, (features, labels), head.loss(), keras.optimizers.Adam(), 32)
    """
    # The first trial takes all given examples: a part of them may be shorter in one input than in another.
    few = min(len(keras.tree.flatten(batch)[0]), batch_size)
    with restored(model):
        _timed(model, _first(batch, few), loss)  # operations and memory are set up in the first pass
        seconds, gradients = _timed(model, _first(batch, few), loss)
        whole = _of_batch(model, batch, loss, batch_size, (few, seconds))
        if few < batch_size and tf.config.list_logical_devices("GPU"):  # which waits for eager operations
            whole = max(whole - seconds, whole * _LEAST_SHARE)
        optimizer.build(model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        began = time.perf_counter()
        optimizer.apply(gradients, model.trainable_variables)
        updating = time.perf_counter() - began
    return StepTime(whole, _TRACED * updating)


def _of_batch(
    model: keras.Model, batch: tuple[Any, Any], loss: Callable[[Any, Any], Any], size: int, known: tuple[int, float]
) -> float:
    """Return the seconds of a batch, given those of a few examples.

    Starting many small operations takes long, and as long for every batch size. So the examples are doubled until they
    take long enough, at least once unless that takes too long, and what is missing follows from the last doubling.
    """
    count, seconds = known
    slope, limit = seconds / count, _TOO_LONG
    while count < size and seconds < limit:
        more = size if slope * size < _LONG else min(2 * count, size)
        took = min(_timed(model, _first(batch, more), loss)[0] for _ in range(2 if seconds < _LONG else 1))
        limit = _LONG
        slope = max(took - seconds, 0.0) / (more - count)
        count, seconds = more, took
    return seconds + slope * (size - count)


def _first(batch: tuple[Any, Any], count: int) -> tuple[Any, Any]:
    """Return a number of examples, repeated where there are fewer."""
    there = len(keras.tree.flatten(batch)[0])
    return keras.tree.map_structure(lambda t: tf.gather(t, np.arange(count) % there), batch)


def _timed(model: keras.Model, batch: tuple[Any, Any], loss: Callable[[Any, Any], Any]) -> tuple[float, list[Any]]:
    """Return the seconds of a forward and a backward pass, and the gradients."""
    inputs, labels = batch
    variables = [v.value for v in model.trainable_variables]
    began = time.perf_counter()
    with tf.GradientTape() as tape:
        value = loss(labels, model(inputs, training=True))
    found = tape.gradient(value, variables)
    pairs = zip(variables, found, strict=True)
    gradients = [tf.zeros_like(v) if g is None else tf.convert_to_tensor(g) for v, g in pairs]
    float(tf.reduce_sum(gradients[0]))  # waits for a GPU
    return time.perf_counter() - began, gradients
