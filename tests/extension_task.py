"""A task from outside of tfft, whole: ordinal regression, K classes in an order.

The head has K - 1 logits, the k-th saying whether the grade is above the k-th (Frank and Hall, 2001, with one network).
It is trained, since there is no closed form, and the epoch with the smallest mean absolute error is the best.
"""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError
from tfft.evaluation import Scores
from tfft.evaluation.scores import mean_interval
from tfft.heads import Head
from tfft.registry import Default, Evaluator, Metric, Task

GRADES = ("poor", "fair", "good", "very good")


@dataclasses.dataclass(frozen=True)
class OrdinalHead(Head):
    """Logit k says whether the grade is above the k-th."""

    scale: float = 1.0

    @staticmethod
    def units_for(class_names):
        return len(class_names) - 1

    def loss(self, *, soft=False):
        return OrdinalLoss(name="ordinal_loss")

    def metrics(self, *, soft=False):
        return [keras.metrics.MeanMetricWrapper(_grades_off, name="mean_absolute_error")]

    def postprocess(self, logits):
        grade = tf.reduce_sum(tf.cast(tf.cast(logits, tf.float32) > 0, tf.int32), axis=-1)
        return {"grade": grade, "name": tf.gather(tf.constant(self.class_names), grade)}


@keras.saving.register_keras_serializable(package="extension_task")
class OrdinalLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        labels = keras.ops.cast(keras.ops.reshape(y_true, (-1, 1)), "int32")
        above = keras.ops.cast(labels > keras.ops.arange(y_pred.shape[-1]), "float32")
        return keras.losses.binary_crossentropy(above, y_pred, from_logits=True)


@keras.saving.register_keras_serializable(package="extension_task")
def _grades_off(y_true, y_pred):
    grade = keras.ops.sum(keras.ops.cast(y_pred > 0, "float32"), axis=-1)
    return keras.ops.abs(keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "float32") - grade)


class OrdinalEvaluator(Evaluator):
    def __init__(self, head):
        self.head, self.total, self.squares = head, 0.0, 0.0

    def check(self, labels):
        if labels.min() < 0 or labels.max() > self.head.units:
            raise DataError(f"Expected grades from 0 to {self.head.units}.")

    def update(self, labels, logits):
        off = np.abs(labels.reshape(-1) - (logits > 0).sum(-1))
        self.total, self.squares = self.total + float(off.sum()), self.squares + float((off**2).sum())

    def result(self, count, loss):
        error = {"mean_absolute_error": self.total / count}
        interval = mean_interval(self.total, self.squares, count)
        return Scores("ordinal", count, loss, None, interval, metric="mean_absolute_error", measures=error)


class Ordinal(Task):
    name = "ordinal"
    labels_from_folders = True
    solves_head = False
    selection = Metric("mean_absolute_error", higher_is_better=False)

    def class_names(self, values):
        return tuple(grade for grade in GRADES if grade in values)

    def label_problems(self, values, class_names, places):
        return [f"{place} has the grade {v!r}" for place, v in zip(places, values, strict=True) if v not in class_names]

    def encode(self, values, class_names):
        return np.array([class_names.index(value) for value in values], np.int32)

    def make_head(self, class_names, *, label_smoothing=0.0, loss="cross_entropy", **settings):
        return OrdinalHead("ordinal", tuple(class_names), len(class_names) - 1, **settings)

    def head_class(self):
        return OrdinalHead

    def evaluator(self, head):
        return OrdinalEvaluator(head)

    def phase_defaults(self):
        return {"dropout": Default(0.0, "0: grades are learned without")}

    def unsupported(self, config):
        if config.class_weight:
            yield "class_weight does not apply to grades"

    def format_prediction(self, name, outputs):
        return f"{name} is {outputs['name']}" if "name" in outputs else super().format_prediction(name, outputs)

    def sample_labels(self, head, scores):
        return np.digitize(scores[..., 0], np.linspace(-1, 1, head.units)).astype("int32")

    def score_served(self, head, outputs, labels):
        return {"mean_absolute_error": float(np.mean(np.abs(outputs["grade"] - labels)))}
