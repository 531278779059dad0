"""Scores of an evaluation with confidence intervals, as a table or as plain values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.table import Table

from tfft import registry
from tfft.console.tables import render

_Z95 = 1.959963984540054  # the 97.5 % point of the normal distribution
_ROWS_SHOWN = 25
_DENSE_CONFUSION = 200
_OLD = {"tokens": {"task": "token_classification", "items": "sentences"}}  # what scores of earlier runs say otherwise


def wilson_interval(right: float, total: int, z: float = _Z95) -> tuple[float, float]:
    """Return the confidence interval of a proportion, by Wilson's score method (1927).

    It stays within 0 and 1 and is accurate for few examples and for shares near 1, unlike the usual "plus or minus 1.96
    standard errors".

    Args:
        right: Number of successes.
        total: Number of trials, at least 1.
        z: Normal quantile; the default gives 95 %.

    Returns:
        Lower and upper end.

    Example:
        >>> low, high = wilson_interval(9, 10)
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
    """
    share, spread = right / total, z * z / total
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    # At a share of 0 or 1 the end is exactly that; rounding must not push it past.
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def mean_interval(total: float, squares: float, count: int) -> tuple[float, float]:
    """Return the normal 95 % interval of a mean, from the sum and the sum of squares."""
    mean = total / count
    variance = max(0.0, squares / count - mean * mean) * count / max(1, count - 1)
    half = _Z95 * math.sqrt(variance / count)
    return mean - half, mean + half


def f1_interval(counts: np.ndarray, *, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % interval of the entity F1, from the counts of each sentence.

    It is a bootstrap over sentences, because the entities of one sentence are not independent. A bootstrap cannot
    represent mistakes that are not in these sentences: without any mistake, its interval would be 1 to 1. So the
    interval is never narrower than the one from Wilson's score method for as many independent entities: F1 is 2 j / (1
    + j) of the share j of entities, true or predicted, that are both.

    Args:
        counts: Integers [S, 3]: correct, true and predicted entities of each sentence.
        draws: Number of bootstrap samples.
        seed: Seed for the bootstrap.

    Returns:
        Lower and upper end; 0 and 1 without entities.
    """
    right, true, predicted = np.asarray(counts, np.int64).reshape(-1, 3).sum(axis=0).tolist()
    if not true + predicted:
        return 0.0, 1.0
    independent = [2 * j / (1 + j) for j in wilson_interval(right, true + predicted - right)]
    kinds, often = np.unique(counts, axis=0, return_counts=True)  # equivalent to all sentences, and few
    drawn = np.random.default_rng(seed).multinomial(often.sum(), often / often.sum(), size=draws) @ kinds
    entities = drawn[:, 1] + drawn[:, 2]
    values = 2 * drawn[:, 0][entities > 0] / entities[entities > 0]
    low, high = np.quantile(values, (0.025, 0.975)).tolist() if len(values) else (0.0, 1.0)
    return min(low, independent[0]), max(high, independent[1])


@dataclasses.dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        name: Class name.
        examples: Number of its examples; of its pixels for semantic segmentation.
        predicted: Number of predictions of this class.
        precision: Share of the predictions that are correct; None without predictions.
        recall: Share of its examples that are found; None without examples.
        f1: Harmonic mean of both, which is also called the Dice coefficient; None if either is.
        measures: Further numbers by name, such as the average precision; empty for most tasks.
    """

    name: str
    examples: int
    predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        values = dataclasses.asdict(self)
        return values if values["measures"] else {name: values[name] for name in values if name != "measures"}

    @property
    def iou(self) -> float | None:
        """Intersection over union, a function of f1; None if that is."""
        return None if self.f1 is None else self.f1 / (2 - self.f1)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Result of :func:`tfft.evaluation.evaluate`; ``print`` shows it as a table.

    Attributes:
        task: Task of the head, such as ``"classification"``; ``kind`` in stored scores.
        examples: Number of examples; of sentences for token classification.
        loss: Mean loss per example, without weight decay; per word for token classification.
        accuracy: Share of correct predictions; for multi-label, of single labels; for token classification, of words;
            for semantic segmentation, of pixels; None for regression and detection.
        interval: 95 % interval of :attr:`metric` (Wilson's for classes, normal otherwise; for f1 see
            :func:`f1_interval`, for the mean IoU and the map a bootstrap over images).
        metric: Metric of the interval: ``"accuracy"``, ``"mean_absolute_error"``, ``"f1"`` of the entities in
            sentences, ``"mean_iou"`` of pixels, or ``"map"`` of detected objects.
        majority_baseline: Accuracy, or mean IoU, of always predicting the most frequent class, or the map of the same
            boxes in every image; None for regression and f1.
        per_class: One row per class, or per entity type if the metric is f1; empty for regression.
        confusion: Examples by true class (row) and predicted class (column); None if not applicable. For
            detected objects the last row and column are the background.
        measures: Further numbers by name; for regression also the errors of always predicting the mean or the median of
            the training targets, ``"mean_baseline"`` and ``"median_baseline"``.
        items: Plural noun for the examples, such as "sentences".
        notes: Further lines for a person, such as how a score was computed, or sample answers.
    """

    task: str
    examples: int
    loss: float
    accuracy: float | None
    interval: tuple[float, float]
    metric: str = "accuracy"
    majority_baseline: float | None = None
    per_class: tuple[ClassScore, ...] = ()
    confusion: np.ndarray | None = None
    measures: Mapping[str, float] = dataclasses.field(default_factory=dict)
    items: str = "examples"
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """Value of :attr:`metric`, to which :attr:`interval` belongs."""
        return float(
            self.measures[self.metric] if self.accuracy is None or self.metric != "accuracy" else self.accuracy
        )

    @property
    def display(self) -> registry.ScoreDisplay:
        """Words of the task for its scores."""
        return registry.task_or_plain(self.task).score_display(self.metric)

    @property
    def lower_is_better(self) -> bool:
        """Whether :attr:`value` is an error."""
        return not self.display.higher_is_better

    @property
    def baselines(self) -> dict[str, float]:
        """The same score of further simple answers, such as the training mean and median; empty if there are none."""
        return {name: self.measures[name] for name in self.display.baselines if name in self.measures}

    @property
    def learned_nothing(self) -> bool:
        """Whether a baseline is as good, such as the majority class or the training median."""
        known = [*self.baselines.values(), *(() if self.majority_baseline is None else (self.majority_baseline,))]
        if not known:
            return False
        return self.value >= min(known) if self.lower_is_better else self.value <= max(known)

    @property
    def most_confused(self) -> list[tuple[str, str, int]]:
        """Up to ten most confused pairs of classes: true class, predicted class, count."""
        if self.confusion is None:
            return []
        off = np.array(self.confusion)
        np.fill_diagonal(off, 0)
        names = [*(row.name for row in self.per_class), "background"]
        order = np.argsort(off, axis=None, kind="stable")[::-1][:10]
        pairs = [tuple(int(i) for i in np.unravel_index(at, off.shape)) for at in order]
        return [(names[i], names[j], int(off[i, j])) for i, j in pairs if off[i, j]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; the confusion matrix only up to 200 classes."""
        counts = self.confusion
        dense = None if counts is None or len(counts) > _DENSE_CONFUSION else counts.tolist()
        return {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "interval": list(self.interval),
            "examples": self.examples,
            "kind": self.task,
            "metric": self.metric,
            "majority_baseline": self.majority_baseline,
            "measures": dict(self.measures),
            "per_class": [row.to_dict() for row in self.per_class],
            "confusion": dense,
            "items": self.items,
            **({"notes": list(self.notes)} if self.notes else {}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scores:
        """Build scores from the result of :meth:`to_dict`."""
        values = dict(values)
        values["task"] = values.pop("kind")
        values |= _OLD.get(values["task"], {})
        if "majority" in values:  # the name before 0.1.0
            values["majority_baseline"] = values.pop("majority")
        values["interval"] = tuple(values["interval"])
        values["notes"] = tuple(values.get("notes", ()))
        values["per_class"] = tuple(ClassScore(**row) for row in values["per_class"])
        if values["confusion"] is not None:
            values["confusion"] = np.array(values["confusion"])
        return cls(**values)

    def is_worse_than(self, other: Scores) -> bool:
        """Whether the main score is worse than that of other scores of the same task."""
        return self.value > other.value if self.lower_is_better else self.value < other.value

    @property
    def brief(self) -> str:
        """The main score without its interval."""
        return f"{self.display.metric} {self.value:.4f}"

    @property
    def summary(self) -> str:
        """The result in one line."""
        (low, high), words = self.interval, self.display
        text = f"{words.metric} {self.value:.4f} (95 % interval {low:.4f} to {high:.4f}, {self.examples} {self.items})"
        parts = [text, *([words.details.format(accuracy=self.accuracy, **self.measures)] if words.details else ())]
        if self.majority_baseline is not None:
            parts.append(f"{words.baseline} {self.majority_baseline:.4f}")
        parts += [f"{words.baselines[name]} {value:.4f}" for name, value in self.baselines.items()]
        return ", ".join(parts) + (": nothing was learned" if self.learned_nothing else "")

    def __str__(self) -> str:
        measures = "".join(
            f", {k} {v if isinstance(v, int) else f'{v:.4f}'}"
            for k, v in self.measures.items()
            if not k.startswith("iou of ")
        )
        lines = [self.summary, f"loss {self.loss:.4f}{measures}"]
        if not self.per_class:
            return "\n".join((*lines, *self.notes))
        rows, words = list(self.per_class), self.display
        title = words.table
        if len(rows) > _ROWS_SHOWN:
            rows = sorted(rows, key=lambda row: 1.0 if row.recall is None else row.recall)[:_ROWS_SHOWN]
            title = f"the {_ROWS_SHOWN} rows of {len(self.per_class)} with the lowest recall"
        table = Table(title=title, title_justify="left")
        table.add_column(words.row)
        for name in (words.count, "predicted", "precision", "recall", *words.columns):
            table.add_column(name, justify="right")
        further = list(dict.fromkeys(name for row in rows for name in row.measures))
        for name in further:
            table.add_column(name, justify="right")
        for row in rows:
            values = (row.precision, row.recall, row.f1, row.iou)[: 2 + len(words.columns)]
            values += tuple(row.measures.get(name) for name in further)
            shares = ["-" if x is None else f"{x:.3f}" for x in values]
            table.add_row(row.name, str(row.examples), str(row.predicted), *shares)
        lines.append(render(table))
        if self.most_confused:
            lines.append("most confused: " + "; ".join(f"{a} taken for {b} {n}x" for a, b, n in self.most_confused[:5]))
        return "\n".join((*lines, *self.notes))


def class_score(
    name: str, right: int, examples: int, predicted: int, *, measures: Mapping[str, float] | None = None
) -> ClassScore:
    """Return the scores of one class from its counts, and its further measures."""
    precision = right / predicted if predicted else None
    recall = right / examples if examples else None
    f1 = None if precision is None or recall is None else 2 * right / (examples + predicted)
    return ClassScore(name, int(examples), int(predicted), precision, recall, f1, dict(measures or {}))


def class_rows(names: Sequence[str], right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> list[ClassScore]:
    """Return the scores of all classes from their counts, one number per class."""
    counts = zip(right.tolist(), true.tolist(), predicted.tolist(), strict=True)
    return [class_score(name, *row) for name, row in zip(names, counts, strict=True)]


def names_of_units(class_names: Sequence[str] | None, count: int) -> list[str]:
    """Return the class names of a head, or numbers if it has none."""
    names = list(class_names or ())
    if len(names) == 1 and count == 2:
        return [f"not {names[0]}", names[0]]
    return names if len(names) == count else [str(i) for i in range(count)]
