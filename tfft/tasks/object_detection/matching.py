"""Average precision of detections as COCO defines it: :func:`match`, :class:`Matches`.

Implementation notes: pycocotools matches detections to objects, once per image, and gives the scores. The bootstrap
reuses these matches with other weights of the images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

SIZES = ("small", "medium", "large")  # below 32 x 32 pixels, below 96 x 96, and above
_MOST = 100  # detections of one class and image


class Found(NamedTuple):
    """Objects and detections of one image.

    Attributes:
        labels: Objects and crowd regions, float [n, 7], without padding.
        boxes: Boxes of the detections, normalized, float [d, 4].
        scores: Their scores in descending order, float [d].
        classes: Their classes, int [d].
        size: Height and width of the image in pixels.
    """

    labels: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    size: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class ClassMatches:
    """Detections of one class in descending order of their scores.

    Attributes:
        scores: Float [D].
        images: Number of the image of each detection, int [D].
        correct: Whether a detection is correct at each IoU of 0.5, 0.55, … 0.95, bool [10, D].
        wrong: Whether it is wrong; in a crowd region it is neither. bool [10, D].
        objects: Number of objects in each image, int [N].
    """

    scores: np.ndarray
    images: np.ndarray
    correct: np.ndarray
    wrong: np.ndarray
    objects: np.ndarray

    def average_precisions(self, weights: np.ndarray, recalls: np.ndarray) -> np.ndarray:
        """Return the average precision at each IoU, float [10]; NaN without an object.

        Args:
            weights: How often each image counts, int [N].
            recalls: Recalls at which the precision is read.
        """
        total = float(weights @ self.objects)
        if not total:
            return np.full(len(self.correct), np.nan)
        each = weights[self.images]
        correct, wrong = np.cumsum(self.correct * each, axis=1), np.cumsum(self.wrong * each, axis=1)
        precision = correct / (correct + wrong + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        padded = np.pad(envelope, ((0, 0), (0, 1)))  # recalls that are never reached
        return np.array(
            [row[np.searchsorted(found / total, recalls)].mean() for row, found in zip(padded, correct, strict=True)]
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Matches:
    """Detections of all images, matched to their objects.

    Attributes:
        classes: Matches of each class.
        precision: Precision at 10 IoUs, 101 recalls, C classes and 4 sizes (all, small, medium, large), -1 where there
            is no object; float [10, 101, C, 4].
        recall: Largest recall with 100 detections, float [10, C, 4], likewise.
        recalls: The 101 recalls.
    """

    classes: tuple[ClassMatches, ...]
    precision: np.ndarray
    recall: np.ndarray
    recalls: np.ndarray

    def average_precision(self, iou: int | None = None, kind: int | None = None, size: int = 0) -> float | None:
        """Return the mean average precision; None without an object.

        Args:
            iou: Position of one IoU, 0 for 0.5; None for the mean of all.
            kind: Class; None for the mean over all classes with objects.
            size: 0 for all objects, else 1 plus the position in :data:`SIZES`.
        """
        values = self.precision[..., size]
        values = values if iou is None else values[iou]
        return _mean(values if kind is None else values[..., kind])

    @property
    def average_recall(self) -> float | None:
        """Mean over classes and IoUs of the largest recall with 100 detections of a class; None without an object."""
        return _mean(self.recall[..., 0])

    def bootstrap(self, draws: int) -> np.ndarray:
        """Draw images with replacement, and measure each draw.

        Images are drawn and not objects, because the objects of one image are not independent.

        Args:
            draws: Number of draws.

        Returns:
            Mean average precision over all IoUs, and at 0.5; float [draws, 2], without draws that have no object.
        """
        generator = np.random.default_rng(0)
        count = len(self.classes[0].objects)
        found = []
        for _ in range(draws):
            weights = np.bincount(generator.integers(count, size=count), minlength=count)
            values = np.array([one.average_precisions(weights, self.recalls) for one in self.classes])
            values = values[~np.isnan(values[:, 0])]
            if len(values):
                found.append((values.mean(), values[:, 0].mean()))
        return np.array(found).reshape(-1, 2)


def match(images: Sequence[Found], classes: int) -> Matches:
    """Match detections to objects by the rules of COCO (Lin et al., 2014), with pycocotools.

    A detection is correct if it has at least the given IoU with an object of its class that no stronger one took; a
    detection within a crowd region counts neither way. Sizes are those of boxes in pixels of the images.

    Args:
        images: Objects and detections.
        classes: Number of classes.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth, found = COCO(), COCO()
        frame = {"images": [{"id": at} for at in range(len(images))], "categories": [{"id": k} for k in range(classes)]}
        truth.dataset = {**frame, "annotations": list(_numbered(_objects(images)))}
        found.dataset = {**frame, "annotations": list(_numbered(_detections(images)))}
        truth.createIndex()
        found.createIndex()
        measured = COCOeval(truth, found, "bbox")
        measured.evaluate()
        measured.accumulate()
    sizes, count = len(measured.params.areaRng), len(images)
    rows = [measured.evalImgs[kind * sizes * count :][:count] for kind in range(classes)]  # of all sizes
    return Matches(
        tuple(_class_matches(row, len(measured.params.iouThrs)) for row in rows),
        measured.eval["precision"][..., -1],
        measured.eval["recall"][..., -1],
        measured.params.recThrs,
    )


def _objects(images: Sequence[Found]) -> Iterator[dict[str, Any]]:
    for at, image in enumerate(images):
        for row in image.labels:
            kind, box = int(row[0]), _pixels(row[1:5], image.size)
            crowd = kind < 0
            yield {"image_id": at, "category_id": -2 - kind if crowd else kind, "iscrowd": int(crowd), **box}


def _detections(images: Sequence[Found]) -> Iterator[dict[str, Any]]:
    for at, image in enumerate(images):
        for box, score, kind in zip(image.boxes, image.scores, image.classes, strict=True):
            yield {"image_id": at, "category_id": int(kind), "score": float(score), **_pixels(box, image.size)}


def _numbered(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows, 1):  # pycocotools takes 0 for "no match"
        yield {"id": number, **row}


def _pixels(box: np.ndarray, size: np.ndarray) -> dict[str, Any]:
    top, left, bottom, right = (np.asarray(box, np.float64) * np.tile(np.asarray(size, np.float64), 2)).tolist()
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}


def _class_matches(rows: Sequence[dict[str, Any] | None], ious: int) -> ClassMatches:
    there = [(at, row) for at, row in enumerate(rows) if row is not None]
    objects = np.zeros(len(rows), int)
    for at, row in there:
        objects[at] = np.count_nonzero(np.asarray(row["gtIgnore"]) == 0)
    if not there:
        empty = np.zeros((ious, 0), bool)
        return ClassMatches(np.zeros(0), np.zeros(0, int), empty, empty, objects)
    scores = np.concatenate([row["dtScores"][:_MOST] for _, row in there])
    images = np.concatenate([np.full(len(row["dtScores"][:_MOST]), at, int) for at, row in there])
    matched = np.concatenate([row["dtMatches"][:, :_MOST] for _, row in there], axis=1) > 0
    ignored = np.concatenate([row["dtIgnore"][:, :_MOST] for _, row in there], axis=1) > 0
    order = np.argsort(-scores, kind="stable")
    correct, wrong = (matched & ~ignored)[:, order], (~matched & ~ignored)[:, order]
    return ClassMatches(scores[order], images[order], correct, wrong, objects)


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None
