"""Tables of labelled examples, read from files and DataFrames: :func:`read_table`.

Hides quoting, encodings and the forms of a file; every value comes with the place it was found at, so that a fault can
be named by file and line.
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

from tfft.errors import DataError, did_you_mean, join_names, raise_problems

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
_SHOWN = 20  # faults of one file in a message
_GUESSES = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Rows with places.

    Attributes:
        columns: names, or None for a file that is read without a header.
        rows: values in the order of the columns; None where a row has none.
        places: ``file:line`` of each row.
        name: of the whole, for messages.
    """

    columns: tuple[str, ...] | None
    rows: tuple[Sequence[Any], ...]
    places: tuple[str, ...]
    name: str

    def column(self, which: str | int, role: str) -> list[Any]:
        """Returns the values of a column.

        Raises:
            DataError: when there is no such column, with the nearest name and all that there are.
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
            raise DataError(f"{self.name} has the columns 0 to {width - 1}, got {role}={which!r}.")
        if which not in self.columns:
            fix = f" To read a file without a header, give numbers: {role}=0." if isinstance(which, str) else ""
            raise DataError(
                f"{self.name} has no column {which!r} ({role}=).{did_you_mean(str(which), self.columns)} "
                f"It has: {join_names(map(repr, self.columns))}.{fix}"
            )
        at = self.columns.index(which)
        return [row[at] for row in self.rows]


def read_table(source: Any, *, header: bool = True, encoding: str = "utf-8") -> Table:
    """Reads a table.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        header: whether the first row of a ``.csv`` or ``.tsv`` file holds the names of the columns.
        encoding: of a file.

    Raises:
        DataError: when it cannot be read, with every line at fault.
    """
    if not isinstance(source, (str, os.PathLike)):
        names = tuple(str(name) for name in source.columns)
        rows = tuple(tuple(row) for row in source.itertuples(index=False, name=None))
        return Table(names, rows, tuple(f"row {i}" for i in range(len(rows))), "the DataFrame")
    path = Path(source).expanduser()
    text = _decoded(path, encoding)
    if not text.strip():
        raise DataError(f"{path} is empty, expected a table with texts and labels.")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _json_lines(path, text)
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is no table that is known, expected {join_names(SUFFIXES)}.")
    faults: list[str] = []
    read: list[Sequence[Any]] = []
    places: list[str] = []
    for line, row in (_tabbed if suffix == ".tsv" else _quoted)(text, path, faults):
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
            hint = " Is a comma or a quote in a text not quoted?" if suffix == ".csv" else ""
            faults.append(f"{place} has {len(fields)} fields, expected {width}.{hint}")
    _raise(path, faults)
    return Table(header_row, tuple(read), tuple(places), str(path))


def _decoded(path: Path, encoding: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        return data.decode("utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding)
    except LookupError as error:
        raise DataError(f"There is no encoding {encoding!r}.") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        at = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        guess = _GUESSES.get(data[:2], "latin-1")
        raise DataError(
            f"{path}:{line} is not {encoding}: byte {at} of the line is 0x{data[error.start]:02x}. "
            f"Save the file as UTF-8, or say what it is in: encoding={guess!r}, for example."
        ) from error


def _quoted(text: str, path: Path, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    limit = csv.field_size_limit(2**31 - 1)  # of the process; a long text is no fault
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        for row in reader:
            if row:
                yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        faults.append(
            f"{path}:{start} has a quote that is not closed, or closed too early ({error}): inside of a quoted text "
            'a quote is written twice, ""'
        )
    finally:
        csv.field_size_limit(limit)


def _tabbed(text: str, path: Path, faults: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Fields between tabs. Most such files know no quoting, so a quote is an ordinary character but around a field."""
    for line, content in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        if content:
            yield line, [_unquoted(field) for field in content.split("\t")]


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
            faults.append(f"{path}:{line} is no JSON: {error.msg} at character {error.pos}")
            continue
        if not isinstance(value, dict):
            faults.append(f"{path}:{line} holds a {type(value).__name__}, expected an object with one name per column")
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
    more = [f"{len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
    raise_problems(DataError, f"{path} cannot be read", [*faults[:_SHOWN], *more])
