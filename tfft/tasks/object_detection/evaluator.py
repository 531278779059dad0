"""Scores of object detection: average precision with an interval, kinds of mistakes, and a baseline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tfft.errors import DataError, join_names
from tfft.evaluation.scores import ClassScore, Scores, class_score, wilson_interval
from tfft.heads import Head
from tfft.registry import Evaluator
from tfft.tasks.object_detection import require_scores
from tfft.tasks.object_detection.confusion import mistakes, overlaps
from tfft.tasks.object_detection.matching import SIZES, ClassMatches, Found, Matches, match

_PARTS = ("boxes", "scores", "classes")
_DRAWS = 300
_BASELINE_IMAGES, _BASELINE_BOXES = 500, 1000  # a larger sample would not change the baseline much
_USUAL, _SUPPRESSED = 100, 0.6


class DetectionEvaluator(Evaluator):
    """Objects and at most 100 detections of each image; one for each evaluation.

    Args:
        head: Head of the model.

    Raises:
        DependencyError: If pycocotools is missing.
    """

    def __init__(self, head: Head) -> None:
        require_scores()
        self._head, self.names = head, list(head.class_names or ())
        self.images: list[Found] = []

    def check(self, labels: np.ndarray) -> None:
        """Raise DataError for labels that are not boxes of the head's classes."""
        if labels.ndim != 3 or labels.shape[-1] != 7:
            raise DataError(
                "Expected labels float32 [B, M, 7]: class, top, left, bottom, right (0 to 1), height and width of the "
                f"image in pixels. Received: {labels.dtype} {labels.shape}. Pad with rows of class -1."
            )
        rows = labels[labels[..., 0] != -1]
        kinds = np.where(rows[:, 0] < 0, -2 - rows[:, 0], rows[:, 0])
        strange = np.unique(kinds[~np.isin(kinds, np.arange(len(self.names)))]).tolist()
        if strange:
            raise DataError(
                f"Expected labels of {len(self.names)} classes, 0 to {len(self.names) - 1}. Received: class "
                f"{join_names(f'{one:g}' for one in strange)}. Evaluate with the classes that the model was trained on."
            )
        boxes = rows[:, 1:5]
        faulty = ~((boxes >= -1e-4) & (boxes <= 1 + 1e-4)).all(axis=1) | ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        if faulty.any():
            raise DataError(
                "Expected boxes (top, left, bottom, right) within 0 to 1, the top above the bottom. Received: "
                f"{boxes[faulty][0].round(4).tolist()} and {int(faulty.sum()) - 1} more. Divide pixels by the height "
                "and width of the image."
            )
        if not (rows[:, 5:] > 0).all():
            raise DataError(
                "Expected height and width of the image in pixels in the last two columns of each label. Received: "
                f"{rows[:, 5:].min():g}. They decide which objects are small."
            )

    def update(self, labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch of labels [B, M, 7] and a model's output [B, P, C + 6]."""
        served = {name: value.numpy() for name, value in self._head.postprocess(logits).items()}
        for at, count in enumerate(served["num_detections"]):
            boxes, scores, classes = (served[f"detection_{part}"][at, :count] for part in _PARTS)
            size = np.maximum(labels[at][:, 5:].max(axis=0), 1)  # padding may leave it out
            self.images.append(Found(labels[at][labels[at][:, 0] != -1], boxes, scores, classes, size))

    def result(self, count: int, loss: float) -> Scores:
        """Return the scores of all images."""
        matches = match(self.images, len(self.names))
        value = matches.average_precision()
        if value is None:
            raise DataError("No image of the dataset has an object, so there is nothing to evaluate.")
        rows, thresholds = class_rows(self.names, matches)
        confusion, kinds = mistakes(self.images, thresholds)
        drawn = matches.bootstrap(_DRAWS)
        objects = sum(int(one.objects.sum()) for one in matches.classes)
        at_half = matches.average_precision(iou=0) or 0.0
        interval, interval_at_half = _interval(drawn[:, 0], value, objects), _interval(drawn[:, 1], at_half, objects)
        measures = {
            "map": value,
            "map50": at_half,
            "map50_low": interval_at_half[0],
            "map50_high": interval_at_half[1],
            "map75": matches.average_precision(iou=5) or 0.0,
            **self._by_size(matches),
            "ar100": matches.average_recall or 0.0,
            "objects": objects,
            "missed": int(confusion[:-1, -1].sum()),
            **{f"false_{name}": number for name, number in kinds.items()},
        }
        return Scores(
            task=self._head.task,
            examples=count,
            items="images",
            loss=loss,
            accuracy=None,
            metric="map",
            interval=interval,
            majority_baseline=baseline(self.images, len(self.names)),
            per_class=tuple(rows),
            confusion=confusion,
            measures=measures,
        )

    def _by_size(self, matches: Matches) -> dict[str, float]:
        found = {f"map_{name}": matches.average_precision(size=at) for at, name in enumerate(SIZES, 1)}
        return {name: value for name, value in found.items() if value is not None}


def class_rows(names: Sequence[str], matches: Matches) -> tuple[list[ClassScore], np.ndarray]:
    """Return the scores of each class, and the score of each at which its F1 is largest."""
    rows, thresholds = [], []
    for kind, (name, one) in enumerate(zip(names, matches.classes, strict=True)):
        threshold, correct, predicted = _best_f1(one)
        known = {"ap": matches.average_precision(kind=kind), "ap50": matches.average_precision(0, kind)}
        measures = {key: value for key, value in known.items() if value is not None} | {"threshold": threshold}
        rows.append(class_score(name, correct, int(one.objects.sum()), predicted, measures=measures))
        thresholds.append(threshold)
    return rows, np.array(thresholds)


def _best_f1(one: ClassMatches) -> tuple[float, int, int]:
    """Return the score at which F1 at an IoU of 0.5 is largest, with the correct and all detections from it on."""
    correct, counted = np.cumsum(one.correct[0]), np.cumsum(one.correct[0] | one.wrong[0])
    if not len(correct) or not correct[-1]:
        return 1.0, 0, 0
    last = np.append(one.scores[1:] < one.scores[:-1], True)  # of those with one score, all are detections or none
    best = int(np.argmax(np.where(last, 2 * correct / (counted + one.objects.sum()), -1)))
    return float(one.scores[best]), int(correct[best]), int(counted[best])


def _interval(drawn: np.ndarray, value: float, objects: int) -> tuple[float, float]:
    """Return a 95 % interval from draws.

    Where all images agree, the draws do too, and cannot show the mistakes that these images happen not to have: then
    it is Wilson's interval for as many independent objects.
    """
    low, high = np.quantile(drawn, (0.025, 0.975)).tolist()
    return (low, high) if low < high else wilson_interval(value * objects, objects)


def baseline(images: Sequence[Found], classes: int, seed: int = 0) -> float:
    """Return the mean average precision of one fixed answer for all images, chosen from their labels alone.

    It predicts the same boxes whatever an image shows: those objects of the dataset that would match an object of
    their class in the most images, without boxes that overlap a better one, at most 100; the score of a box is the
    share of the images. So it shows how much is due to objects that are usually in one place, as in the middle of
    photos. Each half of the images is predicted from the boxes of the other half, so no image predicts itself.

    Args:
        images: Objects; detections are ignored.
        classes: Number of classes.
        seed: Seed for the sample, if there are more than 500 images or 1,000 objects of a class.
    """
    generator = np.random.default_rng(seed)
    if len(images) > _BASELINE_IMAGES:
        images = [images[at] for at in np.sort(generator.permutation(len(images))[:_BASELINE_IMAGES])]
    half = generator.permutation(len(images)) % 2
    answers: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for side in (1, 0):  # each half is answered with the boxes of the other
        parts = [np.insert(image.labels, 0, at, axis=1) for at, image in enumerate(images) if half[at] == side]
        every = np.concatenate([np.zeros((0, 8)), *parts])
        usual = [_usual(every[every[:, 1] == kind], kind, len(images), generator) for kind in range(classes)]
        boxes, scores, kinds = (np.concatenate(part) for part in zip(*usual, strict=True))
        order = np.argsort(-scores, kind="stable")[:_USUAL]
        answers.append((boxes[order], scores[order], kinds[order]))
    fixed = [Found(image.labels, *answers[int(half[at])], image.size) for at, image in enumerate(images)]
    return match(fixed, classes).average_precision() or 0.0


def _usual(
    rows: np.ndarray, kind: int, images: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return boxes, scores and classes of the usual objects of a class, from rows of image and label."""
    if len(rows) > _BASELINE_BOXES:
        rows = rows[generator.permutation(len(rows))[:_BASELINE_BOXES]]
    boxes = rows[:, 2:6]
    iou, _ = overlaps(boxes, boxes)
    to, where = np.nonzero(iou >= 0.5)
    hits = np.zeros((len(rows), images), bool)
    hits[to, rows[where, 0].astype(int)] = True
    shares, kept = hits.mean(axis=1), list[int]()
    for at in np.argsort(-shares, kind="stable").tolist():
        if len(kept) < _USUAL and not (iou[at][kept] > _SUPPRESSED).any():
            kept.append(at)
    return boxes[kept], shares[kept], np.full(len(kept), kind)
