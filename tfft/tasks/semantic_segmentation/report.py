"""Report of a segmenter: the images with the lowest IoU beside the truth: :class:`SegmentationReport`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfft.heads import Head
from tfft.modalities.image.report_pictures import as_jpeg, read_small
from tfft.registry import ReportBuilder, ReportPicture, ReportSection
from tfft.tasks.semantic_segmentation import VOID
from tfft.tasks.semantic_segmentation.drawing import legend, overlay
from tfft.tasks.semantic_segmentation.evaluator import found_mask, own_size

_PICTURES = 8
_BETWEEN = 4  # pixels between truth and prediction


class _Picture(NamedTuple):
    iou: float
    name: str
    true: np.ndarray
    found: np.ndarray


class SegmentationReport(ReportBuilder):
    """Masks of held-out images, of which the worst are kept; see :meth:`tfft.registry.Task.report_builder`.

    Args:
        head: Head of the model.
    """

    def __init__(self, head: Head) -> None:
        self._classes = list(head.class_names or ())
        self._worst: list[_Picture] = []

    def add(self, names: Sequence[str], labels: np.ndarray, logits: np.ndarray) -> None:
        """Add a batch."""
        for name, mask, cells in zip(names, labels, logits, strict=True):
            true = own_size(mask).astype(np.uint8)
            found = found_mask(cells, true)
            if (true != VOID).any() and Path(name).is_file():
                self._worst.append(_Picture(_iou(true, found, len(self._classes)), name, true, found))
        self._worst = sorted(self._worst, key=lambda one: one.iou)[:_PICTURES]

    def sections(self) -> list[ReportSection]:
        """Return the worst images, each with the true mask on its left and the predicted one on its right."""
        if not self._worst:
            return []
        text = (
            "The true mask is on the left, the predicted one on the right; pixels without a label keep their colour. "
            "The IoU is the mean over the classes that are true or predicted in the image."
        )
        pictures = tuple(map(self._drawn, self._worst))
        return [ReportSection("Images with the lowest IoU", (text,), legend=legend(self._classes), pictures=pictures)]

    def _drawn(self, one: _Picture) -> ReportPicture:
        picture = read_small(one.name)
        parts = [overlay(picture, _reduced(mask, picture), len(self._classes)) for mask in (one.true, one.found)]
        gap = np.full((len(picture), _BETWEEN, 3), 255, np.uint8)
        caption = f"{Path(one.name).name}: mean IoU {one.iou:.3f}"
        return ReportPicture(caption, as_jpeg(np.concatenate([parts[0], gap, parts[1]], axis=1)))


def _iou(true: np.ndarray, found: np.ndarray, classes: int) -> float:
    """Return the mean IoU of one image over the classes that are true or predicted in its labelled pixels."""
    labelled = true != VOID
    pairs = np.bincount(classes * true[labelled].astype(np.int64) + found[labelled], minlength=classes**2)
    table = pairs.reshape(classes, classes)
    union = table.sum(axis=0) + table.sum(axis=1) - table.diagonal()
    return float(np.mean(table.diagonal()[union > 0] / union[union > 0]))


def _reduced(mask: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return a mask in the size of an image, by nearest neighbours."""
    rows, columns = (
        (np.arange(want) * 2 + 1) * have // (2 * want) for have, want in zip(mask.shape, picture.shape[:2], strict=True)
    )
    return mask[rows][:, columns]
