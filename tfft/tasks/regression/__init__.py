"""Regression: one or more numbers per example."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.registry import Default, Evaluator, Metric, Task

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["REGRESSION", "Regression"]


class Regression(Task):
    """One number per example, trained with the squared error."""

    name: ClassVar[str] = "regression"
    selection: ClassVar[Metric] = Metric("loss", higher_is_better=False)

    def infer(self, values: Sequence[Any]) -> int:
        """Accept numbers, some of them fractional: integers are more likely classes."""
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            return 0
        return 0 if all(number.is_integer() for number in numbers) else 2

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Report labels that are not finite numbers."""
        wrong = zip(places, values, strict=True)
        return [f"{place} has the label {value!r}, expected a number" for place, value in wrong if not _fits(value)]

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return float32 [N]."""
        return np.array([float(value) for value in values], np.float32)

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


def _fits(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


REGRESSION = Regression()
