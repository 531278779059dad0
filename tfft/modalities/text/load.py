"""Labelled texts from tables, lists or folders: :func:`load_texts`, :func:`read_texts`.

Implementation notes: equal texts stay on one side of a split.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfft import registry
from tfft.data.dialect import decode_table
from tfft.data.examples import Skipped, Splits
from tfft.data.forms import label_column
from tfft.data.label_parsing import has_value, parse_labels
from tfft.data.options import ReadOptions, TableOptions, options_from
from tfft.data.split import SplitOptions, hold_out, joined
from tfft.data.table import SUFFIXES, Table, read_table
from tfft.errors import DataError, join_names, raise_problems
from tfft.modalities.text.examples import TextExamples
from tfft.modalities.text.report import report_on

_HELD = ("val", "valid", "validation", "dev")
_SHOWN = 10


@dataclasses.dataclass(frozen=True, eq=False)
class _Raw:
    """Texts and labels as they were read."""

    texts: list[Any]
    pairs: list[Any] | None
    labels: list[Any]
    places: tuple[str, ...]
    groups: list[Any] | None = None


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Columns of a table to read."""

    text: tuple[str | int, ...]
    label: str | int
    task: str = "auto"

    @classmethod
    def of(cls, text: str | int | Sequence[str | int], table: TableOptions) -> _Columns:
        return cls((text,) if isinstance(text, (str, int)) else tuple(text), table.label, table.task)


def load_texts(source: Any, *, text: str | int | Sequence[str | int] = "text", **settings: Any) -> Splits[TextExamples]:
    """Load labelled texts and split them.

    Equal texts (ignoring case and surrounding spaces) are never on both sides of a split that is made here.

    Args:
        source: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file; a pandas DataFrame; ``(texts, labels)``; a pair of
            files ``(train, validation)``; a folder with ``train`` and ``val`` (or ``dev``, ``valid``, ``validation``)
            tables; or a folder with one folder of ``.txt`` files per class, also within ``train/`` and ``val/``.
        text: Column with the texts, by name; by number for a file without a header; two columns for pairs.
        **settings: Settings of :class:`tfft.data.options.TableOptions` (``label``, ``task``, ``separator``,
            ``encoding``), :class:`tfft.data.SplitOptions` (``validation``, a share; ``seed``; ``group``, a column of a
            table, with which shares are approximate), and ``strict``: whether a row without a text or a label is an
            error; otherwise it is skipped and listed.

    Returns:
        Both parts, and a report about the texts.

    Raises:
        DataError: If rows cannot be used; the message lists all problems with file and line.

    Example:
        >>> splits = load_texts("reviews.csv", text="review", label="stars")
        >>> print(splits.report)
        >>> model.fit(to_dataset(splits.train, shuffle=True), validation_data=to_dataset(splits.validation))
    """
    table, split, reading = options_from(settings, TableOptions, SplitOptions, ReadOptions)
    parts, origin = _parts(source, _Columns.of(text, table), table, split.group)
    if split.group is not None and (len(parts) > 1 or parts[0].groups is None):
        raise DataError(f"group= expects a column of a single table without a split. Received: group={split.group!r}.")
    skipped: list[Skipped] = []
    cleaned = [_cleaned(part, reading.strict, skipped) for part in parts]
    columns, places = ([getattr(part, name) for part in cleaned] for name in ("labels", "places"))
    parsed = parse_labels(columns, places, task=table.task, separator=table.separator, decimal=table.decimal)
    names = parsed.class_names
    examples = [_examples(part, own, names) for part, own in zip(cleaned, parsed.parts, strict=True)]
    report = report_on([(e.texts, e.places) for e in examples])
    groups = None
    if len(examples) == 1:
        strata = registry.task(parsed.task).strata(examples[0].labels)
        held = _held_out(examples[0], strata, split, cleaned[0].groups)
        order = [np.flatnonzero(~held), np.flatnonzero(held)]
        if (own := cleaned[0].groups) is not None:
            groups = tuple(own[at] for part in order for at in part)
        examples = [examples[0].take(part) for part in order]
        each = "" if strata is None else "of each class, "
        origin = f"{split.share * 100:g} % {each}drawn with seed {split.seed}"
    train, validation = examples
    return Splits(train, validation, origin, task=parsed.task, skipped=tuple(skipped), groups=groups, report=report)


def read_texts(
    source: Any, class_names: Sequence[str], *, text: str | int | Sequence[str | int] = "text", **settings: Any
) -> TextExamples:
    """Load labelled texts without splitting them, for a model with known classes.

    Args:
        source: As in :func:`load_texts`, with one part.
        class_names: Class names of the model; empty for regression.
        text: As in :func:`load_texts`.
        **settings: Settings of :class:`tfft.data.options.TableOptions`; ``task`` is that of the model.

    Raises:
        DataError: As in :func:`load_texts`, and for labels outside of the classes.
    """
    (table,) = options_from({"task": "classification", **settings}, TableOptions)
    parts, _ = _parts(source, _Columns.of(text, table), table)
    if len(parts) > 1:
        raise DataError("Expected texts in one part. Received: two. Pass one file or folder.")
    raw = _cleaned(parts[0], False, [])
    parsed = parse_labels(
        [raw.labels],
        [raw.places],
        task=table.task,
        separator=table.separator,
        decimal=table.decimal,
        class_names=class_names,
    )
    return _examples(raw, parsed.labels, parsed.class_names)


# --- sources -----------------------------------------------------------------------------------------------------


def _parts(
    source: Any, columns: _Columns, form: TableOptions, group: str | int | None = None
) -> tuple[list[_Raw], str]:
    """Return one part that is to be split, or two, and how they came about."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.exists():
            raise DataError(f"{path} does not exist. Expected a table ({join_names(SUFFIXES)}) or a folder of texts.")
        if path.is_dir():
            return _folder(path, columns, form)
        return [_of_table(path, columns, form, group)], ""
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return [_raw(read_table(source), columns, group)], ""
    if isinstance(source, (tuple, list)) and len(source) == 2:
        if all(isinstance(part, (str, os.PathLike)) for part in source):
            return [_of_table(Path(p).expanduser(), columns, form) for p in source], "the two files given"
        texts, labels = list(source[0]), _listed(source[1], columns.task)
        if len(texts) != len(labels):
            raise DataError(f"Expected one label per text. Received: {len(texts)} texts and {len(labels)} labels.")
        return [_Raw(texts, None, labels, tuple(f"example {i}" for i in range(len(texts))))], ""
    raise DataError(
        f"Expected a table ({join_names(SUFFIXES)}), a DataFrame, (texts, labels), two files or a folder. Received: "
        f"{type(source).__name__}."
    )


def _listed(labels: Any, task: str) -> list[Any]:
    """Return labels in a list; one-hot rows, columns and [N, 1] as the values they mean."""
    return label_column(labels, task)[0] if getattr(labels, "ndim", 1) == 2 else list(labels)


def _of_table(path: Path, columns: _Columns, form: TableOptions, group: str | int | None = None) -> _Raw:
    numbered = [isinstance(column, int) for column in (*columns.text, columns.label)]
    if any(numbered) and not all(numbered) and path.suffix.lower() in (".csv", ".tsv"):
        raise DataError(
            f"text={columns.text!r} and label={columns.label!r}: use names for a file with a header, numbers for one "
            "without."
        )
    return _raw(
        read_table(path, header=not any(numbered), encoding=form.encoding, delimiter=form.delimiter), columns, group
    )


def _raw(table: Table, columns: _Columns, group: str | int | None = None) -> _Raw:
    label = columns.label
    if label in columns.text:
        raise DataError(f"text and label must be different columns of {table.name}. Received: {label!r} for both.")
    problems, found = [], {}
    grouped = () if group is None else (("group", group),)
    for role, which in (*(("text", column) for column in columns.text), ("label", label), *grouped):
        try:
            found[which] = table.column(which, role)
        except DataError as error:
            problems.append(str(error))
    raise_problems(DataError, "The table cannot be used", problems)
    pairs = found[columns.text[1]] if len(columns.text) > 1 else None
    return _Raw(found[columns.text[0]], pairs, found[label], table.places, None if group is None else found[group])


def _folder(path: Path, columns: _Columns, form: TableOptions) -> tuple[list[_Raw], str]:
    inside = {entry.name.lower(): entry for entry in sorted(path.iterdir())}
    tables = {entry.stem.lower(): entry for entry in inside.values() if entry.suffix.lower() in SUFFIXES}
    held = next((name for name in _HELD if name in tables), None)
    if "train" in tables and held:
        files = [tables["train"], tables[held]]
        return [_of_table(f, columns, form) for f in files], " and ".join(f.name for f in files)
    folders = {name: entry for name, entry in inside.items() if entry.is_dir() and not name.startswith(".")}
    held = next((name for name in _HELD if name in folders), None)
    if "train" in folders and held:
        return [_of_folders(folders[name], form.encoding) for name in ("train", held)], f"train/ and {held}/"
    if folders:
        return [_of_folders(path, form.encoding)], ""
    fix = f" It has {join_names(tables)}: give one of them." if tables else ""
    raise DataError(
        f"{path} holds no texts. Expected train.csv and val.csv (or .tsv, .jsonl), or one folder of .txt files for "
        f"each class.{fix}"
    )


def _of_folders(root: Path, encoding: str | None) -> _Raw:
    texts, labels, places, problems = [], [], [], []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(folder.glob("*.txt"))
        if not files:
            problems.append(f"{folder} has no .txt file")
        for file in files:
            try:
                content = file.read_bytes()
                texts.append(decode_table(content, file, encoding)[0] if encoding else content.decode("utf-8-sig"))
            except (UnicodeDecodeError, DataError) as error:
                problems.append(
                    f"{error}" if encoding else f"{file} is not UTF-8: {error}. Pass its encoding: encoding="
                )
                continue
            labels.append(folder.name)
            places.append(str(file))
    raise_problems(DataError, f"The texts in {root} cannot be used", problems)
    return _Raw(texts, None, labels, tuple(places))


# --- values ------------------------------------------------------------------------------------------------------


def _cleaned(raw: _Raw, strict: bool, skipped: list[Skipped]) -> _Raw:
    """Skip rows without a text or a label."""
    keep, faults = [], []
    columns = [raw.texts] if raw.pairs is None else [raw.texts, raw.pairs]
    for i, (place, label) in enumerate(zip(raw.places, raw.labels, strict=True)):
        why = next((w for column in columns if (w := _no_text(column[i]))), "") or (
            "" if has_value(label) else "no label"
        )
        if why:
            faults.append(Skipped(place, f"has {why}"))
        else:
            keep.append(i)
    if faults and strict:
        raise_problems(DataError, "The texts cannot be used", list(map(str, faults)), limit=_SHOWN)
    if not keep:
        what = str(faults[0]) if faults else "the table is empty"
        raise DataError(f"No row has a text and a label: {what}.")
    skipped += faults
    pairs = None if raw.pairs is None else [raw.pairs[i] for i in keep]
    places = tuple(raw.places[i] for i in keep)
    groups = None if raw.groups is None else [str(raw.groups[i]) for i in keep]
    return _Raw([raw.texts[i] for i in keep], pairs, [raw.labels[i] for i in keep], places, groups)


def _no_text(value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"half a character (a lone surrogate) at position {error.start} of its text"
        return ""
    return "no text" if not has_value(value) else f"the {type(value).__name__} {value!r} instead of a text"


def _examples(raw: _Raw, labels: np.ndarray, names: tuple[str, ...]) -> TextExamples:
    pairs = None if raw.pairs is None else np.array(raw.pairs, object)
    return TextExamples(np.array(raw.texts, object), pairs, labels, names, raw.places)


def _held_out(
    examples: TextExamples, strata: np.ndarray | None, split: SplitOptions, groups: Sequence[str] | None = None
) -> np.ndarray:
    """Draw groups of equal texts from each class until the share is reached."""
    share, seed = split.share, split.seed
    rows = zip(*examples.columns.values(), strict=True)
    keys = ["\0".join(text.strip().casefold() for text in row) for row in rows]
    _, first, group, sizes = np.unique(
        np.array(keys, object), return_index=True, return_inverse=True, return_counts=True
    )
    if groups is not None:
        together = joined(groups, list(zip(first[group].tolist(), range(len(keys)), strict=True)), len(keys))
        return hold_out(examples.places, share, seed, labels=strata, groups=together)
    strata = np.zeros(len(first), np.int64) if strata is None else strata[first]
    random, held = np.random.default_rng(seed), np.zeros(len(first), bool)
    for stratum in np.unique(strata):
        members = random.permutation(np.flatnonzero(strata == stratum))
        wanted, taken = max(1, round(int(sizes[members].sum()) * share)), 0
        for member in members[:-1]:  # one group stays for training
            if taken >= wanted:
                break
            held[member] = True
            taken += int(sizes[member])
    if not held.any():
        raise DataError("Expected at least two different texts, to hold some out. Received: equal texts only.")
    return held[group]
