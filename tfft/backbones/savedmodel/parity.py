"""Compares an opened model with the SavedModel it came from, on a small random batch.

Outputs must agree, else the model is used uncut or not at all. Gradients must agree where the
SavedModel had custom ones, which opening replaces by the plain derivative.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.errors import SavedModelError, TfftError, join_names, reason_of

TOLERANCE = 1e-5  # of outputs, relative to the largest one where that is above 1
_GRADIENT_TOLERANCE = 1e-2  # honest custom gradients differ by rounding, 1e-6; others by their very size
_SIDE, _LENGTH, _SAMPLES = 96, 8, 16_000  # some image models fail below 75 pixels, some audio models below a second


@dataclasses.dataclass(frozen=True)
class _Kind:
    """Kind of sample values: many SavedModels fail on most of what their shapes allow.

    Attributes:
        integers: The largest integer.
        strings: Two strings.
        side: Side of images whose size is free.
        length: Length of sequences whose length is free.
        known: For each input, keys of the table that it is looked up in; empty for inputs that are not.
    """

    integers: int = 1
    strings: tuple[bytes, bytes] = (b"a", b"two words")
    side: int = _SIDE
    length: int = _LENGTH
    known: Sequence[Sequence[Any]] = ()


def sample_batch(specs: Sequence[tf.TensorSpec], kind: _Kind | None = None) -> list[tf.Tensor]:
    """Return random inputs for a function: two examples, unknown sides and lengths chosen small.

    Args:
        specs: Shapes and types; each has a rank.
        kind: What the values are like.
    """
    random, kind = np.random.default_rng(0), kind or _Kind()
    batch = []
    for place, spec in enumerate(specs):
        alone = len(specs) == 1
        shape = [n if n is not None else _unknown(spec, i, kind, alone) for i, n in enumerate(spec.shape.as_list())]
        if kind.known and kind.known[place]:
            values = np.resize(np.array(kind.known[place], dtype=object), shape)
        elif spec.dtype == tf.string:
            values = np.resize(np.array(kind.strings, dtype=object), shape)
        elif spec.dtype.is_floating:
            values = random.random(shape)
        else:
            values = random.integers(0, kind.integers + 1, shape)
        batch.append(tf.constant(values, spec.dtype))
    return batch


def accepted_batch(
    specs: Sequence[tf.TensorSpec],
    run: Callable[[Sequence[tf.Tensor]], Any],
    known: Callable[[], Sequence[Sequence[Any]]] = tuple,
) -> tuple[list[tf.Tensor], Any, bool]:
    """Return the first of several kinds of inputs that a function takes, and what it gives.

    Args:
        specs: Shapes and types of its inputs.
        run: The SavedModel.
        known: Function that returns, for each input, keys of the table that it is looked up in, if it is. They are
            tried last, since reading a table takes time.

    Returns:
        The inputs, the result, and whether it took nothing but the keys.

    Raises:
        SavedModelError: When it fails on all of them; the message has its own words for the first.
    """
    errors: list[Exception] = []
    for kind in _kinds(specs, known):
        try:
            batch = sample_batch(specs, kind)
            return batch, run(batch), bool(kind.known)
        except TfftError:
            raise
        except Exception as error:  # whatever TensorFlow raises for a value that the model does not take
            errors.append(error)
    shapes = join_names(f"{spec.dtype.name} {tuple(spec.shape.as_list())}" for spec in specs)
    first = errors[0]
    way = "Another output or signature may work: output=, signature=."
    if "= -1 is not in [0, " in str(first):
        way = (
            "Its tables give -1 for words and numbers that they do not know, and its embedding has no such row: it "
            "takes only what it was trained on. Save it again with a row for the unknown (num_oov_indices=1)."
        )
    raise SavedModelError(
        f"The SavedModel itself fails on every input that was tried ({shapes}): {type(first).__name__}: "
        f"{reason_of(first)}. {way}"
    ) from first


def _kinds(specs: Sequence[tf.TensorSpec], known: Callable[[], Sequence[Sequence[Any]]]) -> Iterator[_Kind]:
    yield _Kind()
    types = {spec.dtype for spec in specs}
    open_sizes = any(None in spec.shape.as_list()[1:] for spec in specs)
    if any(not t.is_floating and t != tf.string for t in types):
        yield _Kind(integers=0)  # a table of one entry
    if tf.string in types:
        picture = tf.io.encode_png(tf.zeros([_SIDE, _SIDE, 3], tf.uint8)).numpy()
        yield _Kind(strings=(b"1", b"0"))  # numbers in words
        yield _Kind(strings=(picture, picture))
        yield _Kind(integers=0, strings=(b"", b""))
    if open_sizes:
        yield _Kind(side=224, length=128)
        yield _Kind(integers=0, side=299, length=512)
    keys = known()
    if len(keys) == len(specs) and any(keys):
        yield _Kind(known=keys)


def _unknown(spec: tf.TensorSpec, axis: int, kind: _Kind, alone: bool) -> int:
    rank = spec.shape.rank
    if rank == 2 and axis == 1 and spec.dtype.is_floating:
        return _SAMPLES  # features have a known width; what is open is time
    if axis == 0:  # one number for each example is a column of a table where there are others
        return _SAMPLES if rank == 1 and spec.dtype.is_floating and alone else 2
    return kind.side if rank == 4 or (rank == 5 and axis > 1) else kind.length


def largest_difference(ours: Any, reference: Any) -> tuple[float, float]:
    """Return the largest difference of two outputs and the largest that is accepted."""
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
    """Compare the gradients of two functions that should compute the same.

    Args:
        original: The SavedModel on a fixed batch.
        original_variables: Its variables.
        opened: The opened model on the same batch.
        opened_variables: The variables that correspond, in the same order.

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
    """Whether TensorFlow can differentiate a function by its variables, as ``fit`` will."""
    try:
        _gradients(run, variables)
    except Exception:  # it raises a dozen classes, plain assertions among them, where an operation has no gradient
        return False
    return True


def gradients_agree(difference: float | None) -> bool:
    """Whether a difference of gradients is rounding."""
    return difference is None or difference <= _GRADIENT_TOLERANCE


def _gradients(run: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]) -> list[tf.Tensor | None]:
    with tf.GradientTape() as tape:
        tape.watch(list(variables))
        out = tf.cast(run(), tf.float32)
        value = tf.reduce_sum(tf.square(out) + out)
    found = tape.gradient(value, list(variables))
    return [None if g is None else tf.cast(tf.convert_to_tensor(g), tf.float32) for g in found]
