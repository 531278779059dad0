"""Regression: each example has a number, or several."""

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
    """A number for each example, learned by squared error."""

    name: ClassVar[str] = "regression"
    selection: ClassVar[Metric] = Metric("loss", higher_is_better=False)

    def infer(self, values: Sequence[Any]) -> int:
        """Fits numbers, some of them with a fraction: whole numbers are more likely classes."""
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            return 0
        return 0 if all(number.is_integer() for number in numbers) else 2

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Refuses targets that are all the same."""
        from tfft.tasks.regression.head import constant_targets

        if not all(_fits(value) for value in values) or len({float(value) for value in values}) > 1:
            return []
        return [constant_targets([float(value) for value in values]).rstrip(".")]

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Refuses labels that are no finite numbers."""
        wrong = zip(places, values, strict=True)
        return [f"{place} has the label {value!r}, expected a number" for place, value in wrong if not _fits(value)]

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Returns float32 [N]."""
        return np.array([float(value) for value in values], np.float32)

    def head_factory(self) -> Callable[..., Head]:
        """Returns :func:`tfft.heads.regression`."""
        from tfft.tasks.regression.head import regression

        return regression

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Makes the head for a configuration; label smoothing and another loss have no meaning for numbers."""
        kept = {name: value for name, value in settings.items() if name in ("dropout", "l2")}
        return self.head_factory()(class_names or 1, **kept)

    def head_class(self) -> type[Head]:
        """Returns the class of its heads."""
        from tfft.tasks.regression.head import RegressionHead

        return RegressionHead

    def phase_defaults(self) -> Mapping[str, Default]:
        """Returns no dropout."""
        reason = "0: features that are left out move a number, where they hardly move a choice"
        return {"dropout": Default(0.0, reason)}

    def evaluator(self, head: Head) -> Evaluator:
        """Returns a new object that sums errors."""
        from tfft.tasks.regression.evaluator import RegressionEvaluator

        return RegressionEvaluator(head)

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Returns the scores."""
        return scores[..., : head.units].astype("float32")

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Returns the mean absolute error."""
        return {"error": float(np.mean(np.abs(outputs["value"] - labels.reshape(outputs["value"].shape))))}


def _fits(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


REGRESSION = Regression()
