"""Findings about images with boxes: :func:`box_findings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from tfft.data.examples import Splits
from tfft.inspection.classes import class_items, similar_names, uneven_classes
from tfft.inspection.drift import drift_findings
from tfft.inspection.duplicates import copy_findings
from tfft.inspection.findings import Finding, Item, counted
from tfft.modalities.image.checks import file_findings, measures_of
from tfft.tasks.object_detection import OBJECT_DETECTION
from tfft.tasks.object_detection.box_report import BoxReport, crowded_images, small_objects
from tfft.tasks.object_detection.data import BoxedImages

_SAME = 1.0  # pixels by which the sides of one box may differ when it is drawn twice
_FEW = 10  # objects of a class
_TINY = 4.0  # pixels per side


def box_findings(splits: Splits[BoxedImages], notes: list[str]) -> Iterator[Finding]:
    """Yield findings about images with boxes, without reading files again.

    Args:
        splits: Result of :func:`tfft.tasks.object_detection.data.load_boxes`.
        notes: List to which a sentence is added if duplicates were not searched.
    """
    parts = splits.parts
    notes += [splits.duplicates_note] if splits.duplicates_note else []
    facts = [one for part in parts.values() for one in part.facts]
    yield from file_findings(facts, [""] * len(facts), splits.skipped)
    yield from similar_names(splits.class_names)
    yield from _class_counts(splits.train.counts)
    yield from _drawn_twice(parts)
    yield from _tiny(parts)
    yield from _unanswerable(splits)
    paths = [path for part in parts.values() for path in part.paths]
    where = [name for name, part in parts.items() for _ in part.paths]
    yield from copy_findings(splits.duplicates, paths, [""] * len(paths), where)
    if splits.split_from.startswith("the parts"):
        yield from drift_findings(measures_of(parts), {name: part.counts for name, part in parts.items()})
    if isinstance(splits.report, BoxReport):
        for note in splits.report.notes:
            yield Finding("boxes", "note", note.rstrip("."), "look at them with tfft preview")


def _class_counts(counts: Mapping[str, int]) -> Iterator[Finding]:
    few = [Item(name, f"has {count}") for name, count in counts.items() if count < _FEW]
    words = f"classes have fewer than {_FEW} training objects"
    yield from counted(few, "few", "warning", words, "add images of them")
    full = {name: count for name, count in counts.items() if count}
    if pair := uneven_classes(full):
        most, least = pair
        message = f"{most!r} has {full[most] / full[least]:.0f} times as many boxes as {least!r}"
        remedy = "look at the average precision of each class"
        yield Finding("imbalance", "note", message, remedy, class_items(full))


def _drawn_twice(parts: Mapping[str, BoxedImages]) -> Iterator[Finding]:
    """Find boxes that are drawn twice: of two classes, one of which is wrong, or of one class."""
    two, one = list[Item](), list[Item]()
    for part in parts.values():
        for path, label in zip(part.paths, part.labels, strict=True):
            rows = label[label[:, 0] >= 0]
            boxes = rows[:, 1:5] * np.tile(rows[:, 5:7], 2)
            near = (np.abs(boxes[:, None] - boxes[None]) <= _SAME).all(axis=-1)
            for first, second in np.argwhere(np.triu(near, 1)):
                names = [part.class_names[int(rows[at, 0])] for at in (first, second)]
                box = "(top {:.0f}, left {:.0f}, bottom {:.0f}, right {:.0f})".format(*boxes[first])
                if names[0] == names[1]:
                    one.append(Item(path, f"has {names[0]!r} twice at {box}"))
                else:
                    two.append(Item(path, f"has {names[0]!r} and {names[1]!r} at {box}"))
    remedy = "decide on one class and remove the other box"
    yield from counted(two, "two-classes", "warning", "boxes have two classes", remedy)
    remedy = "remove one of each: a detector should find them once"
    yield from counted(one, "box-copy", "warning", "boxes are drawn twice", remedy)


def _tiny(parts: Mapping[str, BoxedImages]) -> Iterator[Finding]:
    items = []
    for part in parts.values():
        sides = ((part.labels[..., 3:5] - part.labels[..., 1:3]) * part.labels[..., 5:7]).min(axis=-1)
        for at in np.flatnonzero(((sides < _TINY) & (part.labels[..., 0] >= 0)).any(axis=1)):
            items.append(Item(part.paths[at], f"has a box with a side below {_TINY:g} pixels"))
    remedy = "remove boxes that were drawn by accident; a detector cannot find objects of that size"
    yield from counted(items, "tiny", "warning", "images have tiny boxes", remedy)


def _unanswerable(splits: Splits[BoxedImages]) -> Iterator[Finding]:
    """Find objects that a detector of the default size cannot see, and images with more than it returns."""
    labels = splits.train.labels
    shape = np.median(labels[:, 0, 5:7], axis=0)
    size = OBJECT_DETECTION.preferred_image_size((float(shape[0]), float(shape[1])))
    warnings = {
        "small-objects": None if size is None else small_objects(labels, splits.class_names, size),
        "crowded": crowded_images(labels),
    }
    for kind, text in warnings.items():
        if text is not None:
            message, _, remedy = text.rstrip(".").rpartition(": ")
            yield Finding(kind, "warning", message, remedy)
