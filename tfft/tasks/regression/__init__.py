"""Regression: one or more numbers per example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.registry import Default, Evaluator, ExampleResult, Metric, ScoreDisplay, Task

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["REGRESSION", "Regression"]


# Measures: the mean absolute errors of always answering the mean or the median of the training targets, and the root
# mean square error of the former.
MEAN_BASELINE, MEDIAN_BASELINE, RMSE_BASELINE = "mean_baseline", "median_baseline", "rmse_baseline"


class Regression(Task):
    """One number per example, trained with the squared error."""

    name: ClassVar[str] = "regression"
    numeric_labels: ClassVar[bool] = True
    selection: ClassVar[Metric] = Metric("loss", higher_is_better=False)

    def score_display(self, metric: str) -> ScoreDisplay:
        """Compare errors with those of a constant answer."""
        baselines = {MEAN_BASELINE: "always the mean", MEDIAN_BASELINE: "the median"}
        return ScoreDisplay(metric.replace("_", " "), higher_is_better=False, baselines=baselines)

    def example_results(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> list[ExampleResult]:
        """Rank by the mean absolute error."""
        results = []
        for true, given in zip(labels.reshape(len(labels), -1), outputs["value"].reshape(len(labels), -1), strict=True):
            label, prediction = (", ".join(f"{number:.6g}" for number in row) for row in (true, given))
            results.append(ExampleResult(label, prediction, float(np.abs(true - given).mean())))
        return results

    def class_scores(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the predicted numbers."""
        return outputs["value"].astype(np.float64).reshape(len(outputs["value"]), -1)

    def infer(self, values: Sequence[Any]) -> int:
        """Fit numbers, some of them with a fraction: integers are more likely classes. Lists of numbers too."""
        if not all(_fits(value) for value in values):
            return 0
        rows = [_row(value) for value in values]
        fraction = any(not number.is_integer() for row in rows for number in row)
        several = len({len(row) for row in rows}) == 1 and isinstance(values[0], list) and len(rows[0]) > 1
        return 0 if not fraction else 4 if several else 2

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Refuse targets that are all the same."""
        from tfft.tasks.regression.head import constant_targets

        if not all(_fits(value) for value in values):
            return []
        constant = [column for column in zip(*map(_row, values), strict=False) if len(set(column)) < 2]
        return [constant_targets(constant[0]).rstrip(".")] if constant else []

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Refuse labels that are not finite numbers."""
        wrong = list(zip(places, values, strict=True))
        width = len(_row(values[0])) if len(values) and _fits(values[0]) else 1
        other = [(place, value) for place, value in wrong if _fits(value) and len(_row(value)) != width]
        if other:
            return [f"{place} has {len(_row(v))} numbers, expected {width} as the first has" for place, v in other]
        return [f"{place} has the label {value!r}, expected a number" for place, value in wrong if not _fits(value)]

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return float32 [N], or [N, K] where each example has several numbers."""
        rows = np.array([_row(value) for value in values], np.float32)
        return rows[:, 0] if rows.shape[1] == 1 else rows

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.regression`."""
        from tfft.tasks.regression.head import regression

        return regression

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Build the head for a configuration; label smoothing and other losses do not apply."""
        kept = {name: value for name, value in settings.items() if name in ("dropout", "l2")}
        return self.head_factory()(class_names or 1, **kept)

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.regression.head import RegressionHead

        return RegressionHead

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return no dropout."""
        reason = "0: dropped features shift a number more than a class decision"
        return {"dropout": Default(0.0, reason)}

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that sums errors."""
        from tfft.tasks.regression.evaluator import RegressionEvaluator

        return RegressionEvaluator(head)

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return the scores."""
        return scores[..., : head.units].astype("float32")

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the mean absolute error."""
        return {"error": float(np.mean(np.abs(outputs["value"] - labels.reshape(outputs["value"].shape))))}


def _row(value: Any) -> list[float]:
    return [float(one) for one in (value if isinstance(value, list) else [value])]


def _fits(value: Any) -> bool:
    try:
        return bool(value or value == 0) and all(map(math.isfinite, _row(value)))
    except (TypeError, ValueError):
        return False


REGRESSION = Regression()
