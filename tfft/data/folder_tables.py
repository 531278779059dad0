"""Folders that hold a table of their files instead of class folders: :func:`check_no_table`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tfft import registry
from tfft.data.table import SUFFIXES, Table, read_table
from tfft.errors import DataError

_LOOKED_AT = 5  # rows of a table
_PARTS = ("train", "training", "val", "valid", "validation", "dev", "test")


def check_no_table(source: Any) -> None:
    """Raise an error for a folder whose files are listed in a table in it, with the call that reads the table.

    A folder with several class folders is read by them, whatever table is beside these.

    Raises:
        DataError: Naming the table, its column of files and the likeliest column of labels.
    """
    if not isinstance(source, (str, os.PathLike)) or not (folder := Path(source).expanduser()).is_dir():
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    tables = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.stem.lower() not in _PARTS]
    folders = [entry for entry in entries if entry.is_dir() and entry.name.lower() not in _PARTS]
    if len(folders) > 1:
        return
    for path in tables:
        try:
            table = read_table(path)
        except DataError:  # whatever it is, it is not what was asked for
            continue
        if (found := _column_of_files(table, folder)) is None:
            continue
        setting, column = found
        label = next((name for name in reversed(table.columns or ()) if name != column), "LABEL")
        raise DataError(
            f"Expected a folder with one folder per class. Received: {folder}, which holds the table {path.name}: its "
            f"column {column!r} names files. Pass the table with its columns, such as: tfft train {path} "
            f"--{setting} {column} --label {label}. In Python: tfft.finetune(backbone, {str(path)!r}, "
            f"{setting}={column!r}, label={label!r})."
        )


def _column_of_files(table: Table, folder: Path) -> tuple[str, str] | None:
    """Return the setting for the files of a modality and the column that names such files, all of which exist."""
    suffixes = {
        suffix: kind.columns[0]
        for kind in map(registry.modality, registry.modality_names())
        for suffix in (kind.file_suffixes() if kind.numeric else ())
    }
    places = [folder, *(entry for entry in folder.iterdir() if entry.is_dir())]
    for at, column in enumerate(table.columns or ()):
        values = [str(row[at]) for row in table.rows[:_LOOKED_AT]]
        settings = {suffixes.get(Path(value).suffix.lower()) for value in values}
        if len(settings) == 1 and None not in settings:
            if all(any((place / value).is_file() for place in places) for value in values):
                return str(settings.pop()), column
    return None
