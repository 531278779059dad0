"""Tables of file paths and labels: :func:`load_file_table`, :func:`read_file_table`."""

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

_SHOWN = 20  # maximum rows listed in a message


@dataclasses.dataclass(frozen=True, eq=False)
class FileRows:
    """Rows of a table that have a path and a label.

    Attributes:
        name: Name of the table, for messages.
        root: Folder for relative paths.
        paths: Paths of the files.
        labels: Labels as written.
        groups: Groups of the rows; None without groups.
        places: ``file:line`` of each row.
        skipped: Rows that were skipped.
        lookup: Object that found the files.
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
        """Return the rows whose files can be used.

        Args:
            facts: Facts about the file of each row.
            strict: Whether an unusable row is an error.

        Raises:
            DataError: If no row is left, or if ``strict`` and a row is unusable.
        """
        bad = [
            Skipped(place, f"names {fact.path}, which {self.lookup.why_not(fact.path) or fact.reason}")
            for place, fact in zip(self.places, facts, strict=True)
            if fact.reason
        ]
        skipped = (*self.skipped, *bad)
        if strict:
            raise_problems(DataError, f"Unusable rows of {self.name}", list(map(str, skipped)), limit=_SHOWN)
        good = [at for at, fact in enumerate(facts) if fact.reason is None]
        if not good:
            raise DataError(f"No row of {self.name} can be used: {skipped[0] if skipped else 'it is empty'}.")
        paths, labels, places = (tuple(own[at] for at in good) for own in (self.paths, self.labels, self.places))
        groups = None if self.groups is None else tuple(self.groups[at] for at in good)
        return dataclasses.replace(
            self, paths=paths, labels=labels, places=places, groups=groups, skipped=tuple(skipped)
        )

    def parse_labels(self, table: TableOptions, class_names: Sequence[str] | None = None) -> ParsedLabels:
        """Return the labels in the form of the task; see :func:`tfft.data.label_parsing.parse_labels`.

        Raises:
            DataError: If they cannot be used.
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
    """Load a table with a file and a label per row, and split it; duplicates and groups stay on one side.

    Args:
        make: Class of the examples.
        kind: File type.
        source: Source for :func:`tfft.data.table.read_table`.
        column: Name of the setting for the path column, such as ``"image"``, and the column.
        table: Other columns.
        kind: File type.
        split: Options of the split.
        reading: Options for reading files.

    Raises:
        DataError: If rows cannot be used; the message lists all problems with file and line.
    """
    rows = read_rows(source, column, table, kind, split.group)
    facts = kind.read_facts(rows.paths, reading.progress, reading.store)
    rows = rows.usable(facts, reading.strict)
    parsed = rows.parse_labels(table)
    known = tuple(one for one in facts if one.reason is None)
    root = common_folder(rows.paths, rows.root)
    names = unique_names(rows.paths, root)
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
    """Read a complete table for a model with known classes.

    Args:
        make: Class of the examples.
        kind: File type.
        source: As in :func:`load_file_table`.
        column: As in :func:`load_file_table`.
        class_names: Class names of the model; empty for regression.
        table: Other columns, and the task of the model.
        reading: Options for reading files.

    Raises:
        DataError: As in :func:`load_file_table`, and for labels outside of the classes.
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
    """Read a table with a file and a label per row, without opening the files.

    A file that is written in another way, such as an id without extension or a path with ``\\``, is found where exactly
    one can be meant; one line on standard error reports it.

    Args:
        source: Source for :func:`tfft.data.table.read_table`.
        column: As in :func:`load_file_table`.
        table: Other columns.
        group: Column with the groups of the split, or None.

    Raises:
        DataError: If the table cannot be read, or lacks a column.
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
        say(f"tfft: files of {rows.name} were found under slightly different names: {lookup.note}.")
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


def unique_names(paths: Sequence[str], root: str) -> tuple[str, ...]:
    """Return names below a root; a number distinguishes rows that share a file."""
    names, seen = [], dict[str, int]()
    for path in paths:
        name = composed(os.path.relpath(path, root).replace(os.sep, "/"))
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return tuple(names)


def common_folder(paths: Sequence[str], root: str) -> str:
    """Return the folder that file names are relative to: the root, or the common parent of files elsewhere."""
    inside = all(Path(path).is_relative_to(root) for path in paths)
    return root if inside else os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
