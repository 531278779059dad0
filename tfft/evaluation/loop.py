"""Runs a model over a dataset and counts: :func:`evaluate`.

Hides that only counts and sums are kept, so that memory does not grow with the dataset.
What is counted where words are tagged is in :mod:`tfft.tasks.token_classification.scores`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.errors import DataError, TfftError, listed
from tfft.evaluation.scores import ClassScore, Scores, class_score, mean_interval, wilson_interval
from tfft.layers.pixel_checks import check_pixels
from tfft.tasks.token_classification.scores import Tags


def evaluate(model: keras.Model, dataset: tf.data.Dataset, *, head: heads.Head | None = None) -> Scores:
    """Measures a model on labelled examples that it was not trained on.

    Use it on held-out data; it needs no ``compile``.

    Args:
        model: gives logits (values for regression), as models of :func:`tfft.build` do.
        dataset: finite, batches of (inputs, labels): int labels [B] for classes, 0 or 1 for a binary
            head, floats [B, classes] of 0 and 1 for several labels, floats [B] or [B, n] for regression, ints
            [B, W] for the tags of words, below 0 for padding.
        head: what the outputs mean; None finds the model's own.

    Returns:
        Scores with a 95 % interval, precision and recall per class, and the baseline of always
        answering the commonest class. Where words are tagged with ``B-`` and ``I-``, precision, recall and F1 are of
        whole entities (:func:`tfft.tasks.token_classification.entities`); words beyond the model's limit count with
        the tag that is predicted for them, ``"O"``, and ``measures["words_not_seen"]`` is their number.

    Raises:
        DataError: when the dataset is empty, infinite, has labels that the head has no class for, or gives
            floating images in 0 to 1 to a model that takes pixels in 0 to 255.
        TfftError: when the model has no head of tfft and none is given, or gives NaN.

    Example:
        >>> scores = tfft.evaluate(model, validation)
        >>> print(scores.line)
        accuracy 0.9542 (95 % interval 0.9085 to 0.9776, 153 examples), commonest class 0.5425
    """
    head = heads.of(model) if head is None else head
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        raise DataError(f"Evaluation needs batches of (inputs, labels); this dataset gives {spec}.")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError("The dataset never ends (it repeats): evaluate a finite one, for example dataset.take(n).")
    loss_of = head.loss()

    @tf.function(input_signature=[spec[0], spec[1]])  # one trace also for a shorter last batch
    def forward(inputs: Any, labels: Any) -> tuple[tf.Tensor, tf.Tensor]:
        logits = tf.cast(model(inputs, training=False), tf.float32)
        return logits, loss_of(labels, logits)

    tally = _TALLIES[head.kind](head)
    count, weighed, loss, bad = 0, 0, 0.0, 0
    takes_pixels = _takes_pixels(model)
    for batch in dataset:
        if takes_pixels and not count:
            for images in keras.tree.flatten(batch[0]):
                check_pixels(images, "the dataset")
        labels = np.asarray(batch[1])
        tally.check(labels)
        logits, batch_loss = (np.asarray(t) for t in forward(batch[0], batch[1]))
        count += len(labels)
        weight = tally.weight(labels, logits) if isinstance(tally, Tags) else len(labels)
        weighed += weight
        loss += float(batch_loss) * weight
        bad += int((~np.isfinite(logits)).reshape(len(labels), -1).any(axis=-1).sum())
        tally.add(labels, logits)
    if not count:
        raise DataError("The dataset holds no examples, so there is nothing to measure.")
    if bad:
        raise TfftError(
            f"The model gives NaN or infinity for {bad} of {count} examples: its weights or the inputs hold some."
        )
    return tally.scores(count, loss / max(weighed, 1))


class _Classes:
    """Counts for one class out of several (also of a binary head)."""

    def __init__(self, head: heads.Head) -> None:
        self.kind = head.kind
        self.names = _class_names(head, 2 if head.kind == "binary" else head.units)
        self.confusion = np.zeros((len(self.names), len(self.names)), np.int64)

    def check(self, labels: np.ndarray) -> None:
        n = len(self.names)
        strange = sorted({int(v) for v in labels.reshape(-1) if not 0 <= v < n})
        if strange:
            raise DataError(
                f"The labels {listed(strange)} have no class: the head has {n}, so labels go from 0 to {n - 1}."
            )

    def add(self, labels: np.ndarray, logits: np.ndarray) -> None:
        logits, n = logits.reshape(len(labels), -1), len(self.names)
        predicted = (logits[:, 0] > 0).astype(int) if logits.shape[1] == 1 else logits.argmax(axis=-1)
        true = labels.reshape(len(labels), -1)[:, 0].astype(int)
        self.confusion += np.bincount(true * n + predicted, minlength=n * n).reshape(n, n)

    def scores(self, count: int, loss: float) -> Scores:
        right, true, predicted = self.confusion.diagonal(), self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        rows = _rows(self.names, right, true, predicted)
        recalls = [row.recall for row in rows if row.recall is not None]
        f1s = [row.f1 or 0.0 for row in rows if row.examples]
        hits = int(right.sum())
        return Scores(
            kind=self.kind,
            examples=count,
            loss=loss,
            accuracy=hits / count,
            interval=wilson_interval(hits, count),
            majority=int(true.max()) / count,
            per_class=tuple(rows),
            confusion=self.confusion,
            measures={"balanced_accuracy": float(np.mean(recalls)), "macro_f1": float(np.mean(f1s))},
        )


class _Labels:
    """Counts for several yes-or-no labels per example."""

    def __init__(self, head: heads.Head) -> None:
        self.names = _class_names(head, head.units)
        self.right, self.true, self.predicted = (np.zeros(len(self.names), np.int64) for _ in range(3))
        self.exact, self.total, self.squares = 0, 0.0, 0.0

    def check(self, labels: np.ndarray) -> None:
        if labels.ndim != 2 or labels.shape[1] != len(self.names) or not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"Expected labels [B, {len(self.names)}] of 0 and 1, one column per label; got {labels.shape}."
            )

    def add(self, labels: np.ndarray, logits: np.ndarray) -> None:
        true, predicted = labels > 0.5, logits > 0
        self.right += (true & predicted).sum(axis=0)
        self.true += true.sum(axis=0)
        self.predicted += predicted.sum(axis=0)
        share = (true == predicted).mean(axis=-1)
        self.exact += int((share == 1).sum())
        self.total += float(share.sum())
        self.squares += float((share**2).sum())

    def scores(self, count: int, loss: float) -> Scores:
        rows = _rows(self.names, self.right, self.true, self.predicted)
        both = int(self.true.sum() + self.predicted.sum())
        low, high = mean_interval(self.total, self.squares, count)
        return Scores(
            kind="multilabel",
            examples=count,
            loss=loss,
            accuracy=self.total / count,
            interval=(max(0.0, low), min(1.0, high)),
            majority=float(np.maximum(self.true, count - self.true).mean() / count),
            per_class=tuple(rows),
            measures={
                "exact_match": self.exact / count,
                "micro_f1": 2 * int(self.right.sum()) / both if both else 0.0,
                "macro_f1": float(np.mean([row.f1 or 0.0 for row in rows])),
            },
        )


class _Values:
    """Sums for numbers."""

    def __init__(self, head: heads.Head) -> None:
        self.units, self.values = head.units, 0
        self.absolute, self.absolute_squares, self.squares, self.true, self.true_squares = (0.0,) * 5

    def check(self, labels: np.ndarray) -> None:
        if labels.size != len(labels) * self.units or not np.isfinite(labels).all():
            raise DataError(f"Expected finite labels [B, {self.units}], one per value of the head; got {labels.shape}.")

    def add(self, labels: np.ndarray, logits: np.ndarray) -> None:
        true, given = (a.reshape(len(labels), -1).astype(np.float64) for a in (labels, logits))
        off = np.abs(given - true)
        self.values += true.size
        self.absolute += float(off.mean(axis=-1).sum())
        self.absolute_squares += float((off.mean(axis=-1) ** 2).sum())
        self.squares += float((off**2).sum())
        self.true += float(true.sum())
        self.true_squares += float((true**2).sum())

    def scores(self, count: int, loss: float) -> Scores:
        spread = self.true_squares - self.true**2 / self.values
        low, high = mean_interval(self.absolute, self.absolute_squares, count)
        measures = {
            "mean_absolute_error": self.absolute / count,
            "root_mean_square_error": (self.squares / self.values) ** 0.5,
        }
        if spread > 0:
            measures["r2"] = 1 - self.squares / spread
        return Scores(
            kind="regression",
            examples=count,
            loss=loss,
            accuracy=None,
            interval=(max(0.0, low), high),
            metric="mean_absolute_error",
            measures=measures,
        )


_TALLIES: dict[str, Callable[[heads.Head], Any]] = {
    "classification": _Classes,
    "binary": _Classes,
    "multilabel": _Labels,
    "regression": _Values,
    "tokens": Tags,
}


def _takes_pixels(model: keras.Model) -> bool:
    inputs = getattr(model, "inputs", None) or []  # a subclassed model has none
    return len(inputs) == 1 and inputs[0].dtype == "uint8"


def _rows(names: list[str], right: np.ndarray, true: np.ndarray, predicted: np.ndarray) -> list[ClassScore]:
    counts = zip(right.tolist(), true.tolist(), predicted.tolist(), strict=True)
    return [class_score(name, *row) for name, row in zip(names, counts, strict=True)]


def _class_names(head: heads.Head, count: int) -> list[str]:
    names = list(head.class_names or ())
    if len(names) == 1 and count == 2:
        return [f"not {names[0]}", names[0]]
    return names if len(names) == count else [str(i) for i in range(count)]
