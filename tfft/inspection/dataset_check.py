"""The check of a whole data set: :func:`check`, and of one that was read already: :func:`check_splits`.

Hides where findings come from: what is odd in examples their modality says, what is wrong with labels a probe.
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
from tfft.data.loader import explicit, reader_of
from tfft.data.tfds.source import ROLES, LocalCopy, is_tfds, local_copy
from tfft.errors import DataError
from tfft.inspection.findings import DataReport, Finding, Item, in_order
from tfft.inspection.label_errors import NOT_CHECKED, doubted
from tfft.io.cache_dir import cache_dir


def check(
    data: Any,
    *,
    backbone: str | os.PathLike[str] | Backbone | None = None,
    text: str | int | Sequence[str | int] | None = None,
    image: str | int | None = None,
    audio: str | int | None = None,
    label: str | int | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    seed: int = 0,
    store: str | os.PathLike[str] | None = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Looks for everything in a data set that spoils a model and is easily overlooked.

    Use it before the first training on new data. Nothing is changed or removed. :func:`tfft.finetune` does the same,
    without labels, before every training.

    Args:
        data: folder with one folder of images or recordings per class, also within ``train/``, ``val/`` and ``test/``;
            a table of files; a table of texts, as :func:`tfft.modalities.text.load_texts` takes it; or ``"tfds:NAME"``.
        backbone: with it the labels are checked as well: examples that a probe on its frozen features takes for another
            class are listed; and in folders of images those that are larger crops of others are found.
        text: column of a table that holds the texts; of TensorFlow Datasets the feature, as with the other columns.
        image: column of a table that holds the paths of image files.
        audio: column of a table that holds the paths of recordings.
        label: column that holds the labels.
        delimiter: between the fields of a table, as :func:`tfft.data.load` takes it, and the next two.
        encoding: of a table.
        decimal: mark of labels that are numbers.
        seed: of the split of texts, and of the probe.
        store: file that keeps the statistics of images and recordings, so that a second check reads new
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
    form = {"delimiter": delimiter, "encoding": encoding, "decimal": decimal}
    columns = explicit({"text": text, "image": image, "audio": audio, "label": label, **form})
    if is_tfds(data):
        copy = local_copy(data, columns, progress)
        settings: dict[str, Any] = {name: copy.settings[name] for name in ROLES}
        report = check(copy.source, backbone=backbone, **settings, seed=seed, store=store, progress=progress)
        findings = in_order(iter([*report.findings, *_without_label(copy)]))
        return dataclasses.replace(report, data=copy.name, findings=findings, seconds=time.perf_counter() - start)
    kind = reader_of(data, columns)
    match = kind.match(data, columns)
    place = cache_dir() / "files.sqlite" if store == "auto" else store
    reading: dict[str, Any] = {"seed": seed, "store": place, "progress": progress}
    name = os.fspath(data) if isinstance(data, (str, os.PathLike)) else f"{match.form} in memory"
    own = kind.check_source(data, columns, backbone=backbone, **reading)
    report = _loaded(data, name, {**columns, **reading}, backbone) if own is None else own
    return dataclasses.replace(report, seconds=time.perf_counter() - start)


def check_splits(splits: Splits[Any], name: str = "") -> DataReport:
    """Looks at a data set that was read by :func:`tfft.data.load`; no file is read again.

    Args:
        splits: the examples, with the statistics of their files.
        name: of the data, for the report.
    """
    kind, notes = registry.modality(splits.modality), list[str]()
    findings = in_order(kind.findings(splits, notes=notes))
    return DataReport(name or splits.root or kind.items, kind.counts(splits), findings, tuple(notes))


def _loaded(
    data: Any, name: str, settings: dict[str, Any], backbone: str | os.PathLike[str] | Backbone | None
) -> DataReport:
    """Looks at what loading gives; what stops it is a finding, in place of an error."""
    try:
        splits = load(data, **settings)
    except DataError as error:
        return DataReport(name, {}, (_stopped(error),))
    report, notes = check_splits(splits, name), list[str]()
    if backbone is None:
        notes.append(NOT_CHECKED)
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
    return Finding("unreadable", "error", first.rstrip(".:"), "see the message", items)
