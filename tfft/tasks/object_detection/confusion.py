"""Confusions of classes and kinds of false detections: :func:`mistakes`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tfft.tasks.object_detection.matching import Found

_MATCH, _NEAR = 0.5, 0.1  # IoU of a match, and of a detection that belongs to an object at all


def overlaps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the IoU of each pair of boxes [m, 4] and [n, 4], and the share of the first within the second; [m, n]."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    first, second = (np.prod(np.maximum(one[:, 2:] - one[:, :2], 0), axis=-1) for one in (a, b))
    return shared / (first[:, None] + second - shared + 1e-12), shared / (first[:, None] + 1e-12)


def mistakes(images: Sequence[Found], thresholds: np.ndarray) -> tuple[np.ndarray, Counter[str]]:
    """Count confusions of classes, and false detections by their kind (after Hoiem et al., ECCV 2012).

    An object is matched to the strongest detection of its class with an IoU of at least 0.5; objects and detections
    that are left are matched across classes. A detection without an object is a ``"duplicate"`` (a stronger one has the
    object), has a wrong ``"location"`` (an IoU of 0.1 to 0.5 with an object of its class), or is on the
    ``"background"``; matched across classes it has a wrong ``"class"``. Those within a crowd region of their class do
    not count.

    Args:
        images: Objects and detections.
        thresholds: Minimum score of a detection of each class, float [C].

    Returns:
        Objects by true class (row) and predicted class (column), int [C + 1, C + 1], with the background last; and the
        number of false detections by kind.
    """
    background = len(thresholds)
    confusion = np.zeros((background + 1, background + 1), np.int64)
    kinds: Counter[str] = Counter(dict.fromkeys(("background", "location", "duplicate", "class"), 0))
    for image in images:
        labels = image.labels[image.labels[:, 0] >= 0]
        strong = image.scores >= thresholds[image.classes]
        boxes, classes = image.boxes[strong], image.classes[strong]
        true, (iou, _) = labels[:, 0].astype(int), overlaps(boxes, labels[:, 1:5])
        same = classes[:, None] == true
        free = _crowd_free(image.labels, boxes, classes)
        pairs = _greedy(np.where(same, iou, 0.0))
        taken = {at for at, _ in pairs}
        across = iou.copy()
        across[[at for at, _ in pairs], :] = across[:, [to for _, to in pairs]] = 0.0
        across[same] = 0.0
        confused = _greedy(across)
        for at, to in [*pairs, *confused]:
            confusion[true[to], classes[at]] += 1
        kinds["class"] += len(confused)
        wrong = {at for at, _ in confused}
        for to in set(range(len(true))) - {to for _, to in [*pairs, *confused]}:
            confusion[true[to], background] += 1
        for at in np.flatnonzero(free).tolist():
            if at in taken or at in wrong:
                continue
            confusion[background, classes[at]] += 1
            most = np.max(iou[at], where=same[at], initial=0.0)
            kinds["duplicate" if most >= _MATCH else "location" if most >= _NEAR else "background"] += 1
    return confusion, kinds


def _crowd_free(labels: np.ndarray, boxes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return which detections are not mostly within a crowd region of their class."""
    crowds = labels[labels[:, 0] <= -2]
    _, within = overlaps(boxes, crowds[:, 1:5])
    return ~((within >= _MATCH) & (classes[:, None] == -2 - crowds[:, 0].astype(int))).any(axis=1)


def _greedy(iou: np.ndarray) -> list[tuple[int, int]]:
    """Match rows in their order to the column of the largest IoU that is left, from 0.5 on."""
    left, pairs = iou.copy(), []
    for at in range(len(left)):
        if left.shape[1] and left[at].max() >= _MATCH:
            to = int(left[at].argmax())
            pairs.append((at, to))
            left[:, to] = 0.0
    return pairs
