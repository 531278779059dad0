"""Compares an opened model with the SavedModel it came from, on a small random batch.

Outputs must agree, else the model is used uncut or not at all. Gradients must agree where the
SavedModel had custom ones, which opening replaces by the plain derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.errors import SavedModelError

TOLERANCE = 1e-5  # of outputs, relative to the largest one where that is above 1
_GRADIENT_TOLERANCE = 1e-2  # honest custom gradients differ by rounding, 1e-6; others by their very size
_SIDE, _LENGTH, _SAMPLES = 96, 8, 16_000  # some image models fail below 75 pixels, some audio models below a second


def sample_batch(specs: Sequence[tf.TensorSpec]) -> list[tf.Tensor]:
    """Returns random inputs for a function: two examples, unknown sides and lengths chosen small.

    Raises:
        SavedModelError: when an input has no rank.
    """
    random = np.random.default_rng(0)
    batch = []
    for spec in specs:
        if spec.shape.rank is None:
            raise SavedModelError("An input of the model has no rank, so it cannot become a Keras input.")
        shape = [n if n is not None else _unknown(spec, i) for i, n in enumerate(spec.shape.as_list())]
        if spec.dtype == tf.string:
            values = np.resize(np.array([b"a", b"two words"], dtype=object), shape)
        elif spec.dtype.is_floating:
            values = random.random(shape)
        else:
            values = random.integers(0, 2, shape)
        batch.append(tf.constant(values, spec.dtype))
    return batch


def _unknown(spec: tf.TensorSpec, axis: int) -> int:
    rank = spec.shape.rank
    if rank == 2 and axis == 1 and spec.dtype.is_floating:
        return _SAMPLES  # features have a known width; what is open is time
    if axis == 0:
        return _SAMPLES if rank == 1 and spec.dtype.is_floating else 2
    return _SIDE if rank == 4 or (rank == 5 and axis > 1) else _LENGTH


def largest_difference(ours: Any, reference: Any) -> tuple[float, float]:
    """Returns the largest difference of two outputs and the largest that is accepted."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    limit = TOLERANCE * max(1.0, float(np.max(np.abs(reference), initial=0.0)))
    difference = float(np.max(np.abs(ours - reference), initial=0.0))
    return (difference if np.isfinite(difference) else float("inf")), limit


def gradient_difference(
    original: Callable[[], tf.Tensor],
    original_variables: Sequence[tf.Variable],
    opened: Callable[[], tf.Tensor],
    opened_variables: Sequence[tf.Variable],
) -> float | None:
    """Compares the gradients of two functions that should compute the same.

    Args:
        original: the SavedModel on a fixed batch.
        original_variables: its variables.
        opened: the opened model on the same batch.
        opened_variables: the variables that correspond, in the same order.

    Returns:
        The largest relative difference over the variables; None where the SavedModel itself cannot be
        differentiated, because it was saved without its custom gradients.
    """
    try:
        theirs = _gradients(original, original_variables)
    except (LookupError, ValueError, tf.errors.OpError):
        return None
    ours = _gradients(opened, opened_variables)
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]
    return max((float(tf.norm(a - b) / (tf.norm(a) + 1e-6)) for a, b in pairs), default=0.0)


def differentiable(run: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]) -> bool:
    """Tells whether TensorFlow can differentiate a function by its variables, as ``fit`` will."""
    try:
        _gradients(run, variables)
    except Exception:  # it raises a dozen classes, plain assertions among them, where an operation has no gradient
        return False
    return True


def gradients_agree(difference: float | None) -> bool:
    """Tells whether a difference of gradients is rounding."""
    return difference is None or difference <= _GRADIENT_TOLERANCE


def _gradients(run: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]) -> list[tf.Tensor | None]:
    with tf.GradientTape() as tape:
        tape.watch(list(variables))
        out = tf.cast(run(), tf.float32)
        value = tf.reduce_sum(tf.square(out) + out)
    found = tape.gradient(value, list(variables))
    return [None if g is None else tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]
