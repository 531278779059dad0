"""Index of file statistics, stored between checks: :func:`indexed_facts`.

Implementation notes: the index is an SQLite database. A file with unchanged size and modification time is not read
again. If the database is missing or cannot be opened, all files are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tfft.io.processors import usable_cores

_AT_ONCE = 1024
_AHEAD = 256  # files to read ahead
_Facts = TypeVar("_Facts")

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class FileKind:
    """Reader for one type of file, and the conversion of its statistics to a database row.

    Attributes:
        decoder: Name and version of the decoder; another one may reject other files.
        examine: Function that reads files and calls back with (files done, files in total).
        from_row: Function from the path, values and stored bytes to the facts about a file.
        thumbnail: Function that returns the bytes to store with the values.
    """

    decoder: str
    examine: Callable[[Sequence[str], Progress | None], list[Any]]
    from_row: Callable[[str, dict[str, Any], bytes | None], Any]
    thumbnail: Callable[[Any], bytes | None] = lambda facts: None


def in_threads(
    examine: Callable[[str], _Facts], paths: Sequence[str], progress: Progress | None = None
) -> list[_Facts]:
    """Return the facts about files, which threads read at the same time.

    Args:
        examine: Function from a path to the facts.
        paths: Paths of the files.
        progress: Function called with (files done, files in total) after each file.
    """
    found: list[_Facts] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(paths), _AHEAD):
            for facts in pool.map(examine, paths[start : start + _AHEAD]):
                found.append(facts)
                if progress is not None:
                    progress(len(found), len(paths))
    return found


def indexed_facts(
    kind: FileKind,
    paths: Sequence[str],
    progress: Progress | None = None,
    store: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """Return the facts about files, reading those that are new or have changed.

    Args:
        kind: Type of the files.
        paths: Paths of the files.
        progress: Function called with (files done, files in total) while files are read.
        store: Path of the database; None reads every file.
    """
    if store is None:
        return kind.examine(paths, progress)
    marks = [_mark(path, kind) for path in paths]
    with contextlib.closing(_opened(Path(store).expanduser())) as base:
        known = _known(base, kind, paths, marks)
        new = [at for at in range(len(paths)) if at not in known]
        done = len(known)

        def report(before: int, count: int, _: int) -> None:
            if progress is not None:
                progress(before + count, len(paths))

        for start in range(0, len(new), _AT_ONCE):
            part = new[start : start + _AT_ONCE]
            fresh = kind.examine([paths[at] for at in part], functools.partial(report, done + start))
            known |= dict(zip(part, fresh, strict=True))
            _write(base, kind, [(marks[at], known[at]) for at in part])
    if progress is not None and not new and paths:
        progress(len(paths), len(paths))
    return [known[at] for at in range(len(paths))]


def _mark(path: str, kind: FileKind) -> str:
    """Return a mark that changes with the file: target of a link, size and times."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {kind.decoder}"


def _opened(place: Path) -> sqlite3.Connection:
    for target in (place, None):
        try:
            if target is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(":memory:" if target is None else target, timeout=30)
            base.execute("create table if not exists facts (path text primary key, mark text, facts text, thumb blob)")
            return base
        except (OSError, sqlite3.Error) as error:
            _log.warning("File statistics are not stored because %s cannot be used: %s.", place, error)
    raise AssertionError("an in-memory database can always be created")


def _known(base: sqlite3.Connection, kind: FileKind, paths: Sequence[str], marks: Sequence[str]) -> dict[int, Any]:
    found = {}
    for at, (path, mark) in enumerate(zip(paths, marks, strict=True)):
        with contextlib.suppress(sqlite3.Error, ValueError, TypeError, KeyError):
            row = base.execute("select mark, facts, thumb from facts where path = ?", [_name(path)]).fetchone()
            if mark and row and row[0] == mark:
                found[at] = kind.from_row(path, json.loads(row[1]), row[2])
    return found


def _write(base: sqlite3.Connection, kind: FileKind, rows: Sequence[tuple[str, Any]]) -> None:
    values = []
    for mark, facts in rows:
        plain = {k: v for k, v in vars(facts).items() if k not in ("path", "thumb")}
        values.append((_name(facts.path), mark, json.dumps(plain), kind.thumbnail(facts)))
    try:
        with base:
            base.executemany("insert or replace into facts values (?, ?, ?, ?)", values)
    except sqlite3.Error as error:  # a full disk, another process: the facts are known, but not stored
        _log.warning("The statistics of %d files are not stored: %s.", len(rows), error)


def _name(path: str) -> str:
    return os.fsencode(os.path.abspath(path)).decode("utf-8", "backslashreplace")
