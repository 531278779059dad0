"""Learning rate range test: :func:`lr_find`.

Implementation notes: a short training with a rising rate, after which the model and all random states are restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import os
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table

from tfft import heads, keras_compat
from tfft.console.tables import render
from tfft.data.dataset_forms import arrays_for, batches_for
from tfft.errors import DataError, PlanError, missing_package, raise_problems
from tfft.freezing.weight_values import restored
from tfft.optimizers import lr_curve
from tfft.optimizers.per_variable_lr import LayerwiseOptimizer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = ("train_step", "compute_loss", keras_compat.INNER_COMPUTE_LOSS)


@dataclasses.dataclass(frozen=True, eq=False)
class LearningRates:
    """Result of :func:`lr_find`; ``print`` shows the four rates.

    Attributes:
        lrs: [N] rates that were tried, rising.
        losses: [N] loss of the batch after the step at that rate.
        smoothed: [N] exponential mean of the losses, with the correction for its start.
        steep: Rate at which the smoothed loss falls fastest. Aggressive.
        minimum: A tenth of the rate with the least smoothed loss.
        valley: Rate near the middle of the longest fall: the suggestion.
        slide: Rate below which the slope changes little, seen from the right end of the curve.
        stopped: Reason why the test ended, in words.
    """

    lrs: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    steep: float
    minimum: float
    valley: float
    slide: float
    stopped: str

    @property
    def suggestion(self) -> float:
        """The rate to train at: ``valley``."""
        return self.valley

    @property
    def rows(self) -> list[dict[str, float]]:
        """One row for each rate: ``lr``, ``loss``, ``smoothed``."""
        columns = zip(self.lrs, self.losses, self.smoothed, strict=True)
        return [{"lr": float(lr), "loss": float(loss), "smoothed": float(mean)} for lr, loss, mean in columns]

    def __str__(self) -> str:
        table = Table(title=f"learning rate {self.suggestion:.2g}", title_justify="left")
        for name in ("rule", "rate"):
            table.add_column(name, justify="right" if name == "rate" else "left")
        for name in lr_curve.RULES:
            table.add_row(name, f"{getattr(self, name):.2e}", style="bold" if name == "valley" else None)
        tried = f"{len(self.lrs)} rates from {self.lrs[0]:.1e} to {self.lrs[-1]:.1e}. {self.stopped}"
        return render(table, tried)

    def plot(self, path: str | os.PathLike[str] | None = None) -> Figure:
        """Draw the loss over the rate, with the four rates.

        Args:
            path: Image file to write, in the format of its suffix. Defaults to None, no file.

        Returns:
            The figure of matplotlib, which notebooks can show.

        Raises:
            DependencyError: If matplotlib is not installed.

        Example:
            >>> tfft.optimizers.lr_find(model, train).plot("rates.png")
        """
        try:
            from matplotlib.figure import Figure  # without pyplot: no window, no global state
        except ImportError:
            missing_package("matplotlib", "A plot of the learning rates", "pip install matplotlib")
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(self.lrs, self.losses, color="0.8", label="loss")
        axes.plot(self.lrs, self.smoothed, color="black", label="smoothed")
        for k, name in enumerate(lr_curve.RULES):
            rate = getattr(self, name)
            axes.plot(
                [rate], [np.interp(rate, self.lrs, self.smoothed)], "o", color=f"C{k}", label=f"{name} {rate:.1e}"
            )
        axes.set(xscale="log", xlabel="learning rate", ylabel="loss")
        low, high = float(self.smoothed.min()), float(self.smoothed[0])
        axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))  # what diverges would hide the rest
        axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure


def lr_find(
    model: keras.Model,
    data: Any,
    *,
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
    stop: float = 4.0,
    beta: float = 0.98,
    batch_size: int = 32,
    optimizer: keras.optimizers.Optimizer | None = None,
    seed: int = 0,
) -> LearningRates:
    """Return learning rates for a model, from one short training with a rising rate (Smith 2015, 2017).

    Use it before training, with the trainable blocks and the batch size of the training: the result depends on both.
    Each step uses a higher rate than the one before; rates are good where the loss falls. The rules are fastai's, with
    three differences: a loss belongs to the rate of the step before it, a fall counts from a thousandth of the whole
    fall on, and ``slide`` uses the loss relative to its start. So no rule depends on the unit of the loss.

    Trust the middle of the fall (``valley``), not its end: smoothing lags behind, and on very smooth problems the loss
    comes back only several steps beyond the largest stable rate. On a frozen backbone the curve is flat over a wide
    range; a solved head (:func:`tfft.features.fit_linear_probe`) needs no rate.

    Afterwards everything is as before, bit by bit, after an error too: weights, statistics of BatchNormalization,
    seeds, optimizer, metrics, ``compile``, and the random states of Python, NumPy, TensorFlow and Keras. Only a dataset
    that shuffles by itself goes on to its next order. Slots start at 0, also where the model's optimizer has some.

    Args:
        model: Built; compiled (its loss and a copy of its optimizer are used), or with a head of tfft (which knows
            its loss; the optimizer is Adam then).
        data: Dataset of batches, (inputs, labels) or (inputs, labels, sample weights) as arrays, or a part of the
            result of :func:`tfft.data.load`. Repeated if it is shorter than ``steps``.
        start: First rate.
        end: Last rate, where the test gets there.
        steps: Number of rates.
        stop: The test ends when the smoothed loss is more than this many times its least value.
        beta: Weight of the past in the exponential mean; 0 for no smoothing.
        batch_size: Examples per step, where ``data`` is arrays.
        optimizer: Optimizer of Keras, instead of the model's; a copy is used, its rate is not.
        seed: Seed for the order of arrays.

    Returns:
        The rates, the losses and four suggestions.

    Raises:
        PlanError: If settings are out of range, the model cannot be trained as it is, its loss is not a finite
            number at ``start``, or there is no fall between ``start`` and ``end``.
        DataError: If there is no example.

    Example:
        >>> tfft.unfreeze(model, 3)
        >>> found = tfft.optimizers.lr_find(model, train)
        >>> print(found)
        >>> model.compile(keras.optimizers.Adam(found.suggestion), **tfft.heads.from_model(model).compile_args())
    """
    _check(model, start, end, steps, stop, beta)
    rates = np.geomspace(start, end, steps)
    with _same_random_state(), restored(model):
        losses = _losses(_around(model, optimizer, start), _batches(model, data, batch_size, seed), rates, stop, beta)
    return _read(rates, losses, beta)


def _check(model: Any, start: float, end: float, steps: int, stop: float, beta: float) -> None:
    problems = []
    if not isinstance(model, keras.Model):
        raise PlanError(f"Expected a keras.Model, received {type(model).__name__}.")
    if not model.built:
        problems.append("the model has no variables yet: call it once, or model.build(input_shape)")
    elif not model.trainable_weights:
        problems.append("nothing in the model trains, so there is no rate to find: tfft.unfreeze(model, ...)")
    own = [name for name in _STEPS if getattr(type(model), name, None) is not getattr(keras.Model, name, None)]
    if own:
        problems.append(f"the model has a custom training step ({', '.join(own)}); give the model that it is made of")
    strategy = getattr(model, "distribute_strategy", None)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        problems.append("the model is on several replicas; find the rate on one, at the same size of the whole batch")
    if not 0 < start < end < math.inf:
        problems.append(f"rates must be 0 < start < end, received start={start!r}, end={end!r}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < lr_curve.LEAST_STEPS:
        problems.append(f"steps must be an int of at least {lr_curve.LEAST_STEPS}, received {steps!r}")
    if not stop > 1:
        problems.append(f"stop must be above 1, received {stop!r}")
    if not 0 <= beta < 1:
        problems.append(f"beta must be at least 0 and under 1, received {beta!r}")
    raise_problems(PlanError, "No learning rate can be found", problems)


def _read(rates: np.ndarray, losses: list[float], beta: float) -> LearningRates:
    if not math.isfinite(losses[0]):
        raise PlanError(
            f"No learning rate can be found: the loss is {losses[0]} before the first step. Check the data."
        )
    after, smoothed = np.array(losses[1:]), lr_curve.smooth(losses, beta)[1:]
    finite = np.isfinite(after)
    ended = len(finite) if finite.all() else int(finite.argmin())
    if ended < len(after):
        stopped = f"The loss was {after[ended]} after the step at {rates[ended]:.1e}."
    elif len(after) < len(rates):
        stopped = "Then the loss rose too far."
    else:
        stopped = "The loss did not rise far: there may be higher rates that work."
    lrs, after, smoothed = rates[:ended], after[:ended], smoothed[:ended]
    found = lr_curve.rules(lrs, after, smoothed, len(rates))
    return LearningRates(lrs, after, smoothed, **found, stopped=stopped)


# ---------------------------------------------------------------------- the training


class _Around(keras.Model):
    """Trains the variables of a model with a loss and an optimizer of its own, so that the model's stay as they are."""

    def __init__(self, inner: keras.Model) -> None:
        super().__init__(name=inner.name, dtype=inner.dtype_policy)
        self.inner = inner
        if hasattr(inner, "output_names"):
            self.output_names = inner.output_names  # losses may be given by these

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs)


def _around(model: keras.Model, optimizer: keras.optimizers.Optimizer | None, rate: float) -> keras.Model:
    around = _Around(model)
    if model.compiled:
        settings = {"loss": model.loss, "run_eagerly": model.run_eagerly}
        settings["loss_weights"] = keras_compat.loss_weights(model)
        optimizer = optimizer or model.optimizer
    else:
        try:
            settings = {"loss": heads.from_model(model).loss()}
        except PlanError as error:
            raise PlanError(
                f"The model {model.name!r} has no loss: it is not compiled, and it has no head of tfft, which would "
                "know one. Compile it with a loss before."
            ) from error
    copy = keras.optimizers.Adam(rate, name="adam") if optimizer is None else _copy(optimizer, rate)
    around.compile(copy, **settings)
    return around


def _copy(optimizer: keras.optimizers.Optimizer, rate: float) -> keras.optimizers.Optimizer:
    """Return an optimizer of the same settings with another rate and no slots."""
    if isinstance(optimizer, LayerwiseOptimizer):
        return optimizer.around(_copy(optimizer.optimizer, rate))
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        settings = optimizer.get_config() | {"inner_optimizer": _copy(optimizer.inner_optimizer, rate)}
        return keras.optimizers.LossScaleOptimizer(**settings)
    copy = type(optimizer).from_config(optimizer.get_config() | {"learning_rate": float(rate)})
    keras_compat.copy_weight_decay_exclusions(optimizer, copy)
    return copy


def _batches(model: keras.Model, data: Any, batch_size: int, seed: int) -> Iterator[Any]:
    head = _head_of(model)
    if isinstance(data, tf.data.Dataset) and int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        return iter(data)
    if isinstance(data, (tuple, list)):
        arrays = arrays_for(model, head, data)
        count = len(keras.tree.flatten(arrays)[0])
        order = np.random.default_rng(seed).permutation(count)
        shuffled = keras.tree.map_structure(lambda a: a[order], arrays)
        data = tf.data.Dataset.from_tensor_slices(shuffled).batch(batch_size)
    return iter(batches_for(model, head, data, batch_size=batch_size).repeat())


def _head_of(model: keras.Model) -> heads.Head | None:
    """Return the head whose labels a model learns; None where it has none, or is compiled with another loss."""
    try:
        head = heads.from_model(model)
    except PlanError:
        return None
    return None if model.compiled and type(model.loss) is not type(head.loss()) else head


def _losses(around: keras.Model, batches: Iterator[Any], rates: np.ndarray, stop: float, beta: float) -> list[float]:
    """Return the loss before the first step and after each one, until it is too large."""
    optimizer = around.optimizer

    def step(batch: Any) -> tf.Tensor:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        with tf.GradientTape() as tape:
            outputs = around(x, training=True)
            loss = around.compute_loss(x=x, y=y, y_pred=outputs, sample_weight=weights, training=True)
            scaled = optimizer.scale_loss(loss)
        variables = around.trainable_variables
        optimizer.apply(tape.gradient(scaled, variables), variables)
        return loss

    run = step if around.run_eagerly else tf.function(step, reduce_retracing=True)
    losses: list[float] = []
    for rate, batch in zip(itertools.chain(rates, rates[-1:]), batches, strict=False):
        optimizer.learning_rate = float(rate)
        losses.append(float(run(batch)))
        means = lr_curve.smooth(losses, beta)
        best = means.min()
        if not math.isfinite(losses[-1]) or means[-1] > best + (stop - 1) * abs(best):
            break
    if not losses:
        raise DataError("There is no batch to find a learning rate with.")
    return losses


# ------------------------------------------------------------------ putting everything back


@contextlib.contextmanager
def _same_random_state() -> Iterator[None]:
    """Restore the random state of Python, NumPy, TensorFlow and Keras at the end of the context."""
    python, numpy, drawn = random.getstate(), np.random.get_state(), keras_compat.tensorflow_seed_sequence()
    tensorflow: tuple[Any, ...] = () if drawn is None else drawn.getstate()
    generator = keras_compat.tensorflow_generator()
    state = None if generator is None else generator.state.numpy()
    seeds = keras_compat.global_seed_generator()
    seed = None if seeds is None else seeds.state.numpy()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if drawn is not None:
            drawn.setstate(tensorflow)
        tf.random.set_global_generator(generator)
        if generator is not None:
            generator.state.assign(state)
        keras_compat.set_global_seed_generator(seeds)
        if seeds is not None:
            seeds.state.assign(seed)
