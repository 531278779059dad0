"""Tables of labelled examples from files and DataFrames: :func:`read_table`.

Every value comes with its place, so that errors can name file and line.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfft.console.output import say
from tfft.data.dialect import DELIMITER_NAMES, decode_table, find_delimiter, looks_like_data
from tfft.errors import DataError, did_you_mean, join_names, quantity, raise_problems

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_SHOWN = 20  # faults of one file in a message


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows with their places.

    Attributes:
        columns: Column names, or None for a file without a header.
        rows: Values in the order of the columns; None for a missing one.
        places: ``file:line`` of each row.
        name: Name of the table, for messages.
    """

    columns: tuple[str, ...] | None
    rows: tuple[Sequence[Any], ...]
    places: tuple[str, ...]
    name: str

    def column(self, which: str | int, role: str) -> list[Any]:
        """Return the values of a column.

        Raises:
            DataError: If there is no such column; the message has the nearest name and all columns.
        """
        if isinstance(which, (list, tuple)):
            raise DataError(
                f"Expected one column for {role}=. Received: {list(which)}. Make one of them: of one-hot columns "
                f"table['label'] = table[{list(which)}].idxmax(axis=1); of several numbers or labels for each row a "
                f"column of lists, table['label'] = table[{list(which)}].values.tolist()."
            )
        if self.columns is None:
            width = max((len(row) for row in self.rows), default=0)
            if isinstance(which, int) and which < width:
                return [row[which] for row in self.rows]
            raise DataError(f"{self.name} has the columns 0 to {width - 1}. Received: {role}={which!r}.")
        if which not in self.columns:
            if looks_like_data(self.columns):
                raise DataError(
                    f"{self.name} seems to have no header: its first row is {join_names(map(repr, self.columns))}, and "
                    f"{role}={which!r} is not a number. Give numbers for all columns, counted from 0 "
                    f"({role}=0), or write the names of the columns into the first line."
                )
            raise DataError(
                f"{self.name} has no column {which!r} ({role}=).{did_you_mean(str(which), self.columns)} "
                f"It has: {join_names(map(repr, self.columns))}."
            )
        at = self.columns.index(which)
        return [row[at] for row in self.rows]


def read_table(source: Any, *, header: bool = True, encoding: str | None = None, delimiter: str | None = None) -> Table:
    """Read a table; guesses about its form are reported in one line on standard error.

    Args:
        source: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        header: Whether the first row of a ``.csv`` or ``.tsv`` file holds the names of the columns.
        encoding: Encoding of a file; None for that of its byte-order mark, UTF-8, or a guess.
        delimiter: Delimiter between the fields of a ``.csv`` or ``.tsv`` file; None looks at the rows.

    Raises:
        DataError: If it cannot be read; the message lists each line at fault.
    """
    if not isinstance(source, (str, os.PathLike)):
        names = tuple(str(name) for name in source.columns)
        rows = tuple(tuple(row) for row in source.itertuples(index=False, name=None))
        return Table(names, rows, tuple(f"row {i}" for i in range(len(rows))), "the DataFrame")
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    content = _content(path)
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is not a known table format. Expected {join_names(SUFFIXES)}.{archive_hint(path)}")
    text, guessed = decode_table(content, path, encoding)
    if not text.strip():
        raise DataError(f"{path} is empty. Expected a table with texts and labels.")
    if suffix in (".jsonl", ".ndjson"):
        _tell(path, guessed, None)
        return _json_lines(path, text)
    usual = "\t" if suffix == ".tsv" else ","
    found = (delimiter or find_delimiter(text, usual)).replace("\\t", "\t")
    if len(found) != 1 or found in '"\r\n':
        raise DataError(f"Expected one character between fields. Received: delimiter={delimiter!r}. Usual: , ; | \\t")
    _tell(path, guessed, found if delimiter is None and found != usual else None)
    return _separated(path, text, found, header)


def _separated(path: Path, text: str, delimiter: str, header: bool) -> Table:
    """Return the rows of a text with fields between delimiters."""
    faults: list[str] = []
    read: list[Sequence[Any]] = []
    places: list[str] = []
    for line, row in _tabbed(text) if delimiter == "\t" else _quoted(text, path, faults, delimiter):
        read.append(row)
        places.append(f"{path}:{line}")
    header_row: tuple[str, ...] | None = None
    if header and read:
        header_row = tuple(name.strip() for name in read.pop(0))
        places.pop(0)
        faults += _name_faults(header_row, path)
    width = len(header_row) if header_row else max((len(fields) for fields in read), default=0)
    for fields, place in zip(read, places, strict=True):
        if len(fields) != width:
            hint = f" Does a field contain an unquoted {delimiter!r} or quote?" if delimiter != "\t" else ""
            faults.append(f"{place} has {quantity(len(fields), 'field')}. Expected {width}.{hint}")
    _raise(path, faults)
    return Table(header_row, tuple(read), tuple(places), str(path))


def archive_hint(path: Path) -> str:
    """Return what to do with an archive or a workbook that is given as data; nothing for other files."""
    name = path.name.lower()
    if name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")):
        folder = path.with_name(name.partition(".")[0])
        return (
            f' It is an archive: unpack it and give the folder, for example with python -c "import shutil; '
            f"shutil.unpack_archive('{path}', '{folder}')\"."
        )
    if name.endswith((".xlsx", ".xls", ".ods", ".parquet")):
        return " Save it as .csv, or read it with pandas and give the DataFrame."
    return ""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error


def _tell(path: Path, encoding: str | None, delimiter: str | None) -> None:
    """Says on standard error what was guessed about a table."""
    taken = [] if encoding is None else [f"the encoding {encoding} (encoding= overrides it)"]
    if delimiter is not None:
        name = DELIMITER_NAMES.get(delimiter, repr(delimiter))
        taken.append(f"{name} between its fields (delimiter= overrides it)")
    if taken:
        say(f"tfft: {path} is read with {join_names(taken)}.")


def _quoted(text: str, path: Path, faults: list[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    limit = csv.field_size_limit(2**31 - 1)  # of the process; a long text is not a fault
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    start = 1
    try:
        for row in reader:
            if row and not (start == 1 and text[:4].lower() == "sep="):  # written by Excel for itself
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        faults.append(
            f"{path}:{start} has a quote that is not closed, or closed too early ({error}): inside a quoted text "
            'write each quote twice, ""'
        )
    finally:
        csv.field_size_limit(limit)


def _tabbed(text: str) -> Iterator[tuple[int, list[str]]]:
    """Fields between tabs. Most such files know no quoting, so a quote is an ordinary character but around a field."""
    width = 0
    for line, content in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if content and not (line == 1 and content.lower().startswith("sep=")):
            fields = content.split("\t")
            width = width or len(fields)
            yield line, [_unquoted(field) for field in (_with_tabs(fields) if len(fields) > width else fields)]


def _with_tabs(fields: list[str]) -> list[str]:
    """Join the parts of quoted fields that hold tabs; used for rows with too many fields only."""
    joined: list[str] = []
    for field in fields:
        if joined and joined[-1][:1] == '"' and joined[-1].count('"') % 2:
            joined[-1] += f"\t{field}"
        else:
            joined.append(field)
    return joined


def _unquoted(field: str) -> str:
    inner = field[1:-1]
    whole = len(field) > 1 and field[0] == field[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if whole else field


def _json_lines(path: Path, text: str) -> Table:
    found, places, faults = [], [], []
    names: dict[str, None] = {}
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            faults.append(f"{path}:{line} is not valid JSON: {error.msg} at character {error.pos}")
            continue
        if not isinstance(value, dict):
            faults.append(f"{path}:{line} holds a {type(value).__name__}. Expected an object with one name per column")
            continue
        names.update(dict.fromkeys(value))
        found.append(value)
        places.append(f"{path}:{line}")
    _raise(path, faults)
    return Table(tuple(names), tuple([v.get(name) for name in names] for v in found), tuple(places), str(path))


def _name_faults(names: Sequence[str], path: Path) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    return [f"{path}:1 names {join_names(map(repr, twice))} more than once"] if twice else []


def _raise(path: Path, faults: Sequence[str]) -> None:
    raise_problems(DataError, f"{path} cannot be read", faults, limit=_SHOWN)
