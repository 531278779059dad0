"""Scores for one class out of several, also of a head with one logit for two classes."""

from __future__ import annotations

import numpy as np

from tfft.errors import DataError, join_names
from tfft.evaluation.scores import Scores, class_rows, names_of_units, wilson_interval
from tfft.heads import Head
from tfft.registry import Evaluator


class ClassEvaluator(Evaluator):
    """Counts for one class out of several (also of a binary head)."""

    def __init__(self, head: Head) -> None:
        self.task, self.decided = head.task, head.decided
        self.names = names_of_units(head.class_names, max(2, head.units))
        self.confusion = np.zeros((len(self.names), len(self.names)), np.int64)

    def check(self, labels: np.ndarray) -> None:
        """Raise an error for labels without an output in the head."""
        n = len(self.names)
        strange = sorted({int(v) for v in labels.reshape(-1) if not 0 <= v < n})
        if strange:
            raise DataError(
                f"The labels {join_names(strange)} have no class: the head has {n}, so labels go from 0 to {n - 1}."
            )

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        logits, n = self.decided(logits.reshape(len(labels), -1)), len(self.names)
        predicted = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(axis=-1)
        true = labels.reshape(len(labels), -1)[:, 0].astype(int)
        self.confusion += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all batches."""
        right, true, predicted = self.confusion.diagonal(), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        rows = class_rows(self.names, right, true, predicted)
        recalls = [row.recall for row in rows if row.recall is not None]
        f1s = [row.f1 or 0.0 for row in rows if row.examples]
        hits = int(right.sum())
        return Scores(
            task=self.task,
            examples=count,
            loss=loss,
            accuracy=hits / count,
            interval=wilson_interval(hits, count),
            majority_baseline=int(true.max()) / count,
            per_class=tuple(rows),
            confusion=self.confusion,
            measures={"balanced_accuracy": float(np.mean(recalls)), "macro_f1": float(np.mean(f1s))},
        )
