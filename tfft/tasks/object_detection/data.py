"""Images with boxes: :class:`BoxedImages`, :func:`load_boxes`, :func:`read_boxes`.

Implementation notes: an image with a faulty box is left out as a whole, like one that cannot be decoded: without the
box, its object would count as background. If more than a tenth of the images have one, they have a common cause, and
all faults are one error.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import tensorflow as tf

from tfft.data.duplicates import Duplicates
from tfft.data.examples import Skipped, Splits, divide
from tfft.data.split import SplitOptions, groups_by, joined
from tfft.errors import DataError, did_you_mean, in_number, join_names
from tfft.io.name_files import composed
from tfft.modalities.image.batches import Follow
from tfft.modalities.image.composites import PARTNERS, Combination
from tfft.modalities.image.duplicates import find_duplicates
from tfft.modalities.image.examples import ImageFiles
from tfft.modalities.image.file_info import ROTATED, ImageFileInfo, facts_of
from tfft.modalities.image.headers import read_header
from tfft.tasks.object_detection.annotations import (
    PADDING,
    Annotations,
    PictureBoxes,
    encode,
    fit_to_image,
    follow,
    join_objects,
    place_objects,
)
from tfft.tasks.object_detection.box_report import BoxReport
from tfft.tasks.object_detection.formats import raise_faults, read_annotations
from tfft.tasks.object_detection.voc import test_list

TASK = "object_detection"
_SYSTEMATIC = 0.1  # of the images: faults in more of them have one cause


@dataclasses.dataclass(frozen=True, eq=False)
class BoxedImages(ImageFiles):
    """Image files with the boxes of their objects.

    ``labels`` are float32 [N, M, 7], M the most objects of an image: class, top, left, bottom, right in shares of the
    image, height and width of the image in pixels. Class -1 is padding, -(2 + c) a crowd region of class c.
    """

    follow: Follow | None = follow

    @property
    def combination(self) -> Combination:
        """Objects of several images in one view; labels have as many rows as the four fullest images together."""
        rows = np.sort((self.labels[..., 0] != PADDING).sum(axis=1))
        most = rows[-1 - PARTNERS :].sum() if len(rows) > PARTNERS else (1 + PARTNERS) * rows[-1]
        return Combination(
            ("mosaic", "mixup"), place_objects, tf.float32, functools.partial(join_objects, rows=max(1, int(most)))
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of objects of each class; crowd regions do not count."""
        classes = self.labels[..., 0]
        totals = np.bincount(classes[classes >= 0].astype(int), minlength=len(self.class_names))
        return dict(zip(self.class_names, totals.tolist(), strict=True))

    def renumbered(self, numbers: np.ndarray, class_names: tuple[str, ...]) -> Self:
        """Return the same images with the numbers that a model has for their classes, also in crowd regions."""
        labels, classes = self.labels.copy(), self.labels[..., 0].astype(int)
        crowd = classes < PADDING
        new = numbers[np.where(crowd, -2 - classes, np.maximum(classes, 0))]
        labels[..., 0] = np.where(classes == PADDING, PADDING, np.where(crowd, -2 - new, new))
        return dataclasses.replace(self, labels=labels, class_names=class_names)

    def join(self, other: Self) -> Self:
        """Return these images followed by others."""
        most = max(self.labels.shape[1], other.labels.shape[1])
        parts = [dataclasses.replace(part, labels=_padded(part.labels, most)) for part in (self, other)]
        return super(BoxedImages, parts[0]).join(parts[1])


def _padded(labels: np.ndarray, most: int) -> np.ndarray:
    """Return labels [N, M, 7] with rows of padding up to a number of rows."""
    rows = np.repeat(labels[:, :1], most - labels.shape[1], axis=1)
    rows[..., 0], rows[..., 1:5] = PADDING, 0
    return np.concatenate([labels, rows], axis=1)


def load_boxes(
    source: Any,
    *,
    images: str | os.PathLike[str] | None = None,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    strict: bool = False,
    store: str | os.PathLike[str] | None = None,
    group: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    **columns: Any,
) -> Splits[BoxedImages]:
    """Load images with boxes in COCO, Pascal VOC or YOLO format or in a table, and split them.

    The parts of the data are kept: ``train/`` and ``valid/`` folders, ``ImageSets/Main`` of VOC, ``data.yaml`` of YOLO,
    files named ``..._train`` and ``..._val``. Otherwise a hash of seed and name draws a share of the images,
    stratified by the rarest class of each; duplicates stay on one side. A test part is ignored.

    Args:
        source: Annotation file, folder or DataFrame; or a pair of them, for training and validation.
        images: Folder of the images. Defaults to the likely one beside the annotations.
        validation: Share of the images to hold out, or the file of an earlier split.
        seed: Seed for the split.
        strict: Whether every fault is an error; otherwise images with faults are left out and listed in ``skipped``,
            unless they are more than a tenth.
        store: File that stores the statistics of files.
        group: ``"folder"`` or a regular expression for file names, for images that stay on one side.
        progress: Function called with (files done, files in total).
        **columns: ``image``, ``label``, ``encoding``, ``delimiter`` and ``decimal`` of a table.

    Returns:
        :class:`tfft.data.Splits` of :class:`BoxedImages`; print its ``report``.

    Raises:
        DataError: If the data cannot be used; the message lists everything with file and line or object.

    Example:
        >>> splits = load_boxes("raccoon/")
        >>> splits.train.counts
        {'raccoon': 172}
    """
    annotations = read_annotations(source, images, columns)
    pictures = [one for one in annotations.pictures if one.part != "test"]
    parts = {one.part for one in pictures}
    loaded = _fitted(pictures, annotations, strict, progress, store)
    names = _trained_names(annotations, loaded.pictures, {"train"} if "validation" in parts else parts)
    examples = _examples(loaded, names)
    duplicates = find_duplicates(loaded.facts)
    fields = {"task": TASK, "root": loaded.root, "test_folder": _test_folder(source, annotations)}
    if "validation" in parts:
        if "train" not in parts:
            raise DataError(
                f"{annotations.source} has a validation part but none for training. Name one of them train."
            )
        held_out = np.array([one.part == "validation" for one in loaded.pictures])
        words, groups = f"the parts of {annotations.source}", None
    else:
        options = SplitOptions(validation, seed, group)
        groups = None if group is None else groups_by(examples.names, group)
        held_out, words = _drawn(examples, options, groups, duplicates, annotations.source)
    if held_out.all() or not held_out.any():
        raise DataError(
            f"Expected images for training and for validation. Received: {len(held_out)} usable images in {words}, "
            f"all of them for {'validation' if held_out.all() else 'training'}. Add images."
        )
    splits = divide(examples, held_out, words, groups=groups, duplicates=duplicates, **fields)
    _check_trained(splits)
    return dataclasses.replace(splits, report=BoxReport.of(splits, annotations.form, loaded.notes))


def _test_folder(source: Any, annotations: Annotations) -> str | None:
    """Return the folder of the test part, if the part has one of its own."""
    if not isinstance(source, (str, os.PathLike)) or all(one.part != "test" for one in annotations.pictures):
        return None
    folder = Path(source).expanduser()
    listed = test_list(folder)
    return str(folder / "test") if (folder / "test").is_dir() else None if listed is None else str(listed)


def read_boxes(
    source: Any,
    class_names: Sequence[str],
    *,
    images: str | os.PathLike[str] | None = None,
    strict: bool = False,
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    **columns: Any,
) -> BoxedImages:
    """Read all images with boxes, of all parts, for a model with known classes.

    Args:
        source: As in :func:`load_boxes`, like all that follow.
        class_names: Class names of the model.
        images: Folder of the images.
        strict: Whether every fault is an error.
        store: File that stores the statistics of files.
        progress: Function called with (files done, files in total).
        **columns: Columns of a table.

    Raises:
        DataError: As in :func:`load_boxes`, and for classes that the model does not have.
    """
    annotations = read_annotations(source, images, columns)
    loaded = _fitted(list(annotations.pictures), annotations, strict, progress, store)
    used = Counter(name for one in loaded.pictures for name in one.class_names)
    if unknown := sorted(set(used) - set(class_names)):
        hint = did_you_mean(unknown[0], class_names)
        raise DataError(
            f"{annotations.source} has objects of classes that the model does not have: {join_names(unknown)}.{hint} "
            f"Expected: {join_names(class_names)}."
        )
    return _examples(loaded, class_names)


@dataclasses.dataclass(frozen=True, eq=False)
class _Loaded:
    """Usable images, with boxes in their pixels, and their files."""

    pictures: list[PictureBoxes]
    facts: list[ImageFileInfo]
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    root: str


def _fitted(
    pictures: Sequence[PictureBoxes], annotations: Annotations, strict: bool, progress: Any, store: Any
) -> _Loaded:
    facts = facts_of([one.path for one in pictures], progress, store)
    used: list[PictureBoxes] = []
    known: list[ImageFileInfo] = []
    skipped: list[Skipped] = []
    clipped: list[str] = []
    empty: list[str] = []
    faults: list[str] = []
    for one, fact in zip(pictures, facts, strict=True):
        if fact.reason:
            problems = [f"{one.place} names the image {one.path}, which {fact.reason}"]
        else:
            fitted = fit_to_image(one, *_upright_size(fact))
            problems = fitted.faults
        faults += problems
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            skipped.append(Skipped(one.path, f"is left out: {problems[0]}{more}"))
            continue
        clipped += fitted.clipped
        empty += fitted.empty
        used.append(fitted.picture)
        known.append(fact)
    if faults and (strict or len(skipped) > _SYSTEMATIC * len(pictures)):
        raise_faults(faults, annotations.source)
    if not used:
        raise DataError(f"{annotations.source} has no images.")
    folders = {os.path.dirname(os.path.abspath(one.path)) for one in used}
    notes = [*annotations.notes, *_notes(clipped, empty, known)]
    return _Loaded(used, known, tuple(skipped), tuple(notes), os.path.commonpath(folders))


def _upright_size(fact: ImageFileInfo) -> tuple[int, int, bool]:
    """Return height and width of the image as decoded, and whether its EXIF orientation swapped them."""
    turned = ROTATED in fact.oddities and int(read_header(tf.io.read_file(fact.path)).orientation) >= 5
    return (fact.width, fact.height, True) if turned else (fact.height, fact.width, False)


def _notes(clipped: Sequence[str], empty: Sequence[str], facts: Sequence[ImageFileInfo]) -> list[str]:
    notes = []
    if clipped:
        notes.append(f"{len(clipped)} boxes reach a little out of their images and are clipped, such as {clipped[0]}.")
    if empty:
        notes.append(in_number(f"{len(empty)} boxes are left out (no area), such as {empty[0]}."))
    turned = [fact.path for fact in facts if ROTATED in fact.oddities]
    if turned:
        notes.append(
            f"{len(turned)} images have an EXIF orientation, such as {turned[0]}; their boxes are taken to belong to "
            "the upright image, as viewers show it."
        )
    return notes


def _trained_names(annotations: Annotations, pictures: Sequence[PictureBoxes], parts: set[str]) -> tuple[str, ...]:
    """Return the classes with objects, in the order of the file, or sorted if it has none."""
    held = {name for one in pictures for name in one.class_names}
    own = {
        name
        for one in pictures
        if one.part in parts
        for name, c in zip(one.class_names, one.crowd, strict=True)
        if not c
    }
    if not own:
        raise DataError(
            f"Expected at least one object to learn. Received: {len(pictures)} images in {annotations.source} "
            "without any. Are the annotations those of these images?"
        )
    if unseen := sorted(held - own):
        raise DataError(
            f"The classes {join_names(map(repr, unseen))} of {annotations.source} have no object to learn from: only "
            "validation images or crowd regions have them. Add examples to the training part, or remove them."
        )
    return tuple(name for name in annotations.class_names if name in own) or tuple(sorted(own))


def _check_trained(splits: Splits[BoxedImages]) -> None:
    """Raise DataError if a drawn split leaves a class without a training object."""
    if missing := [name for name, count in splits.train.counts.items() if not count]:
        raise DataError(
            f"All objects of {join_names(map(repr, missing))} are in images that are held out ({splits.split_from}). "
            "Add images of them, or use another seed."
        )


def _examples(loaded: _Loaded, names: Sequence[str]) -> BoxedImages:
    paths = tuple(one.path for one in loaded.pictures)
    below = (os.path.relpath(os.path.abspath(path), loaded.root).replace(os.sep, "/") for path in paths)
    labels = encode(loaded.pictures, names)
    return BoxedImages(paths, labels, tuple(names), loaded.skipped, tuple(loaded.facts), tuple(map(composed, below)))


def _drawn(
    examples: BoxedImages, options: SplitOptions, groups: Sequence[str] | None, duplicates: Duplicates, source: str
) -> tuple[np.ndarray, str]:
    """Draw the held-out images; if groups or duplicates make a stratified split impossible, one without strata."""
    together = joined(groups, duplicates.positions, len(examples))
    whole = f"the images of {source}"
    try:
        return options.hold_out(examples.names, whole, labels=rarest_classes(examples), groups=together)
    except DataError:
        if together is None:
            raise
        return options.hold_out(examples.names, whole, groups=together)


def rarest_classes(examples: BoxedImages) -> np.ndarray:
    """Return the class of each image, int [N], that the fewest images have; one more for no objects."""
    classes = examples.labels[..., 0]
    has = np.stack([(classes == at).any(axis=1) for at in range(len(examples.class_names))], axis=1)
    rarity = np.where(has, has.sum(axis=0), len(has) + 1)
    return np.where(has.any(axis=1), rarity.argmin(axis=1), len(examples.class_names))
