"""Recomputation of BatchNorm statistics for the current weights: :func:`refresh_batch_norm`.

Implementation notes: batch statistics are combined exactly; those of a SavedModel block are derived from the changes of
its moving averages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.backbones.base import is_opened
from tfft.errors import DataError, PlanError, join_names
from tfft.keras_compat import flatten_layers

_NORM_CLASS = re.compile(r"norm", re.I)
_NOT_NORM = (keras.layers.Normalization, keras.layers.SpectralNormalization)
STATISTIC = re.compile(r"(moving|running)_(mean|var)", re.I)


def refresh_batch_norm(model: keras.Model, dataset: tf.data.Dataset) -> list[keras.Variable]:
    """Recompute the moving statistics of BatchNormalization in one pass over data, with the current weights.

    Use it after weights were averaged, interpolated or replaced while BatchNormalization trains: the moving statistics
    belong to other weights. They become the mean and the variance over all examples, each counted once, not a moving
    average. Only layers that train their statistics change; for a model with frozen BatchNormalization (the default of
    :func:`tfft.unfreeze`) this returns immediately.

    In the pass each of these layers normalizes by its batch, as in training, while dropout is off; the result
    therefore depends a little on the size of the batches, but not on their order. For blocks of a SavedModel
    opened with ``batch_norm="train"`` batches count by their number of examples, and the variance has whatever
    correction the publisher's graph makes for small batches.

    Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization (2018).

    Args:
        model: Built, on one device; ``compile`` is not needed.
        dataset: Finite, batches of inputs or of (inputs, labels): training examples, in batches of the size of
            training; ``dataset.take(n)`` will do where there are many.

    Returns:
        The variables that were set; empty where no statistics train.

    Raises:
        DataError: If the dataset is empty or never ends.
        PlanError: For layers with ``renorm=True``, and for blocks whose statistics do not move as moving averages do.

    Example:
        >>> model.fit(train, epochs=10, callbacks=[tfft.weight_averaging.StochasticWeightAveraging(0.25)])
        >>> tfft.freezing.refresh_batch_norm(model, train)
    """
    return recompute(model, dataset, *training_norms(model))


def is_norm(layer: keras.layers.Layer) -> bool:
    """Whether a layer normalizes features (batch, layer, group, RMS, ... by its class name)."""
    return bool(_NORM_CLASS.search(type(layer).__name__)) and not isinstance(layer, _NOT_NORM)


def batch_norms(layer: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Return the BatchNormalization layers in a layer, itself included."""
    return [sub for sub in flatten_layers(layer) if isinstance(sub, keras.layers.BatchNormalization)]


def has_statistics(layer: keras.layers.Layer) -> bool:
    """Whether a block of a SavedModel has running statistics, by the names of its variables."""
    names = getattr(layer, "variable_names", ()) or [v.path for v in layer.weights]
    return any(STATISTIC.search(name) for name in names)


def training_norms(model: keras.Model) -> tuple[list[keras.layers.BatchNormalization], list[Any]]:
    """Return the Keras layers and the opened blocks that move statistics in training."""
    opened = [layer for layer in flatten_layers(model) if is_opened(layer) and moves_statistics(layer)]
    return [norm for norm in batch_norms(model) if norm.trainable], opened


def moves_statistics(layer: Any) -> bool:
    """Whether an opened block updates its statistics in training."""
    return layer.batch_norm == "train" and layer.runs_training_graph and has_statistics(layer)


def recompute(
    model: keras.Model,
    dataset: tf.data.Dataset,
    norms: Sequence[keras.layers.BatchNormalization],
    opened: Sequence[Any],
) -> list[keras.Variable]:
    """Implement :func:`refresh_batch_norm` for the given layers, whether they train or not."""
    renorm = [norm.name for norm in norms if getattr(norm, "renorm", False)]
    if renorm:
        raise PlanError(
            f"The statistics of layers with renorm=True cannot be recomputed: {join_names(renorm)}. Freeze them, or "
            "train without renorm."
        )
    if not norms and not opened:
        return []
    results = _measured(model, _inputs(dataset), norms, opened)
    for variable, value in results:
        variable.assign(value)
    return [variable for variable, _ in results]


def _measured(
    model: keras.Model,
    inputs: tf.data.Dataset,
    norms: Sequence[keras.layers.BatchNormalization],
    opened: Sequence[Any],
) -> list[tuple[keras.Variable, Any]]:
    """Return each statistic with its value over all batches."""
    keepers = [_OfNorm(norm) for norm in norms] + [_OfBlock(block) for block in opened]
    started = False
    with contextlib.ExitStack() as patches:
        for keeper in keepers:
            patches.enter_context(keeper.watching())

        @tf.function(input_signature=[inputs.element_spec], autograph=False)
        def forward(batch: Any) -> list[Any]:
            for keeper in keepers:
                keeper.found = []
            model(batch, training=False)  # the patched layers train, and nothing else does
            return [keeper.found for keeper in keepers]

        for batch in inputs:
            if opened and not started:
                _learn_momentum(keepers, functools.partial(forward, batch))
            started = True
            for keeper in keepers:
                keeper.reset(0.0)
            for keeper, one in zip(keepers, forward(batch), strict=True):
                keeper.add(one, int(tf.shape(tf.nest.flatten(batch)[0])[0]))
        if not started:
            raise DataError("The dataset holds no batch, so there is nothing to take statistics of.")
        return [pair for keeper in keepers for pair in keeper.results()]


def _learn_momentum(keepers: Sequence[Any], forward: Callable[[], Any]) -> None:
    for keeper in keepers:
        keeper.reset(1.0)
    forward()
    for keeper in keepers:
        keeper.first()


def _inputs(dataset: tf.data.Dataset) -> tf.data.Dataset:
    if not isinstance(dataset, tf.data.Dataset):
        raise DataError(f"Expected a tf.data.Dataset of batches, received {type(dataset).__name__}.")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("The dataset never ends (it repeats): use a finite one, for example dataset.take(n).")
    return dataset.map(lambda *batch: batch[0])  # a dataset of tuples hands over their parts one by one


@dataclasses.dataclass(eq=False)
class _Moments:
    """Mean and variance over all batches so far, put together in double precision (Chan et al., 1979)."""

    count: float = 0.0
    mean: Any = 0.0
    squares: Any = 0.0

    def add(self, count: float, mean: Any, variance: Any) -> None:
        mean, variance = np.asarray(mean, "float64"), np.asarray(variance, "float64")
        if not count:
            return
        total, away = self.count + count, mean - self.mean
        self.squares = self.squares + variance * count + away**2 * (self.count * count / total)
        self.mean = self.mean + away * (count / total)
        self.count = total

    @property
    def variance(self) -> Any:
        return self.squares / self.count


class _OfNorm:
    """Takes the moments of everything that enters one Keras layer."""

    def __init__(self, norm: keras.layers.BatchNormalization) -> None:
        self._norm, self._moments = norm, _Moments()
        self.found: list[Any] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        with _calling(self._norm, self._call):
            yield

    def _call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        norm = self._norm
        x = tf.cast(inputs, tf.float64 if inputs.dtype == tf.float64 else tf.float32)
        axes = [axis for axis in range(len(x.shape)) if axis != norm.axis % len(x.shape)]
        if mask is None:
            count = tf.size(x) / x.shape[norm.axis]
            mean, variance = tf.nn.moments(x, axes)
        else:
            inside = tf.broadcast_to(tf.cast(tf.expand_dims(mask, norm.axis), x.dtype), tf.shape(x))
            count = tf.reduce_sum(inside) / x.shape[norm.axis]
            mean, variance = tf.nn.weighted_moments(x, axes, inside)
        self.found.append((count, mean, variance))
        out = keras.ops.batch_normalization(
            x, mean, variance, axis=norm.axis, offset=norm.beta, scale=norm.gamma, epsilon=norm.epsilon
        )
        return keras.ops.cast(out, norm.compute_dtype)

    def reset(self, value: float) -> None:
        """Nothing: the moments of a batch do not depend on the statistics."""

    def first(self) -> None:
        """Nothing to learn."""

    def add(self, found: Any, examples: int) -> None:
        for count, mean, variance in found:  # once for each place where the layer is called
            self._moments.add(float(count), mean, variance)

    def results(self) -> list[tuple[keras.Variable, np.ndarray]]:
        if not self._moments.count:
            raise PlanError(
                f"The layer {self._norm.name!r} saw no data in the pass: the model does not call it. Freeze it."
            )
        return [
            (self._norm.moving_mean, self._moments.mean),
            (self._norm.moving_variance, self._moments.variance),
        ]


class _OfBlock:
    """Reads the moments of batches off the moving statistics of one block of a SavedModel.

    A step makes ``s`` to ``m * s + (1 - m) * b``, with the batch's own value ``b`` and the publisher's momentum
    ``m``. From ``s = 0`` it gives ``(1 - m) * b``, and from ``s = 1`` it gives ``m`` more.
    """

    def __init__(self, block: Any) -> None:
        self._block = block
        named = zip(block.variable_names, block.weights, strict=True)
        self._variables = {name: v for name, v in named if STATISTIC.search(name)}
        self._kept = {name: v.numpy() for name, v in self._variables.items()}
        self._batches: dict[str, list[np.ndarray]] = {name: [] for name in self._variables}
        self._weights: list[int] = []
        self._ones: dict[str, np.ndarray] = {}
        self.found: list[Any] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        call = self._block.call
        with _calling(self._block, lambda inputs, training=None: call(inputs, training=True)):
            try:
                yield
            finally:
                for name, variable in self._variables.items():
                    variable.assign(self._kept[name])

    def reset(self, value: float) -> None:
        for variable in self._variables.values():
            variable.assign(np.full(variable.shape, value, "float32"))

    def first(self) -> None:
        self._ones = {name: v.numpy() for name, v in self._variables.items()}

    def add(self, found: Any, examples: int) -> None:
        self._weights.append(examples)
        for name, variable in self._variables.items():
            self._batches[name].append(variable.numpy().astype("float64"))

    def results(self) -> list[tuple[keras.Variable, np.ndarray]]:
        values = {name: v for name in self._variables if (v := self._of_batches(name)) is not None}
        out = []
        for name, batches in values.items():
            mean = np.average(batches, axis=0, weights=self._weights)
            partner = re.sub("var(iance)?", "mean", name)
            if partner != name and partner in values:  # the variance between batches belongs to that of the whole
                mean = mean + np.average(values[partner] ** 2, axis=0, weights=self._weights)
                mean = mean - np.average(values[partner], axis=0, weights=self._weights) ** 2
            out.append((self._variables[name], mean))
        return out

    def _of_batches(self, name: str) -> np.ndarray | None:
        momentum = self._ones[name] - self._batches[name][0]
        m = float(np.median(momentum))
        if m > 1 - 1e-6:
            return None  # the graph does not move it
        if m < 0 or np.abs(momentum - m).max() > 1e-3:
            raise PlanError(
                f"The statistics {name!r} of block {self._block.name!r} do not move as a moving average does, so they "
                "cannot be recomputed. Open the backbone with batch_norm='fixed'."
            )
        return np.stack(self._batches[name]) / (1 - m)


@contextlib.contextmanager
def _calling(layer: keras.layers.Layer, call: Callable[..., Any]) -> Iterator[None]:
    """Replace the computation of a layer temporarily, bypassing Keras' tracking of attributes."""
    layer.__dict__["call"] = call
    try:
        yield
    finally:
        layer.__dict__.pop("call", None)
