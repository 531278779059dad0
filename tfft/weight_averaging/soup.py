"""Model soups: one model from several that were fine-tuned from the same start: :func:`greedy_soup`.

Implementation notes: reading weights from files runs no code in them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table

from tfft import heads
from tfft.console.tables import render
from tfft.errors import PlanError, join_names, raise_problems
from tfft.freezing.batch_norm import recompute, training_norms
from tfft.freezing.weight_values import is_floating, matched, put, take
from tfft.registry import Metric
from tfft.weight_averaging.selection import Score, measured
from tfft.weight_averaging.wise_ft import Measure, percent

Checkpoint = str | os.PathLike[str] | Sequence[Any] | Mapping[str, Any]

_ENDINGS = (".weights.h5", ".keras")
_OF_TRAINING = frozenset({"dropout", "l2", "label_smoothing", "loss_name"})  # the answers stay the same


@dataclasses.dataclass(frozen=True)
class Ingredient:
    """One model that was tried in a soup.

    Attributes:
        name: Name of its file, or its number.
        loss: Loss of this model alone.
        accuracy: Accuracy of this model alone; None if the model has no such metric.
        taken: Whether it is in the soup.
        soup_loss: Loss of the soup with it.
        soup_accuracy: Accuracy of the soup with it.
    """

    name: str
    loss: float
    accuracy: float | None
    taken: bool
    soup_loss: float
    soup_accuracy: float | None


@dataclasses.dataclass(frozen=True)
class Soup:
    """Result of :func:`greedy_soup`; ``print`` shows it as a table.

    Attributes:
        ingredients: Models from the best to the worst alone, which is the order of the trials.
        results: Results of ``evaluate`` for the soup, by name.
        best: Results of the best model alone.
    """

    ingredients: tuple[Ingredient, ...]
    results: Mapping[str, float]
    best: Mapping[str, float]

    @property
    def taken(self) -> tuple[str, ...]:
        """Names of the models in the soup, in the order in which they were added."""
        return tuple(one.name for one in self.ingredients if one.taken)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        rows = [dataclasses.asdict(one) for one in self.ingredients]
        return {"ingredients": rows, "results": dict(self.results), "best": dict(self.best)}

    def __str__(self) -> str:
        title = f"Soup of {len(self.taken)} of {len(self.ingredients)} models"
        table = Table(title=title, title_justify="left")
        table.add_column("model")
        for name in ("loss", "accuracy", "soup loss", "soup accuracy"):
            table.add_column(name, justify="right")
        table.add_column("taken")
        for one in self.ingredients:
            numbers = [f"{one.loss:.4f}", percent(one.accuracy), f"{one.soup_loss:.4f}", percent(one.soup_accuracy)]
            table.add_row(one.name, *numbers, "yes" if one.taken else "no")
        return render(table, least=80)


def greedy_soup(
    model: keras.Model,
    checkpoints: Sequence[Checkpoint],
    dataset: tf.data.Dataset,
    *,
    metric: str | Metric | None = None,
    refresh: tf.data.Dataset | None = None,
) -> Soup:
    """Average those fine-tuned models that are better together than alone: a greedy soup.

    Use it for runs with other seeds or settings from the same pretrained backbone and the same head: the average costs
    no more to serve than the best of them. The models are ordered by their score on the data. The best one starts the
    soup; each of the others is added if the soup does not get worse. So on this data the soup is never worse than the
    best model. Models from different starts do not mix; then the best one stays alone.

    Soups are compared by accuracy, then by loss; the paper uses accuracy alone, which is often equal on few examples.
    Integers, such as counters, are those of the best model. Running statistics are averaged, or recomputed with
    ``refresh``. Files are read one at a time and not kept in memory; no code in them runs.

    Wortsman et al., Model soups (2022).

    Args:
        model: Compiled model with the same layers as the others; it gets the weights of the soup. Its current weights
            are not included: add ``model.get_weights()`` to the list for that.
        checkpoints: Files from ``model.save_weights("....weights.h5")`` or ``model.save("....keras")``, arrays in the
            order of ``model.weights``, or all of them by path.
        dataset: Finite held-out dataset of (inputs, labels) batches.
        metric: Metric that decides before the loss: a :class:`tfft.registry.Metric`, or the name of one for which
            higher is better. Defaults to that of the head's task, which is the accuracy for classes.
        refresh: Training batches for :func:`tfft.freezing.refresh_batch_norm` of soups, if BatchNormalization trains;
            None averages the statistics.

    Returns:
        The trials in order, and the models in the soup.

    Raises:
        PlanError: If there is no checkpoint, or one does not fit the model (all of them are listed with the variables
            at fault), is missing or is of another kind; when the model is not compiled. The model keeps its weights.
        DataError: If the dataset is empty or infinite.

    Example:
        >>> print(tfft.weight_averaging.greedy_soup(model, sorted(Path("runs").glob("*.keras")), validation))
    """
    measure = Measure(model, dataset, metric)
    pot = _Pot(model, refresh)
    try:
        named = _named(model, checkpoints)
        alone: list[tuple[Score, int, dict[str, float]]] = []
        for i, (_, checkpoint) in enumerate(named):
            pot.put(_read(model, checkpoint))
            results = measure()
            alone.append((measure.score(results), i, results))
        alone.sort(key=lambda one: one[0], reverse=True)  # stable: the first given of equal ones comes first
        score, first, results = alone[0]
        pot.start(_read(model, named[first][1]))
        rows = [_row(named[first][0], results, True, results)]
        best = results
        for _, i, single in alone[1:]:
            pot.try_with(_read(model, named[i][1]))
            found = measure()
            better = measure.score(found) >= score
            rows.append(_row(named[i][0], single, better, found))
            if better:
                score, results = measure.score(found), found
                pot.keep()
    except BaseException:
        pot.put_back()
        raise
    pot.finish()
    return Soup(tuple(rows), results, best)


def _row(name: str, single: Mapping[str, float], taken: bool, soup: Mapping[str, float]) -> Ingredient:
    return Ingredient(
        name, single["loss"], measured(single, "accuracy"), taken, soup["loss"], measured(soup, "accuracy")
    )


class _Pot:
    """The soup, its sum in double precision, and the model for its evaluation."""

    def __init__(self, model: keras.Model, refresh: tf.data.Dataset | None) -> None:
        self._model, self._refresh = model, refresh
        self._variables = list(model.weights)
        self._before = take(self._variables)
        self._kept: list[np.ndarray] = []

    def put(self, values: Sequence[np.ndarray]) -> None:
        put(self._variables, values)

    def put_back(self) -> None:
        put(self._variables, self._before)

    def start(self, values: Sequence[np.ndarray]) -> None:
        self.put(values)
        self._sum = [np.asarray(value, "float64") if is_floating(v) else value for v, value in self._pairs(values)]
        self._count = 1
        self._kept = take(self._variables)

    def try_with(self, values: Sequence[np.ndarray]) -> None:
        self._tried = [
            total + np.asarray(value, "float64") if is_floating(v) else total
            for total, (v, value) in zip(self._sum, self._pairs(values), strict=True)
        ]
        n = self._count + 1
        self.put([total / n if is_floating(v) else total for v, total in self._pairs(self._tried)])
        if self._refresh is not None:
            recompute(self._model, self._refresh, *training_norms(self._model))

    def keep(self) -> None:
        self._sum, self._count = self._tried, self._count + 1
        self._kept = take(self._variables)

    def finish(self) -> None:
        self.put(self._kept)

    def _pairs(self, values: Sequence[Any]) -> list[tuple[keras.Variable, Any]]:
        return list(zip(self._variables, values, strict=True))


def _named(model: keras.Model, checkpoints: Sequence[Checkpoint]) -> list[tuple[str, Checkpoint]]:
    """Return names of all checkpoints, after checking all of them."""
    if isinstance(checkpoints, (str, os.PathLike, Mapping)):
        raise PlanError(f"Expected a list of checkpoints. Received: one, {type(checkpoints).__name__}.")
    if not len(checkpoints):
        raise PlanError("Expected at least one checkpoint. Received: an empty list.")
    named, problems = [], []
    for i, checkpoint in enumerate(checkpoints):
        name = os.fspath(checkpoint) if isinstance(checkpoint, (str, os.PathLike)) else f"number {i + 1}"
        named.append((name, checkpoint))
        try:
            _read(model, checkpoint, name)
        except PlanError as error:
            problems.append(
                f"{name}: " + str(error).replace(":\n  - ", ": ").replace("\n  - ", "; ")
            )  # one line each, in a list of its own
    raise_problems(PlanError, "The checkpoints do not make a soup", problems)
    return named


def _read(model: keras.Model, checkpoint: Checkpoint, name: str = "the checkpoint") -> list[np.ndarray]:
    """Return the arrays of a checkpoint in the order of ``model.weights``."""
    if isinstance(checkpoint, (str, os.PathLike)):
        given: Any = _from_file(model, Path(checkpoint))
    else:
        given = checkpoint
    found = matched(model, given, name)
    missing = [v.path for i, v in enumerate(model.weights) if i not in found]
    if missing:
        raise PlanError(f"It has no values for {join_names(missing)}.")
    return [found[i] for i in range(len(found))]


def _from_file(model: keras.Model, path: Path) -> list[np.ndarray]:
    if not path.name.endswith(_ENDINGS):
        raise PlanError(f"Weights are read from files that end in {join_names(_ENDINGS)}; nothing else is opened.")
    if not path.is_file():
        raise PlanError("There is no such file.")
    try:
        if path.name.endswith(".keras"):
            loaded = keras.models.load_model(path, compile=False, safe_mode=True)
            _check_same_head(model, loaded)
            return take(loaded.weights)
        model.load_weights(path)
    except PlanError:
        raise
    except Exception as error:  # whatever a file of another kind makes Keras and h5py raise
        why = str(error).split("\n")[0]  # Keras goes on with lists of layers
        raise PlanError(f"It cannot be read into {model.name!r}: {why}") from error
    return take(model.weights)


def _check_same_head(model: keras.Model, other: keras.Model) -> None:
    """Raise an error if equal logits of two models mean something else: other classes, or another scale of numbers."""
    try:
        own, given = (heads.from_model(one).to_dict() for one in (model, other))
    except PlanError:  # a model without a head of tfft
        return
    differing = [name for name in own if name not in _OF_TRAINING and own[name] != given.get(name)]
    if differing:
        raise PlanError(
            f"Its head has other {join_names(differing)}, so an average of both would mean nothing. Train all models "
            "on one split: pass the result of tfft.data.load to each run."
        )
