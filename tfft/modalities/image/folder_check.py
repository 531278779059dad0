"""Check of an image folder in any state: :func:`check_folder`.

Implementation notes: the folder is listed without the requirements of :func:`tfft.data.load`. With a backbone, the
check also finds larger crops and suspicious labels.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from tfft import registry
from tfft.backbones import Backbone
from tfft.data import Skipped
from tfft.data.class_folders import class_folders, existing, files_of, split_folders
from tfft.data.duplicates import Duplicate
from tfft.errors import DataError
from tfft.features import extract
from tfft.inspection.classes import class_findings
from tfft.inspection.drift import drift_findings
from tfft.inspection.duplicates import copy_findings
from tfft.inspection.findings import DataReport, Finding, in_order
from tfft.inspection.label_errors import NOT_CHECKED, label_findings, opened_for
from tfft.io.name_files import composed
from tfft.modalities.image.checks import described, listed_findings, measures_of
from tfft.modalities.image.crops import find_cropped_duplicates
from tfft.modalities.image.duplicates import find_duplicates
from tfft.modalities.image.examples import ImageFiles
from tfft.modalities.image.file_info import ImageFileInfo, facts_of
from tfft.modalities.image.folder import IMAGE_FILES

Progress = Callable[[int, int], None]


def check_folder(
    folder: str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | Backbone | None,
    seed: int,
    store: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> DataReport:
    """Check a folder of images; problems that prevent training are findings here.

    Args:
        folder: Folder with one folder per class, also within ``train/``, ``val/`` and ``test/``.
        backbone: As in :func:`tfft.check`, like all that follow.
        seed: Seed for the probe.
        store: File that stores the statistics of images, or None.
        progress: Function called with (files read, files in total).

    Raises:
        DataError: If the folder does not exist, or the backbone takes no images.
    """
    parts, skipped = _surveyed(Path(folder), store, progress)
    notes: list[str] = []
    seen = None if backbone is None else _seen(parts, backbone)
    findings = list(_findings(parts, skipped, seen, notes))
    if seen is not None:
        own = seen.examples
        findings += label_findings(seen.features, own.labels, own.class_names, own.paths, seen.backbone, seed, notes)
    elif backbone is None:
        notes.append(NOT_CHECKED)
    counts = {part: own.counts for part, own in parts.items()}
    return DataReport(os.fspath(folder), counts, in_order(iter(findings)), tuple(notes))


def _surveyed(
    folder: Path, store: str | os.PathLike[str] | None, progress: Progress | None
) -> tuple[dict[str, ImageFiles], list[Skipped]]:
    """List the usable examples by part, and the unusable files."""
    root = existing(folder)
    try:
        places = split_folders(root) or {"": root}
    except DataError:  # val/ without train/
        places = {"": root}
    parts, skipped = {}, list[Skipped]()
    for part, place in places.items():
        folders = class_folders(place, skipped, 0, IMAGE_FILES)
        names = tuple(sorted(set(map(composed, folders))))
        number = {name: names.index(composed(name)) for name in folders}
        found = [(path, number[name]) for name in folders for path in files_of(place / name, skipped, IMAGE_FILES)]
        facts = facts_of([path for path, _ in found], progress, store)
        skipped += [Skipped(one.path, one.reason) for one in facts if one.reason]
        used = [(one, label) for one, (_, label) in zip(facts, found, strict=True) if one.reason is None]
        labels = np.array([label for _, label in used], np.int32)
        good = tuple(one for one, _ in used)
        parts[part] = ImageFiles(tuple(one.path for one in good), labels, names, (), good)
    return parts, skipped


def _findings(
    parts: Mapping[str, ImageFiles], skipped: Sequence[Skipped], seen: _Seen | None, notes: list[str]
) -> Iterator[Finding]:
    counts = {part: own.counts for part, own in parts.items()}
    yield from listed_findings(parts, skipped)
    yield from class_findings(counts, skipped)
    facts = [one for own in parts.values() for one in own.facts]
    yield from copy_findings(_copies(facts, seen, notes), *described(parts))
    yield from drift_findings(measures_of(parts), counts)


def _copies(facts: Sequence[ImageFileInfo], seen: _Seen | None, notes: list[str]) -> list[Duplicate]:
    """Return duplicates in all parts, with features also larger crops."""
    found = find_duplicates(facts)
    pairs, said = list(found.pairs), [found.note]
    if seen is not None:
        now = {at: i for i, at in enumerate(seen.positions)}
        known = [copy for copy in pairs if copy.first in now and copy.second in now]
        known = [dataclasses.replace(copy, first=now[copy.first], second=now[copy.second]) for copy in known]
        own = dataclasses.replace(found, pairs=tuple(known))
        parts = find_cropped_duplicates([facts[at] for at in seen.positions], seen.features, own)
        said.append(parts.note)
        at = seen.positions
        pairs += [dataclasses.replace(copy, first=at[copy.first], second=at[copy.second]) for copy in parts.pairs]
    notes += [f"{note[:1].upper()}{note[1:]}." for note in said if note]
    return sorted(pairs, key=lambda copy: (copy.first, copy.second))


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """Features of a backbone [N, D], for the examples of all parts that have the classes of the first."""

    examples: ImageFiles
    positions: list[int]  # positions among all examples
    features: np.ndarray
    backbone: str


def _seen(parts: Mapping[str, ImageFiles], backbone: str | os.PathLike[str] | Backbone) -> _Seen | None:
    opened = opened_for(registry.modality("image"), backbone)
    first = next(iter(parts.values()))
    same = [own for own in parts.values() if own.class_names == first.class_names]
    paths = tuple(path for own in same for path in own.paths)
    examples = ImageFiles(paths, np.concatenate([own.labels for own in same]), first.class_names)
    if not len(examples) or len(examples.class_names) < 2:
        return None
    taken = [own.class_names == first.class_names for own in parts.values() for _ in own.paths]
    features = np.asarray(extract(opened, examples, verbose=False).arrays)
    features = features.mean(axis=tuple(range(1, features.ndim - 1))) if features.ndim > 2 else features
    return _Seen(examples, np.flatnonzero(taken).tolist(), features, opened.name)
