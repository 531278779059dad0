"""Average precision as a Keras metric: :class:`AveragePrecision`."""

from __future__ import annotations

from typing import Any

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.tasks.object_detection.geometry import EXTRA, areas, intersections, iou, points_of  # noqa: E402

_CANDIDATES, _DETECTIONS = 300, 100
_BINS = 128
_MATCH = 0.5  # IoU


@keras.saving.register_keras_serializable(package="tfft")
class AveragePrecision(keras.metrics.Metric):
    """Mean over the classes of the average precision at an IoU of 0.5, for choosing an epoch.

    It streams: detections are counted by class and score in 128 bins, so memory does not grow with the dataset. This
    makes it an approximation of what :func:`tfft.evaluate` measures. Detections in one bin share one point of the
    precision-recall curve; only the 300 best scores of an image enter the suppression; and as in Pascal VOC
    (Everingham et al., IJCV 2010), a detection counts for the object that it overlaps most, the strongest of each
    object is correct and the others are not. Detections mostly within a crowd region of their class do not count.

    Args:
        classes: Number of classes.
        score_threshold: Minimum score of a detection.
        iou_threshold: IoU from which the weaker of two boxes of one class is suppressed.
        **kwargs: ``name``, ``dtype``.
    """

    def __init__(self, classes: int, score_threshold: float = 0.02, iou_threshold: float = 0.6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes, self.score_threshold, self.iou_threshold = classes, score_threshold, iou_threshold
        self.correct = self.add_weight(name="correct", shape=(classes, _BINS), initializer="zeros")
        self.wrong = self.add_weight(name="wrong", shape=(classes, _BINS), initializer="zeros")
        self.objects = self.add_weight(name="objects", shape=(classes,), initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: labels [B, M, 7] and a model's output [B, P, C + 6] or wider; weights are ignored."""
        boxes, scores, classes = self._detect(tf.cast(y_pred, tf.float32))
        self.update_detections(tf.cast(y_true, tf.float32), boxes, scores, classes)

    def update_detections(self, labels: Any, boxes: Any, scores: Any, classes: Any) -> None:
        """Add detections in descending order of their scores.

        Args:
            labels: Objects, float [B, M, 7].
            boxes: Boxes, float [B, D, 4].
            scores: Scores, float [B, D]; 0 where there is no detection.
            classes: Classes, int [B, D].
        """
        labels, scores = tf.convert_to_tensor(labels), tf.convert_to_tensor(scores)
        kinds, truth, classes = tf.cast(labels[..., 0], tf.int32), labels[..., 1:5], tf.cast(classes, tf.int32)
        own = classes[:, :, None] == kinds[:, None]
        overlap = tf.where(own, iou(boxes[:, :, None], truth[:, None]), 0.0)
        best, at = tf.reduce_max(overlap, -1), tf.argmax(overlap, -1, output_type=tf.int32)
        hit = best >= _MATCH
        slots = tf.one_hot(at, tf.shape(labels)[1]) * tf.cast(hit, tf.float32)[..., None]
        correct = hit & (tf.reduce_sum(slots * tf.cumsum(slots, axis=1, exclusive=True), axis=-1) < 0.5)
        crowd = classes[:, :, None] == -2 - kinds[:, None]
        within = intersections(boxes[:, :, None], truth[:, None]) >= _MATCH * areas(boxes)[..., None]
        wrong = ~correct & ~(~hit & tf.reduce_any(crowd & within, axis=-1)) & (scores > 0.0)
        bins = tf.minimum(tf.cast(scores * _BINS, tf.int32), _BINS - 1)
        for counts, which in ((self.correct, correct & (scores > 0.0)), (self.wrong, wrong)):
            counts.assign_add(self._counted(classes, bins, which))
        self.objects.assign_add(tf.reduce_sum(tf.one_hot(kinds, self.classes, dtype=self.objects.dtype), axis=(0, 1)))

    def result(self) -> Any:
        """Return the mean over the classes that have objects; 0 without any."""
        correct, wrong = (tf.cumsum(tf.convert_to_tensor(v), axis=1, reverse=True) for v in (self.correct, self.wrong))
        objects = tf.convert_to_tensor(self.objects)
        precision = tf.math.divide_no_nan(correct, correct + wrong)  # [C, bins], ever fewer detections
        lower = tf.linalg.band_part(tf.ones([_BINS, _BINS], bool), -1, 0)
        envelope = tf.reduce_max(tf.where(lower, precision[:, None], 0.0), axis=-1)  # the best at least this recall
        gained = tf.math.divide_no_nan(tf.convert_to_tensor(self.correct), objects[:, None])
        known = tf.reduce_sum(tf.cast(objects > 0.0, gained.dtype))
        return tf.math.divide_no_nan(tf.reduce_sum(gained * envelope), known)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"classes": self.classes, "score_threshold": self.score_threshold, "iou_threshold": self.iou_threshold}
        return {**super().get_config(), **own}

    def _detect(self, output: Any) -> tuple[Any, Any, Any]:
        points = points_of(output[..., : self.classes + EXTRA])
        pictures, classes = tf.shape(output)[0], tf.shape(points.logits)[-1]
        flat = tf.reshape(tf.sigmoid(points.logits), [pictures, -1])
        scores, at = tf.math.top_k(flat, tf.minimum(_CANDIDATES, tf.shape(flat)[1]))
        boxes, kinds = tf.gather(points.boxes, at // classes, batch_dims=1), at % classes
        by_class = tf.one_hot(kinds, classes) * scores[..., None]
        kept = tf.image.combined_non_max_suppression(
            boxes[:, :, None], by_class, _DETECTIONS, _DETECTIONS, self.iou_threshold, self.score_threshold
        )
        return kept.nmsed_boxes, kept.nmsed_scores, tf.cast(kept.nmsed_classes, tf.int32)

    def _counted(self, classes: Any, bins: Any, which: Any) -> Any:
        at = tf.boolean_mask(classes * _BINS + bins, which)
        counts = tf.math.bincount(at, minlength=self.classes * _BINS, maxlength=self.classes * _BINS)
        return tf.reshape(tf.cast(counts, self.correct.dtype), [self.classes, _BINS])
