"""Interpolation of weights from before and after fine-tuning (WiSE-FT): :func:`interpolate`.

Implementation notes: both ends are restored bit by bit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table

from tfft.console.tables import render
from tfft.errors import DataError, PlanError, did_you_mean, join_names
from tfft.freezing.batch_norm import recompute, training_norms
from tfft.freezing.weight_values import Values, is_floating, matched, put, take
from tfft.registry import Metric
from tfft.weight_averaging.selection import Score, measured, selection_of, selection_score


@dataclasses.dataclass(frozen=True)
class Point:
    """One interpolation point with its results.

    Attributes:
        alpha: 0 for the start, 1 for the end.
        loss: Loss of the model with these weights, with its penalties.
        accuracy: Accuracy; None if the model has no such metric.
        results: Results of ``evaluate``, by name.
    """

    alpha: float
    loss: float
    accuracy: float | None
    results: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Interpolation:
    """Result of :func:`interpolate`; ``print`` shows it as a table.

    Attributes:
        points: Points in the order of alpha, both ends included.
        best: Point whose weights the model has now.
    """

    points: tuple[Point, ...]
    best: Point

    @property
    def alpha(self) -> float:
        """Alpha of the best point."""
        return self.best.alpha

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        points = [{**dataclasses.asdict(p), "results": dict(p.results)} for p in self.points]
        return {"alpha": self.alpha, "points": points}

    def __str__(self) -> str:
        table = Table(title=f"Between start and end: best at alpha {self.alpha:.3g}", title_justify="left")
        for name in ("alpha", "loss", "accuracy"):
            table.add_column(name, justify="right")
        table.add_column("")
        for p in self.points:
            place = {self.points[0].alpha: "start", self.points[-1].alpha: "end"}.get(p.alpha, "")
            notes = [word for word in (place, "best" if p is self.best else "") if word]
            table.add_row(f"{p.alpha:.3g}", f"{p.loss:.4f}", percent(p.accuracy), ", ".join(notes))
        return render(table, least=60)


def interpolate(
    model: keras.Model,
    start: Values,
    dataset: tf.data.Dataset,
    *,
    steps: int = 11,
    metric: str | Metric | None = None,
    refresh: tf.data.Dataset | None = None,
) -> Interpolation:
    """Find the best interpolation of the weights before and after fine-tuning (WiSE-FT).

    Use it after fine-tuning. Points between both ends are often better than either, more so on other image
    distributions than on that of the training. The weights are ``(1 - alpha) * start + alpha * end``, where ``end`` are
    the current weights. Both ends are evaluated too and restored bit by bit, so that on this data the model is never
    worse than the better end. The head must be the same at both ends: solve or train it on the frozen backbone first,
    and take ``start`` after that; interpolating between a new head and a trained one is useless.

    The best point has the highest accuracy (or other metric of the task), then the lowest loss; among equal points, the
    one nearest to the start, which preserves more of the pretrained network. Each point is evaluated with
    ``model.evaluate``. Because held-out data selects the point, its score there is slightly optimistic.

    Running statistics are interpolated like the weights, which is exact at the ends only. If BatchNormalization trains,
    ``refresh`` recomputes them at every point between. Integers, such as counters, stay those of the end, except at
    alpha 0.

    Wortsman et al., Robust fine-tuning of zero-shot models (2022).

    Args:
        model: Compiled model with the weights of the end; changed in place.
        start: Arrays from before fine-tuning, by path (missing variables stay unchanged) or in the order of
            ``model.weights``, as from ``model.get_weights()``.
        dataset: Finite held-out dataset of (inputs, labels) batches.
        steps: Number of points including both ends; at least 2.
        metric: Metric that decides before the loss: a :class:`tfft.registry.Metric`, or the name of one for which
            higher is better. Defaults to that of the head's task, which is the accuracy for classes.
        refresh: Training batches for :func:`tfft.freezing.refresh_batch_norm`; None interpolates statistics.

    Returns:
        All points and the best one, whose weights the model then has.

    Raises:
        PlanError: If the model is not compiled, ``start`` does not fit it (everything that does not is listed), a
            setting is out of range, or the loss is nowhere a finite number. The model keeps its weights then.
        DataError: If the dataset is empty or infinite.

    Example:
        >>> before = model.get_weights()
        >>> model.fit(train, epochs=5)
        >>> print(tfft.weight_averaging.interpolate(model, before, validation))
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise PlanError(f"steps must be an int of at least 2, both ends included, received {steps!r}.")
    measure = Measure(model, dataset, metric)
    line = _Line(model, matched(model, start, "start"), refresh)
    points: list[Point] = []
    best: tuple[Score, Point, list[np.ndarray]] | None = None
    try:
        for i in range(steps):
            alpha = i / (steps - 1)
            line.go(alpha)
            results = measure()
            points.append(Point(alpha, results["loss"], measured(results, "accuracy"), results))
            score = measure.score(results)
            if best is None or score > best[0]:  # a point that is only as good comes later, farther from the start
                best = score, points[-1], take(line.variables)
        if best is None or not math.isfinite(best[1].loss):
            raise PlanError(
                "The loss is not a finite number at any point between start and end: there are values that are no "
                "numbers in the data or in the weights."
            )
    except BaseException:
        line.go(1.0)
        raise
    put(line.variables, best[2])
    return Interpolation(tuple(points), best[1])


class _Line:
    """Set a model to any point between two sets of weights; only differing values are written."""

    def __init__(self, model: keras.Model, start: Mapping[int, np.ndarray], refresh: tf.data.Dataset | None) -> None:
        every = model.weights
        places = sorted(i for i, v in start.items() if not np.array_equal(v, keras.ops.convert_to_numpy(every[i])))
        self.variables = [every[i] for i in places]
        self._start = [start[i] for i in places]
        self._end = take(self.variables)
        self._model, self._refresh = model, refresh
        if refresh is not None:  # refreshing moves these too, and the ends must come back whole
            norms, opened = training_norms(model)
            moving = [w for layer in [*norms, *opened] for w in layer.non_trainable_weights]
            known = {id(v) for v in self.variables}
            more = [v for v in moving if id(v) not in known]
            self.variables += more
            self._start += take(more)
            self._end += take(more)

    def go(self, alpha: float) -> None:
        """Set the weights of the model to the point ``alpha``."""
        if alpha in (0.0, 1.0):
            put(self.variables, self._start if alpha == 0.0 else self._end)
            return
        ends = zip(self.variables, self._start, self._end, strict=True)
        put(self.variables, [self._between(variable, a, b, alpha) for variable, a, b in ends])
        if self._refresh is not None:
            recompute(self._model, self._refresh, *training_norms(self._model))

    @staticmethod
    def _between(variable: keras.Variable, start: np.ndarray, end: np.ndarray, alpha: float) -> np.ndarray:
        if not is_floating(variable):
            return end
        return ((1.0 - alpha) * start.astype("float64") + alpha * end.astype("float64")).astype(end.dtype)


class Measure:
    """Evaluation of a compiled model on a dataset, with a score for comparisons.

    Args:
        model: Compiled model.
        dataset: Finite held-out dataset.
        metric: Metric that decides before the loss, or its name if higher is better. Defaults to that of the head's
            task.
    """

    def __init__(self, model: keras.Model, dataset: tf.data.Dataset, metric: str | Metric | None = None) -> None:
        if not model.compiled:
            raise PlanError(
                f"{model.name!r} is not compiled, so it has no loss to measure. Call model.compile first, for example "
                "model.compile('adam', **tfft.heads.from_model(model).compile_args())."
            )
        count = int(dataset.cardinality())
        if count == tf.data.INFINITE_CARDINALITY:
            raise DataError("The dataset never ends (it repeats): measure on a finite one, such as dataset.take(n).")
        if count == 0:
            raise DataError("The dataset holds no batch, so there is nothing to measure on.")
        self._model, self._dataset = model, dataset
        given = Metric(metric) if isinstance(metric, str) else metric
        self._required = given is not None
        self._metric = given or selection_of(model)

    def __call__(self) -> dict[str, float]:
        """Return the results of ``evaluate`` with the current weights."""
        results = self._model.evaluate(self._dataset, verbose=0, return_dict=True)
        name = self._metric.name
        if self._required and name not in results:
            raise PlanError(
                f"The model measures no {name!r}.{did_you_mean(name, results)} It measures: {join_names(results)}."
            )
        return {name: float(value) for name, value in results.items()}

    def score(self, results: Mapping[str, float]) -> Score:
        """Return the score of results; higher is better."""
        return selection_score(results, self._metric)  # type: ignore[return-value]  # evaluate always gives a loss


def percent(share: float | None) -> str:
    """Return a share as text, or nothing."""
    return "" if share is None else f"{share:.1%}"
