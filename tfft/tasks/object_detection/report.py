"""Report of a detector: precision-recall curves, and the images with the most mistakes: :class:`DetectionReport`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tfft.errors import quantity
from tfft.heads import Head
from tfft.modalities.image.report_pictures import as_jpeg, read_small
from tfft.registry import ReportBuilder, ReportCurves, ReportPicture, ReportSection
from tfft.tasks.object_detection.confusion import mistakes
from tfft.tasks.object_detection.drawing import draw_boxes
from tfft.tasks.object_detection.evaluator import DetectionEvaluator, class_rows
from tfft.tasks.object_detection.matching import Found, Matches, match

_CURVES, _PICTURES = 12, 12


class DetectionReport(ReportBuilder):
    """Detections of held-out images; see :meth:`tfft.registry.Task.report_builder`.

    Args:
        head: Head of the model.
    """

    def __init__(self, head: Head) -> None:
        self._evaluator, self._names = DetectionEvaluator(head), list[str]()

    def add(self, names: Sequence[str], labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        self._evaluator.update(labels, logits)
        self._names += names

    def sections(self) -> list[ReportSection]:
        """Return the curves, the kinds of mistakes and the worst images."""
        images, classes = self._evaluator.images, self._evaluator.names
        matches = match(images, len(classes))
        if matches.average_precision() is None:
            return []
        _, thresholds = class_rows(classes, matches)
        return [self._curves(matches), self._worst(thresholds)]

    def _curves(self, matches: Matches) -> ReportSection:
        """Return precision by recall at an IoU of 0.5, of the classes with the most objects."""
        counts = np.array([one.objects.sum() for one in matches.classes])
        shown = [int(at) for at in np.argsort(-counts, kind="stable")[:_CURVES] if counts[at]]
        names = self._evaluator.names
        lines = {names[at]: (matches.recalls, matches.precision[0, :, at, 0]) for at in shown}
        text = (
            "Precision by recall at an IoU of 0.5, as COCO interpolates it: the best precision at that recall or more."
        )
        more = int((counts > 0).sum()) - len(shown)
        further = (f"{more} classes with fewer objects are left out.",) if more else ()
        return ReportSection("Precision and recall", (text, *further), ReportCurves("recall", "precision", lines))

    def _worst(self, thresholds: np.ndarray) -> ReportSection:
        images = self._evaluator.images
        _, kinds = mistakes(images, thresholds)
        counted = []
        for image in images:
            table, _ = mistakes([image], thresholds)
            missed, false = int(table[:-1, -1].sum()), int(table[-1, :-1].sum())
            confused = int(table[:-1, :-1].sum() - np.trace(table[:-1, :-1]))
            counted.append((missed, false, confused))
        order = sorted(range(len(images)), key=lambda at: -sum(counted[at]))
        worst = [at for at in order[:_PICTURES] if sum(counted[at])]
        text = (
            "False detections: " + ", ".join(f"{name} {count}" for name, count in kinds.items()) + ".",
            "Thin boxes are the truth, thick ones with a score detections. Detections of a class count from the score "
            "at which its F1 is largest.",
        )
        title = "Images with the most mistakes" if worst else "No image has a mistake"
        pictures = tuple(self._picture(at, counted[at], thresholds) for at in worst if Path(self._names[at]).is_file())
        return ReportSection(title, text, pictures=pictures)

    def _picture(self, at: int, counts: tuple[int, int, int], thresholds: np.ndarray) -> ReportPicture:
        image: Found = self._evaluator.images[at]
        names, true = self._evaluator.names, image.labels[image.labels[:, 0] >= 0]
        strong = image.scores >= thresholds[image.classes]
        drawn = read_small(self._names[at])
        for boxes, kinds, scores in (
            (true[:, 1:5], true[:, 0].astype(int), None),
            (image.boxes[strong], image.classes[strong], image.scores[strong]),
        ):
            drawn = draw_boxes(drawn, boxes, [names[kind] for kind in kinds], scores, classes=kinds)
        words = ("missed", "false", "of another class")
        said = ", ".join(f"{count} {word}" for count, word in zip(counts, words, strict=True) if count)
        return ReportPicture(f"{Path(self._names[at]).name}: {quantity(len(true), 'object')}, {said}", as_jpeg(drawn))
