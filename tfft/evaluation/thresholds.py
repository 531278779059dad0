"""Decision thresholds of labels: :func:`choose_thresholds`.

Implementation notes: thresholds are part of the head, so files, exports and ``evaluate`` use them. The probabilities
stay as they are.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfft import heads
from tfft.errors import PlanError
from tfft.evaluation.answers import logits_and_labels
from tfft.heads.logits import logits_layers

_LEAST = 50  # examples
_LEAST_OF_LABEL = 10  # examples with a label and without it, below which its threshold stays 1/2
_FOLDS = 5
_LIMIT = 12.0  # logits of thresholds: 6e-6 to 1 - 6e-6
_GOAL = re.compile(r"(precision|recall)\s*>=\s*(0?\.\d+|1(?:\.0*)?)")

Counts = tuple[np.ndarray, np.ndarray, np.ndarray]  # true positives, predicted and actual ones


@dataclasses.dataclass(frozen=True)
class LabelThreshold:
    """Threshold of one label, with its scores.

    Attributes:
        name: Name of the label.
        positives: Number of examples that have it.
        threshold: Probability from which the label is predicted.
        before: Precision, recall and F1 with a threshold of 1/2.
        after: The same with thresholds that were chosen on other examples.
        note: Reason why the threshold is 1/2, or why the goal is missed; else empty.
    """

    name: str
    positives: int
    threshold: float
    before: tuple[float, float, float]
    after: tuple[float, float, float]
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """Result of :func:`choose_thresholds`; ``print`` shows a line per label.

    Attributes:
        goal: Goal, as given.
        examples: Number of examples.
        labels: One row per label.
    """

    goal: str
    examples: int
    labels: tuple[LabelThreshold, ...]

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.labels)
        lines = [
            f"thresholds for {self.goal} from {self.examples} examples; scores on examples not used to choose them"
        ]
        for row in self.labels:
            scores = ", ".join(
                f"{name} {old:.3f} -> {new:.3f}"
                for name, old, new in zip(("precision", "recall", "F1"), row.before, row.after, strict=True)
            )
            note = f" ({row.note})" if row.note else ""
            lines.append(f"  {row.name:{width}} {row.threshold:.3f}  {scores}, {row.positives} positives{note}")
        return "\n".join(lines)


def choose_thresholds(model: keras.Model, dataset: Any, goal: str = "f1", *, seed: int = 0) -> Thresholds:
    """Choose the decision threshold of each label for a goal.

    Use it after training, and after :func:`tfft.calibrate`, where one kind of mistake costs more than the other or
    labels are rare. The scores of the result are cross-fitted: those of each fifth of the examples come from thresholds
    chosen on the others. A threshold stays 1/2 for a label with fewer than 10 positive or negative examples, and for
    ``"f1"`` where no other threshold is better on examples that did not choose it.

    Args:
        model: Model for multilabel, binary, or two classes, whose second class then has the threshold. Its head is
            changed in place.
        dataset: Examples that the model was not trained on, at least 50, as in :func:`tfft.evaluate`.
        goal: ``"f1"`` for the largest F1; ``"precision>=0.9"`` for the largest recall with this precision;
            ``"recall>=0.9"`` for the largest precision with this recall. Any number from 0 to 1.
        seed: Seed for the folds.

    Returns:
        A :class:`Thresholds`.

    Raises:
        PlanError: If the goal is unknown, or the model has no such labels.
        DataError: If there are fewer than 50 examples, or they cannot be used.

    Example:
        >>> print(tfft.choose_thresholds(model, tfft.data.load("tags.csv").validation, "precision>=0.9"))
        >>> tfft.export(model, "served/2")
    """
    choose = _chooser(goal)
    layers = logits_layers(model)
    head = heads.from_model(model)
    count = head.threshold_count
    if len(layers) != 1 or not count:
        raise PlanError(
            f"Expected a model whose labels have thresholds: multilabel, binary, or two classes. Received: "
            f"{head.task} with {head.units} outputs, of which the most probable one is the answer."
        )
    logits, labels = logits_and_labels(model, dataset, least=_LEAST, purpose="choose thresholds")
    if labels.ndim == 1:  # two classes with a logit each
        logits, labels = logits[:, 1:] - logits[:, :1], labels[:, None]
    given = np.asarray(labels > 0.5)
    folds = np.random.default_rng(seed).permutation(len(given)) % _FOLDS
    names = (head.class_names or tuple(map(str, range(head.units))))[-count:]
    rows = [_of_label(names[i], logits[:, i], given[:, i], choose, goal, folds) for i in range(count)]
    layers[0].head = head.with_thresholds([row.threshold for row in rows])
    return Thresholds(goal, len(given), tuple(rows))


def _of_label(
    name: str, logits: np.ndarray, given: np.ndarray, choose: Callable[[Counts], int | None], goal: str,
    folds: np.ndarray,
) -> LabelThreshold:  # fmt: skip
    """Choose the threshold of one label."""
    before = _scores(given, logits > 0)
    if min(given.sum(), (~given).sum()) < _LEAST_OF_LABEL:
        return LabelThreshold(name, int(given.sum()), 0.5, before, before, "too few examples to choose")
    predicted = np.zeros(len(given), bool)
    for fold in range(_FOLDS):
        known = folds != fold
        predicted[~known] = logits[~known] > _best(logits[known], given[known], choose)[0]
    after = _scores(given, predicted)
    if goal == "f1" and after[2] <= before[2]:
        return LabelThreshold(name, int(given.sum()), 0.5, before, before, "no other threshold is better")
    cutoff, reached = _best(logits, given, choose)
    note = "" if reached else f"no threshold reaches {goal}"
    return LabelThreshold(name, int(given.sum()), float(1 / (1 + np.exp(-cutoff))), before, after, note)


def _best(logits: np.ndarray, given: np.ndarray, choose: Callable[[Counts], int | None]) -> tuple[float, bool]:
    """Return the logit above which a label is given, and whether the goal is reached.

    If it is not, the cutoff has the largest precision.
    """
    order = np.argsort(-logits, kind="stable")
    ranked, hits = logits[order], np.cumsum(given[order])
    last = np.append(ranked[1:] < ranked[:-1], True)  # of examples with the same logit
    ends = np.flatnonzero(last)
    counts = hits[ends].astype(float), ends + 1.0, np.full(len(ends), float(given.sum()))
    at = choose(counts)
    reached = at is not None
    if at is None:
        at = int(np.argmax(counts[0] / counts[1]))
    below = ranked[ends[at] + 1] if ends[at] + 1 < len(ranked) else ranked[-1] - 1.0
    return float(np.clip((ranked[ends[at]] + below) / 2, -_LIMIT, _LIMIT)), reached


def _chooser(goal: str) -> Callable[[Counts], int | None]:
    """Return the function that chooses a place among counts for a goal; None where no place reaches it."""
    if goal == "f1":
        return lambda counts: int(np.argmax(2 * counts[0] / (counts[1] + counts[2])))
    found = _GOAL.fullmatch(goal.strip()) if isinstance(goal, str) else None
    if found is None:
        raise PlanError(f"Expected a goal: 'f1', 'precision>=0.9' or 'recall>=0.9'. Received: {goal!r}.")
    kind, least = found[1], float(found[2])

    def choose(counts: Counts) -> int | None:
        precision, recall = counts[0] / counts[1], counts[0] / counts[2]
        held, best = (precision, recall) if kind == "precision" else (recall, precision)
        allowed = np.flatnonzero(held >= least)
        return int(allowed[np.argmax(best[allowed])]) if len(allowed) else None

    return choose


def _scores(given: np.ndarray, predicted: np.ndarray) -> tuple[float, float, float]:
    """Return precision, recall and F1; 0 where nothing is predicted or given."""
    hits, made, there = float((given & predicted).sum()), float(predicted.sum()), float(given.sum())
    both = made + there
    return hits / made if made else 0.0, hits / there if there else 0.0, 2 * hits / both if both else 0.0
