"""Labelled texts, from a table, lists or folders to batches: :func:`load_texts`, :func:`from_texts`.

Hides the forms that labels come in, that equal texts stay on one side of a split, and that batches hold texts of
similar length, so that short ones do not pay for long ones.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.batches import assemble
from tfft.data.examples import Skipped
from tfft.data.label_parsing import has_value, parse_labels
from tfft.data.split import hold_out, joined
from tfft.data.table import SUFFIXES, Table, read_table
from tfft.errors import DataError, listed, raise_problems
from tfft.modalities.text.report import TextReport, report_on

Task = str  # name of a task, or "auto"

_HELD = ("val", "valid", "validation", "dev")
_SHOWN = 10


@dataclasses.dataclass(frozen=True, eq=False)
class TextExamples:
    """Texts with labels.

    Attributes:
        texts: str [N], an object array.
        pairs: the second text of each pair, or None.
        labels: int32 [N] for classes, float32 [N, C] of 0 and 1 for several labels, float32 [N] for numbers.
        class_names: in the order of the labels; empty for numbers.
        places: where each was found, such as ``reviews.csv:12``.
    """

    texts: np.ndarray
    pairs: np.ndarray | None
    labels: np.ndarray
    class_names: tuple[str, ...]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def inputs(self) -> Any:
        """What a model takes: the texts, or ``{"text": ..., "text_pair": ...}``."""
        return self.texts if self.pairs is None else {"text": self.texts, "text_pair": self.pairs}

    def take(self, positions: np.ndarray) -> TextExamples:
        """Returns the examples at some positions."""
        pairs = None if self.pairs is None else self.pairs[positions]
        places = tuple(self.places[i] for i in positions)
        return dataclasses.replace(
            self, texts=self.texts[positions], pairs=pairs, labels=self.labels[positions], places=places
        )

    def fingerprint(self) -> str:
        """Returns a hash of all texts and labels in their order."""
        found = hashlib.sha256(repr(self.class_names).encode())
        for column in (self.texts, self.pairs):
            for text in () if column is None else column:
                data = text.encode("utf-8", "surrogatepass")
                found.update(len(data).to_bytes(8, "little") + data)
        found.update(np.ascontiguousarray(self.labels).tobytes())
        return found.hexdigest()


@dataclasses.dataclass(frozen=True, eq=False)
class TextSplits:
    """Texts to learn from and texts to judge by.

    Attributes:
        train: to learn from.
        validation: held out; no text is in both, where they were split here.
        class_names: the same for both; empty for numbers.
        task: name of what the labels are, such as ``"multilabel"``.
        skipped: rows that are not used.
        split_from: in words, how the two came about.
        report: what is worth knowing of the texts; ``print`` it.
    """

    modality: ClassVar[str] = "text"

    train: TextExamples
    validation: TextExamples
    class_names: tuple[str, ...]
    task: str
    skipped: tuple[Skipped, ...]
    split_from: str
    report: TextReport


@dataclasses.dataclass(frozen=True, eq=False)
class _Raw:
    """Texts and labels as they were found."""

    texts: list[Any]
    pairs: list[Any] | None
    labels: list[Any]
    places: tuple[str, ...]
    groups: list[Any] | None = None


def load_texts(
    source: Any,
    *,
    text: str | int | Sequence[str | int] = "text",
    label: str | int = "label",
    task: Task = "auto",
    separator: str | None = None,
    group: str | int | None = None,
    validation: float = 0.2,
    seed: int = 0,
    strict: bool = False,
    encoding: str = "utf-8",
) -> TextSplits:
    """Reads labelled texts and splits them.

    Use it for everything that is not images. Equal texts (but for case and blanks at the ends) are never on both sides
    of a split that is made here.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file; a pandas DataFrame; ``(texts, labels)``; a pair of
            files ``(train, validation)``; a folder with ``train`` and ``val`` (or ``dev``, ``valid``, ``validation``)
            tables; or a folder with one folder of ``.txt`` files per class, also within ``train/`` and ``val/``.
        text: column of the texts, by name; by number for a file without a header; two of them for pairs.
        label: column of the labels.
        task: what the labels are: one class, ``"multilabel"`` (several, in a list or with a ``separator``) or
            ``"regression"`` (numbers); ``"auto"`` looks at them.
        separator: between the labels of one text.
        group: column of a table with what must not be on both sides, such as the author; shares are then met roughly.
        validation: share to hold out of each class, over 0 and below 1.
        seed: of the split.
        strict: True makes a row without a text or a label an error; else it is skipped and listed.
        encoding: of files.

    Returns:
        Both parts, the names of the classes and a report.

    Raises:
        DataError: listing everything that is wrong, with file and line.

    Example:
        >>> splits = load_texts("reviews.csv", text="review", label="stars")
        >>> print(splits.report)
        >>> model.fit(from_texts(splits.train, shuffle=True), validation_data=from_texts(splits.validation))
    """
    columns = (text,) if isinstance(text, (str, int)) else tuple(text)
    parts, origin = _parts(source, columns, label, encoding, group)
    if group is not None and (len(parts) > 1 or parts[0].groups is None):
        raise DataError(f"group={group!r} is a column of one table that is split here; this data has none.")
    skipped: list[Skipped] = []
    cleaned = [_cleaned(part, strict, skipped) for part in parts]
    columns, places = ([getattr(part, name) for part in cleaned] for name in ("labels", "places"))
    parsed = parse_labels(columns, places, task=task, separator=separator)
    names = parsed.class_names
    examples = [_examples(part, own, names) for part, own in zip(cleaned, parsed.parts, strict=True)]
    report = report_on([(e.texts, e.labels, e.places) for e in examples], names)
    if len(examples) == 1:
        strata = registry.task(parsed.task).strata(examples[0].labels)
        held = _held_out(examples[0], strata, validation, seed, cleaned[0].groups)
        examples = [examples[0].take(np.flatnonzero(~held)), examples[0].take(np.flatnonzero(held))]
        origin = f"{validation * 100:g} % {'' if strata is None else 'of each class, '}drawn with seed {seed}"
    return TextSplits(examples[0], examples[1], names, parsed.task, tuple(skipped), origin, report)


def read_texts(
    source: Any,
    class_names: Sequence[str],
    *,
    text: str | int | Sequence[str | int] = "text",
    label: str | int = "label",
    task: Task = "classification",
    separator: str | None = None,
    encoding: str = "utf-8",
) -> TextExamples:
    """Reads labelled texts without splitting them, for a model that knows its classes.

    Args:
        source: as :func:`load_texts` takes it, in one part.
        class_names: of the model; empty for numbers.
        text: as in :func:`load_texts`, like all that follows.
        label: column of the labels.
        task: what the labels are.
        separator: between the labels of one text.
        encoding: of files.

    Raises:
        DataError: as :func:`load_texts`, and for labels that are not among the classes.
    """
    columns = (text,) if isinstance(text, (str, int)) else tuple(text)
    parts, _ = _parts(source, columns, label, encoding)
    if len(parts) > 1:
        raise DataError("Expected texts in one part, got two. Give the file or folder that is meant.")
    raw = _cleaned(parts[0], False, [])
    parsed = parse_labels([raw.labels], [raw.places], task=task, separator=separator, class_names=class_names)
    return _examples(raw, parsed.labels, parsed.class_names)


def from_texts(
    examples: TextExamples,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    epoch: tf.Variable | None = None,
    sampling: str | None = None,
) -> tf.data.Dataset:
    """Makes batches of texts of similar length.

    Args:
        examples: from :func:`load_texts`.
        batch_size: texts per batch.
        shuffle: True gives other batches in each pass, a pure function of seed and epoch. Without it a pass goes from
            the shortest to the longest text.
        seed: picks another series of orders.
        epoch: as in :func:`tfft.data.to_dataset`.
        sampling: as in :func:`tfft.data.to_dataset`.

    Returns:
        Dataset of (strings [B], labels), or of a dict of two for pairs; its length is known.

    Example:
        >>> model.fit(from_texts(splits.train, shuffle=True), epochs=3)
    """
    with tf.device("CPU:0"):
        columns = {name: tf.constant(values) for name, values in _columns(examples).items()}

    def fetch(rows: tf.Tensor) -> Any:
        found = {name: tf.gather(values, rows) for name, values in columns.items()}
        return found if len(found) > 1 else found["text"]

    return assemble(
        fetch, examples.labels, batch_size, shuffle, seed, epoch, sampling=sampling, lengths=text_lengths(examples)
    )


def text_lengths(examples: TextExamples) -> np.ndarray:
    """Returns the length of each text (of both, for pairs) in bytes: what batches are made by, int64 [N]."""
    columns = _columns(examples).values()
    return np.sum([[len(t.encode("utf-8", "replace")) for t in column] for column in columns], axis=0, dtype=np.int64)


def _columns(examples: TextExamples) -> dict[str, np.ndarray]:
    return {"text": examples.texts} if examples.pairs is None else examples.inputs


# --- sources -----------------------------------------------------------------------------------------------------


def _parts(
    source: Any, columns: tuple[str | int, ...], label: str | int, encoding: str, group: str | int | None = None
) -> tuple[list[_Raw], str]:
    """Returns one part that is to be split, or two, and how they came about."""
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if not path.exists():
            raise DataError(f"{path} does not exist. Expected a table ({listed(SUFFIXES)}) or a folder of texts.")
        if path.is_dir():
            return _folder(path, columns, label, encoding)
        return [_of_table(path, columns, label, encoding, group)], ""
    if hasattr(source, "columns") and hasattr(source, "iloc"):
        return [_raw(read_table(source), columns, label, group)], ""
    if isinstance(source, (tuple, list)) and len(source) == 2:
        if all(isinstance(part, (str, os.PathLike)) for part in source):
            return [_of_table(Path(p).expanduser(), columns, label, encoding) for p in source], "the two files given"
        texts, labels = (list(part) for part in source)
        if len(texts) != len(labels):
            raise DataError(f"Expected one label for each text, got {len(texts)} texts and {len(labels)} labels.")
        return [_Raw(texts, None, labels, tuple(f"example {i}" for i in range(len(texts))))], ""
    raise DataError(
        f"Expected a table ({listed(SUFFIXES)}), a DataFrame, (texts, labels), two files or a folder of texts; got "
        f"{type(source).__name__}."
    )


def _of_table(
    path: Path, columns: tuple[str | int, ...], label: str | int, encoding: str, group: str | int | None = None
) -> _Raw:
    numbered = [isinstance(column, int) for column in (*columns, label)]
    if any(numbered) and not all(numbered) and path.suffix.lower() in (".csv", ".tsv"):
        raise DataError(
            f"text={columns!r} and label={label!r}: give names for a file with a header, numbers for one without."
        )
    return _raw(read_table(path, header=not any(numbered), encoding=encoding), columns, label, group)


def _raw(table: Table, columns: tuple[str | int, ...], label: str | int, group: str | int | None = None) -> _Raw:
    if label in columns:
        raise DataError(f"text and label must be different columns of {table.name}, got {label!r} for both.")
    problems, found = [], {}
    grouped = () if group is None else (("group", group),)
    for role, which in (*(("text", column) for column in columns), ("label", label), *grouped):
        try:
            found[which] = table.column(which, role)
        except DataError as error:
            problems.append(str(error))
    raise_problems(DataError, "The table cannot be used", problems)
    pairs = found[columns[1]] if len(columns) > 1 else None
    return _Raw(found[columns[0]], pairs, found[label], table.places, None if group is None else found[group])


def _folder(path: Path, columns: tuple[str | int, ...], label: str | int, encoding: str) -> tuple[list[_Raw], str]:
    inside = {entry.name.lower(): entry for entry in sorted(path.iterdir())}
    tables = {entry.stem.lower(): entry for entry in inside.values() if entry.suffix.lower() in SUFFIXES}
    held = next((name for name in _HELD if name in tables), None)
    if "train" in tables and held:
        files = [tables["train"], tables[held]]
        return [_of_table(f, columns, label, encoding) for f in files], " and ".join(f.name for f in files)
    folders = {name: entry for name, entry in inside.items() if entry.is_dir() and not name.startswith(".")}
    held = next((name for name in _HELD if name in folders), None)
    if "train" in folders and held:
        return [_of_folders(folders[name], encoding) for name in ("train", held)], f"train/ and {held}/"
    if folders:
        return [_of_folders(path, encoding)], ""
    fix = f" It has {listed(tables)}: give one of them." if tables else ""
    raise DataError(
        f"{path} holds no texts: expected train.csv and val.csv (or .tsv, .jsonl), or one folder of .txt files for "
        f"each class.{fix}"
    )


def _of_folders(root: Path, encoding: str) -> _Raw:
    texts, labels, places, problems = [], [], [], []
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(folder.glob("*.txt"))
        if not files:
            problems.append(f"{folder} has no .txt file")
        for file in files:
            try:
                texts.append(file.read_bytes().decode("utf-8-sig" if encoding == "utf-8" else encoding))
            except UnicodeDecodeError as error:
                problems.append(f"{file} is not {encoding}: byte {error.start} is 0x{error.object[error.start]:02x}")
                continue
            labels.append(folder.name)
            places.append(str(file))
    raise_problems(DataError, f"The texts in {root} cannot be used", problems)
    return _Raw(texts, None, labels, tuple(places))


# --- values ------------------------------------------------------------------------------------------------------


def _cleaned(raw: _Raw, strict: bool, skipped: list[Skipped]) -> _Raw:
    """Leaves out rows that have no text or no label."""
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
        more = [f"{len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise_problems(DataError, "The texts cannot be used", [*map(str, faults[:_SHOWN]), *more])
    if not keep:
        what = str(faults[0]) if faults else "there is no row"
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
    return "no text" if not has_value(value) else f"the {type(value).__name__} {value!r} in place of a text"


def _examples(raw: _Raw, labels: np.ndarray, names: tuple[str, ...]) -> TextExamples:
    texts, pairs = (None if column is None else np.array(column, object) for column in (raw.texts, raw.pairs))
    return TextExamples(texts, pairs, labels, names, raw.places)


def _held_out(
    examples: TextExamples, strata: np.ndarray | None, share: float, seed: int, groups: Sequence[str] | None = None
) -> np.ndarray:
    """Draws groups of equal texts, from each class alike, until the share is reached."""
    columns = [examples.texts] if examples.pairs is None else [examples.texts, examples.pairs]
    keys = ["\0".join(t.strip().casefold() for t in row) for row in zip(*columns, strict=True)]
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
        for member in members[:-1]:  # one group stays to learn from
            if taken >= wanted:
                break
            held[member] = True
            taken += int(sizes[member])
    if not held.any():
        raise DataError("All texts are equal, so none can be held out.")
    return held[group]
