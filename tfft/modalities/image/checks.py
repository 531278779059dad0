"""Checks of image files: unusable files, unusual formats, duplicates, and differences between the splits."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfft import registry
from tfft.data import Skipped, Splits
from tfft.inspection.classes import class_findings, label_text
from tfft.inspection.drift import drift_findings
from tfft.inspection.duplicates import copy_findings
from tfft.inspection.findings import Finding, Item, Level, counted
from tfft.inspection.skipped import unusable
from tfft.modalities.image import file_info as known
from tfft.modalities.image.decode_errors import FOREIGN_SUFFIXES, SUFFIXES
from tfft.modalities.image.examples import ImageFiles
from tfft.modalities.image.file_info import ImageFileInfo

_SMALL = 32  # pixels per side
_LONG_AND_THIN = 4.0
_LONG_NAME = 200  # bytes; most file systems end at 255, archives and other systems before that
_FEW = 0.2  # of the images: a rarer property is reported as unusual

_ODDITIES: dict[str, tuple[Level, str, str]] = {
    known.CMYK: ("note", "{n} images are CMYK, made for print", "they are converted; colours may differ slightly"),
    known.DEEP: ("note", "{n} images have 16 bits per channel", "they are read as 8 bits"),
    known.PALETTE: ("note", "{n} images have a palette", "no action needed: their colours are converted"),
    known.TRANSPARENT: (
        "note",
        "{n} images have transparent pixels",
        "they are composited on white; save them on another background if that is wrong",
    ),
    known.GREY: ("note", "{n} images are grayscale, the others are not", "check that this does not reveal the class"),
    known.ANIMATED: (
        "warning",
        "{n} images are animated",
        "only the first frame is used; save the frame that you need",
    ),
    known.ROTATED: ("note", "{n} images have an EXIF orientation", "they are rotated accordingly, also in serving"),
    known.MISNAMED: (
        "warning",
        "{n} files have the extension of another format",
        "tfft detects the format; rename them for other programs",
    ),
    known.FLAT: ("warning", "{n} images have a single colour", "check them: they contain no information"),
}


def split_findings(splits: Splits[ImageFiles], notes: list[str]) -> Iterator[Finding]:
    """Yield findings about images from :func:`tfft.data.load`, without reading files again.

    Args:
        splits: Examples with the statistics of their files.
        notes: List to which a sentence is added if duplicates were not searched.
    """
    parts = splits.parts
    notes += [splits.duplicates_note] if splits.duplicates_note else []
    counts = {part: own.counts for part, own in parts.items()}
    files = isinstance(splits.train, ImageFiles)  # arrays have no files to look at
    if files:
        yield from listed_findings(parts, splits.skipped)
    if registry.task(splits.task).exclusive_classes:
        yield from class_findings(counts)
    if not files:
        return
    yield from copy_findings(splits.duplicates, *described(parts))
    if splits.split_from.startswith("the folders"):
        yield from drift_findings(measures_of(parts), counts)


def listed_findings(parts: Mapping[str, ImageFiles], skipped: Sequence[Skipped]) -> Iterator[Finding]:
    """Yield findings about the files of all parts.

    Args:
        parts: Examples by part.
        skipped: Skipped files of all parts.
    """
    facts: list[ImageFileInfo] = [one for own in parts.values() for one in own.facts]
    yield from file_findings(facts, described(parts)[1] if facts else [], skipped)


def described(parts: Mapping[str, ImageFiles]) -> tuple[list[str], list[str], list[str]]:
    """Return paths, class names and parts of all examples, in the order in which duplicates are numbered."""
    paths = [path for own in parts.values() for path in own.paths]
    labels = [label_text(own.class_names, label) for own in parts.values() for label in own.labels]
    where = [part for part, own in parts.items() for _ in own.paths]
    return paths, labels, where


def measures_of(parts: Mapping[str, ImageFiles]) -> dict[str, dict[str, np.ndarray]]:
    """Return brightness, contrast, size and aspect ratio of the images by part, for :func:`drift_findings`."""
    return {part: _measures(own.facts) for part, own in parts.items()}


def _measures(facts: Sequence[ImageFileInfo]) -> dict[str, np.ndarray]:
    if not facts:
        return {}
    thumbs = np.stack([one.thumb for one in facts if one.thumb is not None]).astype(np.float32)
    return {
        "brightness": thumbs.mean(axis=(1, 2)),
        "contrast": thumbs.std(axis=(1, 2)),
        "shorter side": np.array([min(one.height, one.width) for one in facts], float),
        "width to height": np.array([one.width / one.height for one in facts]),
    }


def file_findings(
    facts: Sequence[ImageFileInfo], labels: Sequence[str], skipped: Sequence[Skipped]
) -> Iterator[Finding]:
    """Yield findings about single files.

    Args:
        facts: Statistics of the usable files.
        labels: Class of each file.
        skipped: Unusable files.
    """
    yield from unusable(skipped, "images", SUFFIXES + FOREIGN_SUFFIXES)
    for oddity, (level, message, remedy) in _ODDITIES.items():
        odd = [one for one in facts if oddity in one.oddities]
        if not odd or (oddity in (known.GREY, known.PALETTE) and len(odd) > _FEW * len(facts)):
            continue
        yield Finding(oddity, level, message.format(n=len(odd)), remedy, tuple(_item(one, oddity) for one in odd))
    small = [one for one in facts if min(one.height, one.width) < _SMALL]
    if small and len(small) <= _FEW * len(facts):
        items = tuple(Item(one.path, f"is {one.width} x {one.height} pixels") for one in small)
        yield Finding(
            "small", "warning", f"{len(small)} images are very small", "use larger originals if there are any", items
        )
    thin = [one for one in facts if max(one.height, one.width) > _LONG_AND_THIN * min(one.height, one.width)]
    shapes = [Item(one.path, f"is {one.width} x {one.height} pixels") for one in thin]
    remedy = "cropping removes most of each; resize='pad' or 'stretch' keeps them whole"
    yield from counted(shapes, "thin", "warning", "images are long and thin", remedy)
    yield from _names(facts)
    yield from _telling_formats(facts, labels)


def _item(one: ImageFileInfo, oddity: str) -> Item:
    return Item(one.path, f"is a {one.kind}" if oddity == known.MISNAMED else "")


def _names(facts: Sequence[ImageFileInfo]) -> Iterator[Finding]:
    long = [Item(one.path) for one in facts if len(os.fsencode(Path(one.path).name)) > _LONG_NAME]
    words = f"file names are longer than {_LONG_NAME} bytes"
    remedy = "shorten them, since archives and other systems may cut them off"
    yield from counted(long, "long-name", "warning", words, remedy)
    apart = [Item(one.path) for one in facts if unicodedata.normalize("NFC", one.path) != one.path]
    words = "file names use decomposed Unicode, as macOS writes it"
    remedy = "no action needed; lists of names from elsewhere may not match"
    yield from counted(apart, "decomposed-name", "note", words, remedy)


def _telling_formats(facts: Sequence[ImageFileInfo], labels: Sequence[str]) -> Iterator[Finding]:
    """Find a format that reveals the class: a network may learn JPEG artifacts instead of the content."""
    by_class: dict[str, Counter[str]] = defaultdict(Counter)
    for one, label in zip(facts, labels, strict=True):
        by_class[label][one.kind] += 1
    if len({one.kind for one in facts}) < 2 or len(by_class) < 2 or min(map(Counter.total, by_class.values())) < 5:
        return
    mostly = {label: kinds.most_common(1)[0] for label, kinds in by_class.items()}
    pure = {label: kind for label, (kind, count) in mostly.items() if count >= 0.9 * by_class[label].total()}
    if len(pure) == len(by_class) and len(set(pure.values())) > 1:
        items = tuple(Item(label, f"is stored as {kind}") for label, kind in pure.items())
        remedy = "store all classes in one format, or the model may learn the format"
        yield Finding("telling-format", "warning", "the file format reveals the class", remedy, items)
