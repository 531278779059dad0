"""The check of a whole data set: :func:`check`, and of one that is listed already: :func:`check_splits`."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfft import registry
from tfft.backbones import Backbone, load_backbone
from tfft.data import (
    Copy,
    Examples,
    FileFacts,
    RecordingSplits,
    Skipped,
    Splits,
    find_copies,
    find_parts,
    load_image_table,
    load_recording_table,
    load_recordings,
    load_texts,
)
from tfft.data.file_index import facts_of
from tfft.data.loader import IMAGE_TABLE, IMAGES, RECORDING_TABLE, RECORDINGS, TEXTS, check_settings, kind_of
from tfft.data.tfds.source import LocalCopy, is_tfds, local_copy
from tfft.errors import DataError
from tfft.features import extract
from tfft.inspection.classes import class_findings, label_text
from tfft.inspection.drift import drift_findings
from tfft.inspection.duplicates import copy_findings
from tfft.inspection.findings import DataReport, Finding, Item, in_order
from tfft.inspection.label_errors import doubted, label_findings
from tfft.io.cache_dir import cache_dir
from tfft.modalities.audio.checks import check_recordings
from tfft.modalities.image.checks import file_findings
from tfft.modalities.image.folder import class_folders, existing, files_of, split_folders
from tfft.modalities.text.checks import text_report


def check(
    data: Any,
    *,
    backbone: str | os.PathLike[str] | Backbone | None = None,
    text: str | int | Sequence[str | int] | None = None,
    image: str | int | None = None,
    audio: str | int | None = None,
    label: str | int | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Looks for everything in a data set that spoils a model and is easily overlooked.

    Use it before the first training on new data. Nothing is changed or removed. :func:`tfft.finetune` does the same,
    without labels, before every training.

    Args:
        data: folder with one folder of images or recordings per class, also within ``train/``, ``val/`` and ``test/``;
            a table of files; a table of texts, as :func:`tfft.data.load_texts` takes it; or ``"tfds:NAME"``.
        backbone: with it the labels are checked as well: examples that a probe on its frozen features takes for another
            class are listed; and in folders of images those that are larger crops of others are found.
        text: column of a table that holds the texts; of TensorFlow Datasets the feature, as with the other columns.
        image: column of a table that holds the paths of image files.
        audio: column of a table that holds the paths of recordings.
        label: column that holds the labels.
        seed: of the split of texts, and of the probe.
        store: file in which is kept what reading images and recordings told, so that a second check reads new
            ones only; ``"auto"`` has its place in the user's cache folder, None keeps nothing.
        progress: called with (files read, files in all).

    Returns:
        A :class:`DataReport`: print it, or write it with ``write_json`` and ``write_html``.

    Raises:
        DataError: when there is no such data.

    Example:
        >>> report = tfft.check("photos/", backbone="efficientnet-lite0")
        >>> print(report)
        >>> report.write_html("report.html")
    """
    start = time.perf_counter()
    columns = {name: value for name, value in (("text", text), ("label", label)) if value is not None}
    if is_tfds(data):
        copy = local_copy(data, image=image, audio=audio, text=text, label=label, progress=progress)
        settings = {name: copy.settings[name] for name in ("image", "audio", "text", "label")}
        report = check(copy.source, backbone=backbone, **settings, seed=seed, store=store, progress=progress)
        findings = in_order(iter([*report.findings, *_without_label(copy)]))
        return dataclasses.replace(report, data=copy.name, findings=findings, seconds=time.perf_counter() - start)
    place = cache_dir() / "files.sqlite" if store == "auto" else store
    kind = kind_of(data, image=image, audio=audio, text=text, label=label)
    check_settings(kind, columns)
    if kind != IMAGES:
        columns |= {name: value for name, value in (("image", image), ("audio", audio)) if value is not None}
        settings = {**columns, "seed": seed} | ({} if kind == TEXTS else {"store": place, "progress": progress})
        report = _of_splits(data, kind, settings, backbone)
        return dataclasses.replace(report, seconds=time.perf_counter() - start)
    survey = _surveyed(Path(data), place, progress)
    notes: list[str] = []
    seen = None if backbone is None else _seen(survey, backbone)
    findings = list(_findings(survey, seen, notes))
    if seen is not None:
        own = seen.examples
        findings += label_findings(seen.features, own.labels, own.class_names, own.paths, seen.backbone, seed, notes)
    elif backbone is None:
        notes.append(_NOT_CHECKED)
    report = in_order(iter(findings))
    return DataReport(os.fspath(data), _counts(survey), report, tuple(notes), time.perf_counter() - start)


def check_splits(splits: Splits, name: str = "") -> DataReport:
    """Looks at a data set that was listed by :func:`tfft.data.load`; no file is read again.

    Args:
        splits: the examples, with what reading them told.
        name: of the data, for the report.
    """
    parts = {"train": splits.train, "validation": splits.validation}
    made_here = not splits.split_from.startswith("the folders")
    survey = {part: (own.class_names, own, ()) for part, own in parts.items()}
    notes = [splits.copies_note] if splits.copies_note else []
    findings = list(_of_files(survey, splits.skipped))
    if registry.task(splits.task).exclusive_classes:
        findings += class_findings(_counts(survey))
    findings += copy_findings(splits.copies, *_described(survey))
    if not made_here:
        findings += drift_findings({part: own.facts for part, own in parts.items()}, _counts(survey))
    return DataReport(name or splits.root, _counts(survey), in_order(iter(findings)), tuple(notes))


def _of_splits(
    data: Any, kind: str, settings: Mapping[str, Any], backbone: str | os.PathLike[str] | Backbone | None
) -> DataReport:
    """Looks at what a loader gives; what stops it is a finding, in place of an error."""
    name = os.fspath(data) if isinstance(data, (str, os.PathLike)) else f"{kind} in memory"
    if kind not in _LOADERS:
        raise DataError(f"check looks at files and texts, and these are {kind}.")
    try:
        splits = _LOADERS[kind](data, **settings)
    except DataError as error:
        return DataReport(name, {}, (_stopped(error),))
    look = text_report if kind == TEXTS else check_recordings if isinstance(splits, RecordingSplits) else check_splits
    report, notes = dataclasses.replace(look(splits), data=name), []
    if backbone is None:
        notes.append(_NOT_CHECKED)
    doubts = [] if backbone is None else list(doubted(splits, backbone, settings["seed"], notes))
    findings = in_order(iter([*report.findings, *doubts]))
    return dataclasses.replace(report, findings=findings, notes=(*report.notes, *notes))


def _without_label(copy: LocalCopy) -> Iterator[Finding]:
    if copy.skipped:
        items = tuple(Item(one.path, one.reason) for one in copy.skipped)
        yield Finding("unlabelled", "note", f"{len(items)} examples have no label", "they are left out", items)


def _stopped(error: DataError) -> Finding:
    """What stops a training, as a finding."""
    first, *lines = str(error).splitlines()
    items = tuple(Item(line.strip(" -")) for line in lines if line.strip())
    return Finding("unreadable", "fault", first.rstrip(".:"), "see the message", items)


_NOT_CHECKED = "Labels were not checked: give a backbone for that."
_LOADERS: dict[str, Callable[..., Any]] = {
    IMAGE_TABLE: load_image_table,
    RECORDING_TABLE: load_recording_table,
    RECORDINGS: load_recordings,
    TEXTS: load_texts,
}

# Class names, usable examples, and what was left out, by part.
_Survey = Mapping[str, tuple[Sequence[str], Examples, Sequence[Skipped]]]


def _surveyed(
    folder: Path, store: str | os.PathLike[str] | None, progress: Callable[[int, int], None] | None
) -> _Survey:
    """Lists a folder in whatever state it is: what stops :func:`tfft.data.load` is a finding here."""
    root = existing(folder)
    try:
        parts = split_folders(root) or {"": root}
    except DataError:  # val/ without train/
        parts = {"": root}
    survey = {}
    for part, place in parts.items():
        skipped: list[Skipped] = []
        names = class_folders(place, skipped, least=0)
        found = [(path, number) for number, name in enumerate(names) for path in files_of(place / name, skipped)]
        facts = facts_of([path for path, _ in found], progress, store)
        skipped += [Skipped(one.path, one.reason) for one in facts if one.reason]
        used = [(one, number) for one, (_, number) in zip(facts, found, strict=True) if one.reason is None]
        labels = np.array([number for _, number in used], np.int32)
        good = tuple(one for one, _ in used)
        survey[part] = (names, Examples(tuple(one.path for one in good), labels, names, (), good), skipped)
    return survey


def _counts(survey: _Survey) -> dict[str, dict[str, int]]:
    return {part: own.counts for part, (_, own, _) in survey.items()}


def _described(survey: _Survey) -> tuple[list[str], list[str], list[str]]:
    """Paths, class names and parts of all examples, in the order that copies are counted in."""
    paths = [path for _, own, _ in survey.values() for path in own.paths]
    labels = [label_text(names, label) for names, own, _ in survey.values() for label in own.labels]
    parts = [part for part, (_, own, _) in survey.items() for _ in own.paths]
    return paths, labels, parts


def _of_files(survey: _Survey, skipped: Sequence[Skipped]) -> Iterator[Finding]:
    facts: list[FileFacts] = [one for _, own, _ in survey.values() for one in own.facts]
    yield from file_findings(facts, _described(survey)[1] if facts else [], skipped)


def _findings(survey: _Survey, seen: _Seen | None, notes: list[str]) -> Iterator[Finding]:
    yield from _of_files(survey, [item for _, _, skipped in survey.values() for item in skipped])
    yield from class_findings(_counts(survey))
    facts = [one for _, own, _ in survey.values() for one in own.facts]
    yield from copy_findings(_copies(facts, seen, notes), *_described(survey))
    yield from drift_findings({part: own.facts for part, (_, own, _) in survey.items()}, _counts(survey))


def _copies(facts: Sequence[FileFacts], seen: _Seen | None, notes: list[str]) -> list[Copy]:
    """Copies among all, with features also those that are larger crops."""
    found = find_copies(facts)
    pairs, said = list(found.pairs), [found.note]
    if seen is not None:
        now = {at: i for i, at in enumerate(seen.positions)}
        known = [copy for copy in pairs if copy.first in now and copy.second in now]
        known = [dataclasses.replace(copy, first=now[copy.first], second=now[copy.second]) for copy in known]
        own = dataclasses.replace(found, pairs=tuple(known))
        parts = find_parts([facts[at] for at in seen.positions], seen.features, own)
        said.append(parts.note)
        at = seen.positions
        pairs += [dataclasses.replace(copy, first=at[copy.first], second=at[copy.second]) for copy in parts.pairs]
    notes += [f"{note[:1].upper()}{note[1:]}." for note in said if note]
    return sorted(pairs, key=lambda copy: (copy.first, copy.second))


@dataclasses.dataclass(frozen=True, eq=False)
class _Seen:
    """What a backbone saw: features [N, D] of the examples of all parts that have the classes of the first."""

    examples: Examples
    positions: list[int]  # of the examples among all of the survey
    features: np.ndarray
    backbone: str


def _seen(survey: _Survey, backbone: str | os.PathLike[str] | Backbone) -> _Seen | None:
    opened = backbone if isinstance(backbone, Backbone) else load_backbone(backbone)
    first = next(iter(survey.values()))[1]
    if opened.input_spec is None:
        raise DataError(f"The labels of images cannot be checked with {opened.name!r}, which takes no images.")
    examples = _together(first, [own for _, own, _ in survey.values() if own.class_names == first.class_names])
    if not len(examples) or len(examples.class_names) < 2:
        return None
    taken = [own.class_names == first.class_names for _, own, _ in survey.values() for _ in own.paths]
    features = np.asarray(extract(opened, examples, verbose=False).arrays)
    features = features.mean(axis=tuple(range(1, features.ndim - 1))) if features.ndim > 2 else features
    return _Seen(examples, np.flatnonzero(taken).tolist(), features, opened.name)


def _together(first: Examples, parts: Sequence[Examples]) -> Examples:
    paths = tuple(path for own in parts for path in own.paths)
    return Examples(paths, np.concatenate([own.labels for own in parts]), first.class_names)
