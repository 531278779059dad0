"""Tables that name files: what tables of images and of recordings have in common, :func:`read_rows`.

Hides where the files are, which rows cannot be used, what their labels are, and how rows are split.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tfft import registry
from tfft.data.examples import Examples, Skipped, Splits, divided
from tfft.data.label_parsing import ParsedLabels, has_value, parse_labels
from tfft.data.split import hold_out, joined, read_split
from tfft.data.table import read_table
from tfft.errors import DataError, raise_problems
from tfft.modalities.image.duplicates import Copies

Task = str  # name of a task, or "auto"

_SHOWN = 20  # rows at fault in a message


class Known(Protocol):
    """What reading a file told, as far as tables ask for it."""

    path: str
    reason: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of a table that have a path and a label.

    Attributes:
        name: of the table, for messages.
        root: folder that relative paths are told from.
        paths: of the files.
        labels: as they are written.
        groups: of the rows; None where they have none.
        places: ``file:line`` of each row.
        skipped: rows that cannot be used.
    """

    name: str
    root: str
    paths: tuple[str, ...]
    labels: tuple[Any, ...]
    groups: tuple[str, ...] | None
    places: tuple[str, ...]
    skipped: tuple[Skipped, ...]

    def usable(self, facts: Sequence[Known], strict: bool = False) -> FileRows:
        """Returns the rows whose files can be used.

        Args:
            facts: of the file of each row.
            strict: True makes a row that cannot be used an error.

        Raises:
            DataError: when no row is left, or ``strict`` and one is left out.
        """
        bad = [
            Skipped(place, f"names {fact.path}, which {fact.reason}")
            for place, fact in zip(self.places, facts, strict=True)
            if fact.reason
        ]
        skipped = (*self.skipped, *bad)
        if strict:
            raise_problems(DataError, f"Rows of {self.name} that cannot be used", list(map(str, skipped[:_SHOWN])))
        good = [at for at, fact in enumerate(facts) if fact.reason is None]
        if not good:
            raise DataError(f"No row of {self.name} can be used: {skipped[0] if skipped else 'there is none'}.")
        paths, labels, places = (tuple(own[at] for at in good) for own in (self.paths, self.labels, self.places))
        groups = None if self.groups is None else tuple(self.groups[at] for at in good)
        return dataclasses.replace(
            self, paths=paths, labels=labels, places=places, groups=groups, skipped=tuple(skipped)
        )

    def parse_labels(self, task: str, separator: str | None, class_names: Sequence[str] | None = None) -> ParsedLabels:
        """Returns the labels as a task learns from them; see :func:`tfft.data.label_parsing.parse_labels`.

        Raises:
            DataError: when they cannot be used.
        """
        return parse_labels([self.labels], [self.places], task=task, separator=separator, class_names=class_names)


def read_rows(
    source: Any,
    role: str,
    files: str | int,
    label: str | int,
    *,
    group: str | int | None = None,
    root: str | os.PathLike[str] | None = None,
    encoding: str = "utf-8",
) -> FileRows:
    """Reads a table with a file and a label in each row; no file is opened.

    Args:
        source: as :func:`tfft.data.table.read_table` takes it.
        role: name of the setting that says which column the paths are in, such as ``"image"``.
        files: that column.
        label: column of the labels.
        group: column of what must not be on both sides of a split, or None.
        root: folder of the files; that of the table by default.
        encoding: of the table.

    Raises:
        DataError: when the table cannot be read, or lacks a column.
    """
    is_file = isinstance(source, (str, os.PathLike))
    place = Path(root).expanduser() if root is not None else Path(source).expanduser().parent if is_file else Path()
    table = read_table(source, header=not isinstance(files, int), encoding=encoding)
    columns = {role: files, "label": label} | ({} if group is None else {"group": group})
    problems, found = [], {}
    for name, which in columns.items():
        try:
            found[name] = table.column(which, name)
        except DataError as error:
            problems.append(str(error))
    raise_problems(DataError, "The table cannot be used", problems)
    skipped, used = [], []
    for at, (path, value) in enumerate(zip(found[role], found["label"], strict=True)):
        if not has_value(path) or not isinstance(path, str):
            skipped.append(Skipped(table.places[at], f"has {'no path' if not has_value(path) else repr(path)}"))
        elif not has_value(value) and not (isinstance(value, (list, tuple)) and len(value)):
            skipped.append(Skipped(table.places[at], "has no label"))
        else:
            used.append(at)
    return FileRows(
        table.name,
        str(place),
        tuple(str(place / found[role][at].strip()) for at in used),
        tuple(found["label"][at] for at in used),
        None if group is None else tuple(str(found["group"][at]) for at in used),
        tuple(table.places[at] for at in used),
        tuple(skipped),
    )


def split_rows(
    rows: FileRows,
    examples: Examples,
    task: str,
    copies: Copies,
    validation: float | str | os.PathLike[str],
    seed: int,
) -> tuple[Splits, np.ndarray]:
    """Divides the rows of a table: groups and copies stay on one side.

    Args:
        rows: that can be used.
        examples: the same rows with their labels as numbers.
        task: what the labels are.
        copies: among the examples.
        validation: share to hold out, or the file of an earlier split.
        seed: of the draw.

    Returns:
        The two parts, and the positions of the rows in the order of the parts, int [N].
    """
    root = _common(examples.paths, rows.root)
    # A file may be in several rows, with several labels; its number keeps the names apart.
    keys, seen = [], {}
    for path in examples.paths:
        key = os.path.relpath(path, root).replace(os.sep, "/")
        seen[key] = seen.get(key, 0) + 1
        keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    if isinstance(validation, (str, os.PathLike)):
        held, words = read_split(validation, keys), f"the split in {validation}"
    else:
        together = joined(rows.groups, copies.positions, len(keys))
        strata = registry.task(task).strata(examples.labels)
        held = hold_out(keys, validation, seed, labels=strata, groups=together)
        words = f"{validation * 100:g} % of {rows.name}, drawn with seed {seed}"
    parts = np.flatnonzero(~held), np.flatnonzero(held)
    names = tuple(tuple(keys[i] for i in part) for part in parts)
    splits = divided(examples, held, rows.groups, copies, words, root, names=names, task=task)
    return splits, np.concatenate(parts)


def _common(paths: Sequence[str], root: str) -> str:
    """The folder that the names of files are told from: the root, or, for files elsewhere, what they share."""
    inside = all(Path(path).is_relative_to(root) for path in paths)
    return root if inside else os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
