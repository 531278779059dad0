"""Check of a dataset: :func:`check`, and of a loaded one: :func:`check_splits`.

Implementation notes: the modality checks the examples, a probe the labels.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfft import registry
from tfft.backbones import Backbone
from tfft.data import Splits, load
from tfft.data.keras_sequences import with_datasets
from tfft.data.loader import explicit, modality_of, reader_of
from tfft.data.tfds.source import ROLES, LocalCopy, is_tfds, local_copy
from tfft.errors import DataError
from tfft.inspection.findings import DataReport, Finding, Item, counted, in_order
from tfft.inspection.label_errors import NOT_CHECKED, doubtful_labels
from tfft.io.cache_dir import cache_dir


def check(
    data: Any,
    *,
    backbone: str | os.PathLike[str] | Backbone | None = None,
    text: str | int | Sequence[str | int] | None = None,
    image: str | int | None = None,
    audio: str | int | None = None,
    label: str | int | None = None,
    target: str | int | None = None,
    task: str = "auto",
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    ignore: str | int | Sequence[str | int] | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Check a dataset for problems that reduce the quality of a model and are easily overlooked.

    Use it before the first training on new data. It changes and removes nothing. :func:`tfft.finetune` runs the same
    check, without labels, before every training.

    Args:
        data: Folder with one folder of images or recordings per class, also within ``train/``, ``val/`` and ``test/``;
            a table of files; a table of texts, as for :func:`tfft.modalities.text.load_texts`; or ``"tfds:NAME"``.
        backbone: Backbone to check labels: examples that a probe on its frozen features assigns to another class are
            listed; in folders of images, larger crops of other images are found too.
        text: Column with the texts; for TensorFlow Datasets the feature, as for the other columns.
        image: Column with the paths of image files.
        audio: Column with the paths of recordings.
        label: Column with the labels.
        target: Column with the texts to write, for text to text; for a TMX file its language.
        task: Meaning of the labels, as in :func:`tfft.data.load`, for a task with files of its own.
        images: Folder of the images of an annotation file, for object detection.
        masks: Folder of the masks, as in :func:`tfft.data.load`, like the next one.
        ignore: Classes of masks that count as no label.
        delimiter: Delimiter of a table, as in :func:`tfft.data.load`, like the next two.
        encoding: Encoding of a table.
        decimal: Decimal mark of numeric labels.
        seed: Seed for the split of texts, and for the probe.
        store: File that stores the statistics of images and recordings, so that a second check reads new ones only;
            ``"auto"`` uses the user's cache folder, None stores nothing.
        progress: Function called with (files read, files in total).

    Returns:
        A :class:`DataReport`: print it, or write it with ``write_json`` and ``write_html``.

    Raises:
        DataError: If the data does not exist.

    Example:
        >>> report = tfft.check("photos/", backbone="efficientnet-lite0")
        >>> print(report)
        >>> report.write_html("report.html")
    """
    start = time.perf_counter()
    form = {"delimiter": delimiter, "encoding": encoding, "decimal": decimal}
    own_files = {"task": task, "images": images, "masks": masks, "ignore": ignore}
    columns = explicit(
        {"text": text, "image": image, "audio": audio, "label": label, "target": target, **form, **own_files}
    )
    if is_tfds(data):
        copy = local_copy(data, columns, progress)
        settings: dict[str, Any] = {name: copy.settings[name] for name in ROLES}
        report = check(copy.source, backbone=backbone, **settings, seed=seed, store=store, progress=progress)
        findings = in_order(iter([*report.findings, *_without_label(copy)]))
        return dataclasses.replace(report, data=copy.name, findings=findings, seconds=time.perf_counter() - start)
    data = with_datasets(data)
    kind = reader_of(data, columns)
    match = kind.match(data, columns)
    place = cache_dir() / "files.sqlite" if store == "auto" else store
    reading: dict[str, Any] = {"seed": seed, "store": place, "progress": progress}
    name = os.fspath(data) if isinstance(data, (str, os.PathLike)) else f"{match.form} in memory"
    named = {name: value for name, value in columns.items() if name != "task"}
    own = kind.check_source(data, named, backbone=backbone, **reading)
    report = _loaded(data, name, {**columns, **reading}, backbone) if own is None else own
    return dataclasses.replace(report, seconds=time.perf_counter() - start)


def check_splits(splits: Splits[Any], name: str = "") -> DataReport:
    """Check a dataset from :func:`tfft.data.load`, without reading files again.

    Args:
        splits: Examples with the statistics of their files.
        name: Name of the data, for the report.
    """
    kind, notes = modality_of(splits), list[str]()
    findings = in_order(kind.findings(splits, notes=notes))
    return DataReport(name or splits.root or kind.items, kind.counts(splits), findings, tuple(notes))


def _loaded(
    data: Any, name: str, settings: dict[str, Any], backbone: str | os.PathLike[str] | Backbone | None
) -> DataReport:
    """Load and check a source; loading errors become findings."""
    try:
        splits = load(data, **settings)
    except DataError as error:
        return DataReport(name, {}, (_stopped(error),))
    report, notes = check_splits(splits, name), list[str]()
    if backbone is None and registry.task(splits.task).checks_label_errors:
        notes.append(NOT_CHECKED)
    doubts = [] if backbone is None else list(doubtful_labels(splits, backbone, settings["seed"], notes))
    findings = in_order(iter([*report.findings, *doubts]))
    return dataclasses.replace(report, findings=findings, notes=(*report.notes, *notes))


def _without_label(copy: LocalCopy) -> Iterator[Finding]:
    items = [Item(one.path, one.reason) for one in copy.skipped]
    return counted(items, "unlabelled", "note", "examples have no label", "they are left out")


def _stopped(error: DataError) -> Finding:
    """Convert an error that prevents training to a finding."""
    first, *lines = str(error).splitlines()
    items = tuple(Item(line.strip(" -")) for line in lines if line.strip())
    return Finding("unreadable", "error", first.rstrip(".:"), "see the message", items)
