"""Multi-label classification: any number of labels per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.registry import Evaluator, ExampleResult, Task
from tfft.tasks.classification.labels import as_list, sorted_names, unknown_labels

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["MULTILABEL", "Multilabel"]


class Multilabel(Task):
    """Any number of labels per example, with one logit per label."""

    name: ClassVar[str] = "multilabel"

    def infer(self, values: Sequence[Any]) -> int:
        """Accept values with a list of labels."""
        return 3 if any(isinstance(value, list) for value in values) else 0

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the labels that occur."""
        return sorted_names(values)

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Report unknown labels."""
        return unknown_labels(values, class_names, places)

    def example_results(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> list[ExampleResult]:
        """Rank by the largest distance of a probability from its label."""
        names, results = head.class_names or (), []
        rows = zip(labels > 0.5, outputs["probabilities"], outputs["labels_above_threshold"], strict=True)
        for true, row, given in rows:
            both = ([name for name, on in zip(names, mask, strict=True) if on] for mask in (true, given))
            label, prediction = (", ".join(found) or "none" for found in both)
            error, certain = float(np.abs(row - true).max()), float(np.maximum(row, 1 - row).min())
            correct = bool((true == given).all())
            results.append(ExampleResult(label, prediction, error, certain, correct))
        return results

    def class_scores(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the log-odds of each label, its logit."""
        return outputs["logits"].astype(np.float64)

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return float32 [N, K] of 0 and 1."""
        position = {name: i for i, name in enumerate(class_names)}
        found = np.zeros((len(values), len(class_names)), np.float32)
        for row, value in enumerate(values):
            found[row, [position[one] for one in as_list(value)]] = 1.0
        return found

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of examples with each label."""
        return dict(zip(class_names, labels.sum(axis=0).astype(int).tolist(), strict=True))

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.multilabel`."""
        from tfft.tasks.multilabel.head import multilabel

        return multilabel

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration."""
        return self.head_factory()(class_names, **settings)

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.multilabel.head import MultilabelHead

        return MultilabelHead

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that counts hits for each label."""
        from tfft.tasks.multilabel.evaluator import MultilabelEvaluator

        return MultilabelEvaluator(head)

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return which scores are positive."""
        return (scores[..., : head.units] > 0).astype("float32")

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the share of single labels that are right."""
        return {"accuracy": float(np.mean(outputs["labels_above_threshold"] == (labels > 0.5)))}


MULTILABEL = Multilabel()
