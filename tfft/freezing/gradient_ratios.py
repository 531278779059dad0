"""Relative gradients per block: :func:`relative_gradients` and :func:`surgical_blocks`.

Implementation notes: gradients of frozen variables are computed without changing flags, statistics or the optimizer.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table

from tfft.backbones.base import Block, blocks_of, count_values, is_opened
from tfft.backbones.savedmodel.variables import kind_of
from tfft.console.tables import render
from tfft.errors import BlockError, DataError, raise_problems
from tfft.freezing.batch_norm import is_norm
from tfft.keras_compat import clear_losses, flatten_layers, own_trainable_variables, own_weights
from tfft.layers.lora import pairs_of


@dataclasses.dataclass(frozen=True)
class BlockGradient:
    """Gradient of one block.

    Attributes:
        block: Name of the block.
        parameters: Number of values included: all that could train, without normalization.
        weight_norm: Euclidean norm of these values together.
        gradient_norm: Norm of the gradient of the loss, mean over the batches.
        relative: ``gradient_norm / weight_norm``.
    """

    block: str
    parameters: int
    weight_norm: float
    gradient_norm: float
    relative: float


@dataclasses.dataclass(frozen=True)
class RelativeGradients:
    """Result of :func:`relative_gradients`; ``print`` shows it as a table.

    Attributes:
        rows: One row per block with parameters, the largest relative gradient first.
        batches: Number of batches.
        examples: Number of examples in them.
        loss: Mean loss over the batches.
    """

    rows: tuple[BlockGradient, ...]
    batches: int
    examples: int
    loss: float

    def best(self, k: int = 1) -> list[str]:
        """Return the names of the k blocks with the largest relative gradients, for ``unfreeze``."""
        if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(self.rows):
            raise BlockError(f"k must be an integer from 1 to {len(self.rows)}, the number of blocks. Received: {k!r}.")
        return [row.block for row in self.rows[:k]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        values = dataclasses.asdict(self)
        return {**values, "rows": list(values["rows"])}

    def __str__(self) -> str:
        title = f"Relative gradients over {self.examples:,} examples in {self.batches} batches, loss {self.loss:.4g}"
        table = Table(title=title, title_justify="left")
        table.add_column("block", no_wrap=True)
        for name in ("parameters", "|w|", "|g|", "|g| / |w|", "of the largest"):
            table.add_column(name, justify="right")
        largest = max((row.relative for row in self.rows), default=0.0)
        for row in self.rows:
            share = f"{row.relative / largest:.1%}" if largest else "?"
            norms = [f"{value:.3g}" for value in (row.weight_norm, row.gradient_norm, row.relative)]
            table.add_row(row.block, f"{row.parameters:,}", *norms, share)
        return render(table)


def relative_gradients(
    model: keras.Model,
    dataset: Iterable[Any],
    *,
    batches: int = 5,
    loss: Callable[..., Any] | None = None,
) -> RelativeGradients:
    """Compute the gradient norm of the loss in each block, relative to the block's weights.

    Use it to choose the blocks to train if new data differs from the old in one respect and there is little of it: the
    blocks with the largest values fit the new data worst. The head must be trained or solved on the frozen backbone
    first, otherwise all gradients reflect the head. The criterion worked on corrupted images and shifted labels, but it
    is a heuristic: in small networks with one corrupted block it finds weights of a wrong scale, usually finds
    shuffled ones, and takes slight noise for a fault of the first blocks. Compare with another choice on the validation
    examples.

    The model runs in inference mode, without dropout and with fixed statistics; normalization is excluded, as in the
    paper. Frozen blocks are included. Nothing in the model changes: no weight, flag, statistic, random state, metric or
    optimizer.

    The method: Lee et al., "Surgical Fine-Tuning Improves Adaptation to Distribution Shifts", 2023 (Auto-RGN, per
    block instead of per tensor).

    Args:
        model: Any built Keras model.
        dataset: Batches of ``(inputs, labels)`` or ``(inputs, labels, sample_weight)``, as for ``fit``.
        batches: Maximum number of batches; at least 1.
        loss: Function from ``(labels, predictions)`` to a scalar or to one value per example; a Keras loss such as
            ``tfft.heads.from_model(model).loss()`` also gets the sample weights. Defaults to the loss of a compiled
            model, without its regularizers.

    Returns:
        A table, sorted: ``print`` it, or read ``.rows``, ``.best(k)`` and ``.to_dict()``.

    Raises:
        BlockError: If the model is not built, nothing in it can train, there is no loss, or ``batches`` is below 1.
        DataError: If the dataset is empty or has no labels, or the gradients are not finite.

    Example:
        >>> print(relative_gradients(model, train, loss=tfft.heads.from_model(model).loss()))
    """
    model = getattr(model, "model", model)
    problems = []
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        problems.append(f"batches must be an integer of at least 1, received {batches!r}.")
    if loss is None and not model.compiled:
        problems.append(
            "the model is not compiled and no loss was given; give loss=tfft.heads.from_model(model).loss()."
        )
    if not model.built:
        problems.append(f"the model {model.name!r} has no variables yet: call it once, or model.build(input_shape).")
    raise_problems(BlockError, "Relative gradients cannot be computed", problems)
    groups = {block.name: (block, _looked_at(block)) for block in blocks_of(model)}
    groups = {name: group for name, group in groups.items() if group[1]}
    if not groups:
        raise BlockError(f"No block of {model.name!r} has variables that could train, beside normalization.")
    kept = [(v, v.numpy()) for v in model.metrics_variables]  # losses of several outputs count themselves
    try:
        sums, value, seen, examples = _measure(model, [v for _, v in groups.values()], dataset, batches, loss)
    finally:
        for variable, before in kept:
            variable.assign(before)
        clear_losses(model)  # else `model.losses` gives tensors of a graph that is gone
    rows = []
    for (block, variables), total in zip(groups.values(), sums, strict=True):
        weights = math.sqrt(sum(float(np.sum(np.square(_numpy(v)))) for v in variables))
        gradient = float(total) / seen
        relative = gradient / weights if weights else (math.inf if gradient else 0.0)
        rows.append(BlockGradient(block.name, count_values(variables), weights, gradient, relative))
    if not all(math.isfinite(row.gradient_norm) for row in rows):
        raise DataError(
            "The gradients are not finite: check for inputs or labels that are NaN, infinite or out of range."
        )
    return RelativeGradients(tuple(sorted(rows, key=lambda row: -row.relative)), seen, examples, value / seen)


def surgical_blocks(
    model: keras.Model,
    dataset: Iterable[Any],
    k: int = 1,
    *,
    batches: int = 5,
    loss: Callable[..., Any] | None = None,
) -> list[str]:
    """Return the names of the k blocks with the largest relative gradients, for :func:`tfft.unfreeze`.

    Args:
        model: As for :func:`relative_gradients`.
        dataset: As for :func:`relative_gradients`.
        k: Number of blocks.
        batches: As for :func:`relative_gradients`.
        loss: As for :func:`relative_gradients`.

    Returns:
        Names, the block with the largest relative gradient first.

    Raises:
        BlockError: As for :func:`relative_gradients`, or if there are fewer blocks.
        DataError: As for :func:`relative_gradients`.

    Example:
        >>> tfft.unfreeze(model, surgical_blocks(model, train, 2, loss=tfft.heads.from_model(model).loss()))
    """
    return relative_gradients(model, dataset, batches=batches, loss=loss).best(k)


def _looked_at(block: Block) -> list[keras.Variable]:
    """Return the variables of a block that could train, frozen or not, without normalization and low-rank updates."""
    found: dict[int, keras.Variable] = {}
    for layer in block.layers:
        for sub in flatten_layers(layer):
            updates = {id(v) for pair in pairs_of(sub) for v in (pair.first, pair.second)}
            could = {id(v) for v in own_trainable_variables(sub)} - updates
            if is_opened(sub):
                named = zip(sub.variable_names, sub.weights, strict=True)
                mine = [v for name, v in named if kind_of(name) != "norm"]
            else:
                mine = [] if is_norm(sub) else own_weights(sub)
            found |= {id(v): v for v in mine if id(v) in could}
    return list(found.values())


class _Norms:
    """Gradient norm of each group of variables for one batch.

    An object rather than a closure: TensorFlow counts retracings by code object and would warn of a few calls.
    """

    def __init__(
        self, model: keras.Model, groups: Sequence[Sequence[keras.Variable]], loss: Callable[..., Any] | None
    ) -> None:
        self._model, self._groups, self._loss = model, groups, loss

    def __call__(self, x: Any, y: Any, weight: Any) -> tuple[tf.Tensor, tf.Tensor]:
        variables = [v.value for group in self._groups for v in group]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)  # frozen ones too
            value = _loss(self._model, self._loss, x, y, weight)
        found = iter(tape.gradient(value, variables))
        squares = [[_square(next(found)) for _ in group] for group in self._groups]
        return tf.stack([tf.sqrt(tf.add_n(group)) for group in squares]), value


def _measure(
    model: keras.Model,
    groups: Sequence[Sequence[keras.Variable]],
    dataset: Iterable[Any],
    batches: int,
    loss: Callable[..., Any] | None,
) -> tuple[np.ndarray, float, int, int]:
    """Return the sum over batches of each group's gradient norm and of the loss, and both counts."""
    step = tf.function(_Norms(model, groups, loss), autograph=False, reduce_retracing=True)
    sums, total, seen, examples = np.zeros(len(groups)), 0.0, 0, 0
    for batch in itertools.islice(iter(dataset), batches):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        if y is None:
            raise DataError("The dataset gives no labels; expected batches of (inputs, labels).")
        x, y, weight = (keras.tree.map_structure(_tensor, part) for part in (x, y, weight))
        found, value = step(x, y, weight)
        sums, total, seen = sums + found.numpy(), total + float(value), seen + 1
        examples += int(keras.tree.flatten(x)[0].shape[0])
    if not seen:
        raise DataError("The dataset is empty: there is no batch to take gradients of.")
    return sums, total, seen, examples


def _tensor(value: Any) -> Any:
    return value if value is None or tf.is_tensor(value) else tf.convert_to_tensor(value)


def _loss(model: keras.Model, loss: Callable[..., Any] | None, x: Any, y: Any, weight: Any) -> tf.Tensor:
    predictions = model(x, training=False)
    if loss is None:
        value = model.compute_loss(x, y, predictions, weight, training=False)
        for part in model.losses:  # regularizers count frozen and trained blocks differently
            value -= tf.cast(tf.reduce_sum(part), value.dtype)
        return value
    if weight is not None and isinstance(loss, keras.losses.Loss):
        return loss(y, predictions, sample_weight=weight)
    value = tf.convert_to_tensor(loss(y, predictions))
    return tf.reduce_mean(value if weight is None or not value.shape.rank else value * tf.cast(weight, value.dtype))


def _square(gradient: Any) -> tf.Tensor:
    if gradient is None:
        return tf.zeros([])
    if isinstance(gradient, tf.IndexedSlices):  # rows of a table that were looked up twice are to be added first
        _, place = tf.unique(gradient.indices)
        gradient = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(gradient.indices))
    return tf.reduce_sum(tf.square(tf.cast(gradient, tf.float32)))


def _numpy(variable: keras.Variable) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
