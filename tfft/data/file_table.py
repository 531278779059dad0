"""Tables that name files, whatever is in these: :func:`load_file_table`, :func:`read_file_table`.

Hides where the files are, which rows cannot be used, what their labels are, and how rows are split.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfft import registry
from tfft.console.output import say
from tfft.data.class_folders import Facts, FileType
from tfft.data.examples import Skipped, Splits, divide
from tfft.data.file_examples import FileExamples
from tfft.data.label_parsing import ParsedLabels, has_value, parse_labels
from tfft.data.options import ReadOptions, TableOptions
from tfft.data.path_lookup import PathLookup
from tfft.data.split import SplitOptions
from tfft.data.table import Table, read_table
from tfft.errors import DataError, raise_problems
from tfft.io.name_files import composed

F = TypeVar("F", bound=FileExamples)

_SHOWN = 20  # rows at fault in a message


@dataclasses.dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of a table that have a path and a label.

    Attributes:
        name: of the table, for messages.
        root: folder of relative paths.
        paths: of the files.
        labels: as they are written.
        groups: of the rows; None where they have none.
        places: ``file:line`` of each row.
        skipped: rows that cannot be used.
        lookup: that found the files.
    """

    name: str
    root: str
    paths: tuple[str, ...]
    labels: tuple[Any, ...]
    groups: tuple[str, ...] | None
    places: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    lookup: PathLookup

    def usable(self, facts: Sequence[Facts], strict: bool = False) -> FileRows:
        """Returns the rows whose files can be used.

        Args:
            facts: of the file of each row.
            strict: True makes a row that cannot be used an error.

        Raises:
            DataError: when no row is left, or ``strict`` and one is left out.
        """
        bad = [
            Skipped(place, f"names {fact.path}, which {self.lookup.why_not(fact.path) or fact.reason}")
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

    def parse_labels(self, table: TableOptions, class_names: Sequence[str] | None = None) -> ParsedLabels:
        """Returns the labels as a task learns from them; see :func:`tfft.data.label_parsing.parse_labels`.

        Raises:
            DataError: when they cannot be used.
        """
        return parse_labels(
            [self.labels],
            [self.places],
            task=table.task,
            separator=table.separator,
            decimal=table.decimal,
            class_names=class_names,
        )


def load_file_table(
    make: type[F],
    kind: FileType,
    source: Any,
    column: tuple[str, str | int],
    table: TableOptions,
    split: SplitOptions,
    reading: ReadOptions,
) -> Splits[F]:
    """Reads a table with a file and a label in each row, and splits it; duplicates and groups stay on one side.

    Args:
        make: class of the examples.
        kind: what the files are.
        source: as :func:`tfft.data.table.read_table` takes it.
        column: the paths: name of the setting that says which column it is, such as ``"image"``, and that column.
        table: the other columns.
        split: how rows are divided.
        reading: how files are read.

    Raises:
        DataError: listing everything that is wrong, with file and line.
    """
    rows = read_rows(source, column, table, kind, split.group)
    facts = kind.read_facts(rows.paths, reading.progress, reading.store)
    rows = rows.usable(facts, reading.strict)
    parsed = rows.parse_labels(table)
    known = tuple(one for one in facts if one.reason is None)
    root = _common(rows.paths, rows.root)
    names = _unique_names(rows.paths, root)
    examples = make(rows.paths, parsed.labels, parsed.class_names, rows.skipped, known, names)
    duplicates = kind.find_duplicates(known)
    held_out, words = split.hold_out(
        examples.names,
        rows.name,
        labels=registry.task(parsed.task).strata(parsed.labels),
        groups=rows.groups,
        pairs=duplicates.positions,
    )
    return divide(examples, held_out, words, groups=rows.groups, duplicates=duplicates, root=root, task=parsed.task)


def read_file_table(
    make: type[F],
    kind: FileType,
    source: Any,
    column: tuple[str, str | int],
    class_names: Sequence[str],
    table: TableOptions,
    reading: ReadOptions,
) -> F:
    """Reads a whole table for a model that knows its classes.

    Args:
        make: class of the examples.
        kind: what the files are.
        source: as in :func:`load_file_table`.
        column: as in :func:`load_file_table`.
        class_names: of the model; empty for numbers.
        table: the other columns, and the task of the model.
        reading: how files are read.

    Raises:
        DataError: as :func:`load_file_table`, and for labels that are not among the classes.
    """
    rows = read_rows(source, column, table, kind)
    facts = kind.read_facts(rows.paths, reading.progress, reading.store)
    rows = rows.usable(facts)
    labels = rows.parse_labels(table, class_names).labels
    known = tuple(one for one in facts if one.reason is None)
    return make(rows.paths, labels, tuple(class_names), rows.skipped, known)


def read_rows(
    source: Any, column: tuple[str, str | int], table: TableOptions, kind: FileType, group: str | int | None = None
) -> FileRows:
    """Reads a table with a file and a label in each row; no file is opened.

    A file that is written in another way, such as an id without extension or a path with ``\\``, is found where exactly
    one can be meant; one line on standard error tells of it.

    Args:
        source: as :func:`tfft.data.table.read_table` takes it.
        column: as in :func:`load_file_table`.
        table: the other columns.
        kind: what the files are.
        group: column of what must not be on both sides of a split, or None.

    Raises:
        DataError: when the table cannot be read, or lacks a column.
    """
    role, files = column
    is_file = isinstance(source, (str, os.PathLike))
    folder = Path(source).expanduser().parent if is_file else Path()
    place = folder if table.root is None else Path(table.root).expanduser()
    lookup = PathLookup(place, kind.suffixes)
    form = {"encoding": table.encoding, "delimiter": table.delimiter}
    rows = read_table(source, header=not isinstance(files, int), **form)
    if (places := _without_header(rows, lookup)) is not None and (files, table.label) == (role, "label"):
        rows = read_table(source, header=False, **form)
        files, table = places[0], dataclasses.replace(table, label=places[1])
        say(f"tfft: {rows.name} has no header: column {places[0]} is read as {role}= and {places[1]} as label=.")
    columns: dict[str, str | int] = {role: files, "label": table.label} | ({} if group is None else {"group": group})
    problems, values = [], {}
    for name, which in columns.items():
        try:
            values[name] = rows.column(which, name)
        except DataError as error:
            problems.append(str(error))
    raise_problems(DataError, "The table cannot be used", problems)
    skipped, used = [], []
    paths = [_path_text(value) for value in values[role]]
    for at, (path, label) in enumerate(zip(paths, values["label"], strict=True)):
        if not has_value(path) or not isinstance(path, str):
            skipped.append(Skipped(rows.places[at], f"has {'no path' if not has_value(path) else repr(path)}"))
        elif not has_value(label) and not (isinstance(label, (list, tuple)) and len(label)):
            skipped.append(Skipped(rows.places[at], "has no label"))
        else:
            used.append(at)
    found = tuple(lookup.find(paths[at].strip()) for at in used)
    if lookup.note:
        say(f"tfft: files of {rows.name} were found although it names them differently: {lookup.note}.")
    return FileRows(
        rows.name,
        str(place),
        found,
        tuple(values["label"][at] for at in used),
        None if group is None else tuple(str(values["group"][at]) for at in used),
        tuple(rows.places[at] for at in used),
        tuple(skipped),
        lookup,
    )


def _path_text(value: Any) -> Any:
    """A path, or an id that pandas has read as a number, as text."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and float(value).is_integer():
        return str(int(value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _without_header(rows: Table, lookup: PathLookup) -> tuple[int, int] | None:
    """The numbers of the columns of paths and labels of a table of two columns whose first row names a file."""
    first = rows.columns or ()
    named = [at for at, field in enumerate(first) if field and os.path.isfile(lookup.find(field))]
    lookup.changed.clear()
    return (named[0], 1 - named[0]) if len(first) == 2 and len(named) == 1 else None


def _unique_names(paths: Sequence[str], root: str) -> tuple[str, ...]:
    """Names below a root; a file may be in several rows, with several labels: its number keeps the names apart."""
    names, seen = [], dict[str, int]()
    for path in paths:
        name = composed(os.path.relpath(path, root).replace(os.sep, "/"))
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(names)


def _common(paths: Sequence[str], root: str) -> str:
    """The folder that the names of files are relative to: the root, or, for files elsewhere, what they share."""
    inside = all(Path(path).is_relative_to(root) for path in paths)
    return root if inside else os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
