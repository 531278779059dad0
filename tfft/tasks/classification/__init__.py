"""Classification: each example has one of several classes; binary with a single logit for two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.errors import join_names
from tfft.registry import Evaluator, ExampleResult, Task
from tfft.tasks.classification.labels import sorted_names, unknown_labels

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["BINARY", "CLASSIFICATION", "Binary", "Classification"]

_IDS = 100  # distinct labels from which a column of hardly repeated values is taken for an id
_SEVERAL = "some examples have several labels: task='multilabel' takes them"


class Classification(Task):
    """One of several classes per example, with one logit per class."""

    name: ClassVar[str] = "classification"
    exclusive_classes: ClassVar[bool] = True
    labels_from_folders: ClassVar[bool] = True
    checks_label_errors: ClassVar[bool] = True

    def infer(self, values: Sequence[Any]) -> int:
        """Accept all labels except lists, with the lowest priority."""
        return 0 if any(isinstance(value, list) for value in values) else 1

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the labels that occur."""
        return sorted_names(values)

    def example_results(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> list[ExampleResult]:
        """Rank mistakes by the probability of the wrong class, correct predictions by their doubt."""
        names, results = head.class_names or (), []
        places = {name.encode(): at for at, name in enumerate(names)}
        for true, row, label in zip(
            labels.astype(int).ravel(), outputs["probabilities"], outputs["label"], strict=True
        ):
            best = places[label]  # the most probable class, unless a threshold says otherwise
            confidence = float(row[best])
            correct = bool(best == true)
            error = 1.0 - confidence if correct else 1.0 + confidence
            results.append(ExampleResult(names[true], names[best], error, confidence, correct))
        return results

    def class_scores(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the log-odds of each class against all others; those of probabilities would saturate."""
        logits = outputs["logits"].astype(np.float64)
        others = [np.logaddexp.reduce(np.delete(logits, at, axis=1), axis=1) for at in range(logits.shape[1])]
        return logits - np.stack(others, axis=1)

    def label_problems(self, values: Sequence[Any], class_names: Sequence[str], places: Sequence[str]) -> list[str]:
        """Report examples with several labels, and unknown labels."""
        if any(isinstance(value, list) for value in values):
            return [_SEVERAL]
        return unknown_labels(values, class_names, places)

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Report a single class, labels that look like an id, and classes that cannot be split."""
        count = len(values)
        if any(isinstance(value, list) for value in values):
            return [_SEVERAL]
        if len(class_names) < 2:
            return [f"all {count} examples have the label {class_names[0]!r}. Expected at least two classes"]
        if len(class_names) > _IDS and count / len(class_names) < 2:
            return [
                f"{len(class_names)} of {count} labels are different, such as {class_names[0]!r}: is that column an id "
                "or a text?"
            ]
        counts = dict.fromkeys(class_names, 0)
        for value in values:
            counts[value] += 1
        single = [name for name in class_names if counts[name] < 2]
        if not split or not single:
            return []
        return [
            "each class needs at least 2 examples, one to learn from and one to hold out; too few: "
            f"{join_names(single)}"
        ]

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return the number of each label, int32 [N]."""
        position = {name: i for i, name in enumerate(class_names)}
        return np.array([position[value] for value in values], np.int32)

    def strata(self, labels: np.ndarray) -> np.ndarray | None:
        """Return the labels, which are numbers of classes."""
        return labels

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of examples of each class."""
        totals = np.bincount(labels, minlength=len(class_names))
        return dict(zip(class_names, totals.tolist(), strict=True))

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.classification`."""
        from tfft.tasks.classification.head import classification

        return classification

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration."""
        return self.head_factory()(class_names, **settings)

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.classification.head import ClassificationHead

        return ClassificationHead

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that counts hits for each class."""
        from tfft.tasks.classification.evaluator import ClassEvaluator

        return ClassEvaluator(head)

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return the number of the largest score."""
        return scores.argmax(-1).astype("int32")

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the share of examples whose served label is right."""
        names = np.array(head.class_names, dtype=bytes)
        return {"accuracy": float(np.mean(outputs["label"] == names[labels]))}


class Binary(Classification):
    """One of two classes per example, with a single logit; only on request."""

    name: ClassVar[str] = "binary"
    labels_from_folders: ClassVar[bool] = False

    def infer(self, values: Sequence[Any]) -> int:
        """Never chosen automatically: two classes get two logits unless ``task="binary"`` is given."""
        return 0

    def class_scores(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the log-odds of both classes, the logit and its negative."""
        logits = outputs["logits"].astype(np.float64)
        return np.concatenate([-logits, logits], axis=1)

    def learning_problems(self, values: Sequence[Any], class_names: Sequence[str], *, split: bool) -> list[str]:
        """Report the problems of classification, and more than two classes."""
        problems = super().learning_problems(values, class_names, split=split)
        if not problems and len(class_names) > 2:
            return [
                f"binary needs two classes, and the labels have {len(class_names)}: {join_names(class_names, limit=5)}"
            ]
        return problems

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.binary`."""
        from tfft.tasks.classification.head import binary

        return binary

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.classification.head import BinaryHead

        return BinaryHead


CLASSIFICATION, BINARY = Classification(), Binary()
