"""Scores for several yes-or-no labels per example."""

from __future__ import annotations

import numpy as np

from tfft.errors import DataError
from tfft.evaluation.scores import Scores, class_rows, mean_interval, names_of_units
from tfft.heads import Head
from tfft.registry import Evaluator


class MultilabelEvaluator(Evaluator):
    """Counts for several yes-or-no labels per example."""

    def __init__(self, head: Head) -> None:
        self.names, self.decided = names_of_units(head.class_names, head.units), head.decided
        self.right, self.true, self.predicted = (np.zeros(len(self.names), np.int64) for _ in range(3))
        self.exact, self.total, self.squares = 0, 0.0, 0.0

    def check(self, labels: np.ndarray) -> None:
        """Raise an error for labels without an output in the head."""
        if labels.ndim != 2 or labels.shape[1] != len(self.names) or not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"Expected labels [B, {len(self.names)}] of 0 and 1, one column per label. Received: {labels.shape}."
            )

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        true, predicted = labels > 0.5, self.decided(logits) > 0
        self.right += (true & predicted).sum(axis=0)
        self.true += true.sum(axis=0)
        self.predicted += predicted.sum(axis=0)
        share = (true == predicted).mean(axis=-1)
        self.exact += int((share == 1).sum())
        self.total += float(share.sum())
        self.squares += float((share**2).sum())

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all batches."""
        rows = class_rows(self.names, self.right, self.true, self.predicted)
        both = int(self.true.sum() + self.predicted.sum())
        low, high = mean_interval(self.total, self.squares, count)
        return Scores(
            task="multilabel",
            examples=count,
            loss=loss,
            accuracy=self.total / count,
            interval=(max(0.0, low), min(1.0, high)),
            majority_baseline=float(np.maximum(self.true, count - self.true).mean() / count),
            per_class=tuple(rows),
            measures={
                "exact_match": self.exact / count,
                "micro_f1": 2 * int(self.right.sum()) / both if both else 0.0,
                "macro_f1": float(np.mean([row.f1 or 0.0 for row in rows])),
            },
        )
