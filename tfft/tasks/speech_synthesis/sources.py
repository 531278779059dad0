"""Rows of a voice from LJSpeech folders and tables: :func:`read_rows`.

Nothing is decoded here; :mod:`tfft.tasks.speech_synthesis.data` reads the clips.
"""

from __future__ import annotations

import dataclasses
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfft.data.path_lookup import PathLookup
from tfft.data.table import SUFFIXES as TABLES
from tfft.data.table import read_table
from tfft.errors import DataError, did_you_mean, join_names
from tfft.modalities.audio.decode import SUFFIXES

METADATA, CLIPS, DURATIONS_SUFFIX = "metadata.csv", "wavs", ".dur"
_AUDIO = ("audio", "file", "path", "wav", "clip", "filename")
_TEXT = ("normalized", "normalised", "text", "sentence", "transcript")
_PHONEMES, _DURATIONS, _SPEAKER = "phonemes", "durations", ("speaker", "speaker_id", "client_id")


@dataclasses.dataclass(frozen=True)
class Row:
    """A clip and its text.

    Attributes:
        audio: Path of the clip.
        text: Symbols: a text, or phonemes separated by spaces.
        place: ``file:line``.
        durations: Seconds of each symbol; None if they are not given.
        speaker: Name of the speaker; None if not given.
    """

    audio: str
    text: str
    place: str
    durations: tuple[float, ...] | None = None
    speaker: str | None = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of a source.

    Attributes:
        rows: The rows.
        root: Folder of the clips.
        name: Name of the source, for messages.
        separator: ``" "`` for phonemes, ``""`` for characters.
        notes: Remarks, one sentence each.
    """

    rows: tuple[Row, ...]
    root: str
    name: str
    separator: str
    notes: tuple[str, ...] = ()


def read_rows(source: Any, columns: Mapping[str, Any], problems: list[str]) -> Rows:
    """Read the rows of a folder or a table.

    Args:
        source: A folder with ``metadata.csv`` (``id|text`` or ``id|text|normalized``, no header) and ``wavs/``; or a
            table with a header and columns of clips and texts, or a DataFrame.
        columns: ``audio``, ``text``, ``root``, ``encoding`` and ``delimiter``, if given.
        problems: List to which a sentence is added for each row that cannot be used.

    Raises:
        DataError: If the source is of another form.
    """
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        if path.is_dir():
            return _folder(path, columns, problems)
        if path.suffix.lower() not in TABLES:
            hint = "" if path.exists() else " It does not exist."
            raise DataError(
                f"Expected a folder with {METADATA} and {CLIPS}/, or a table ({join_names(TABLES)}). Received: {path}."
                f"{hint}"
            )
        if path.name == METADATA and (path.parent / CLIPS).is_dir() and not columns.get("audio"):
            return _folder(path.parent, columns, problems)
    return _table(source, columns, problems)


def _folder(folder: Path, columns: Mapping[str, Any], problems: list[str]) -> Rows:
    """Read a folder in the form of LJSpeech (Ito and Johnson, 2017)."""
    table, clips = folder / METADATA, folder / CLIPS
    missing = [name for name, there in ((METADATA, table.is_file()), (f"{CLIPS}/", clips.is_dir())) if not there]
    if missing:
        inside = sorted(entry.name for entry in folder.iterdir())[:10]
        hint = did_you_mean(missing[0].rstrip("/"), inside)
        raise DataError(
            f"Expected {METADATA} (id|text|normalized) and a folder {CLIPS} in {folder}. Missing: "
            f"{join_names(missing)}.{hint} Received: {join_names(inside) or 'an empty folder'}. For a table elsewhere, "
            "give its path."
        )
    for name in ("audio", "text"):
        if columns.get(name) is not None:
            raise DataError(
                f"{table} has no header, so {name}={columns[name]!r} names no column: leave it out, or give a table "
                "with a header."
            )
    lookup, rows, seen = PathLookup(clips, SUFFIXES), [], dict[str, int]()
    for number, line in enumerate(_lines(table, columns.get("encoding")), 1):
        place, fields = f"{table}:{number}", [field.strip() for field in line.split("|")]
        if not line.strip():
            continue
        if len(fields) not in (2, 3):
            problems.append(f"{place}: expected id|text or id|text|normalized. Received: {len(fields)} fields")
            continue
        if fields[0] in seen:
            problems.append(f"{place}: the id {fields[0]!r} is that of line {seen[fields[0]]} too: remove one of them")
            continue
        seen[fields[0]] = number
        name = fields[0] if fields[0].lower().endswith(SUFFIXES) else f"{fields[0]}.wav"
        audio = lookup.find(name)
        rows.append(Row(audio, _text(fields[-1] or fields[1]), place, _beside(audio, problems)))
    names = {Path(row.audio).stem for row in rows}
    left = sorted(one.name for one in clips.iterdir() if one.suffix.lower() in SUFFIXES and one.stem not in names)
    notes = (
        [f"{len(left)} clips in {clips} have no text in {METADATA}, such as {left[0]}; they are left out"]
        if left
        else []
    )
    return Rows(tuple(rows), str(clips), str(folder), "", tuple(notes))


def _lines(path: Path, encoding: str | None) -> list[str]:
    try:
        return path.read_bytes().decode(encoding or "utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}:{line}: the byte 0x{error.object[error.start]:02x} is not {encoding or 'UTF-8'}. Save the file as "
            "UTF-8, or name its encoding: encoding='cp1252'."
        ) from error
    except LookupError as error:
        raise DataError(f"Unknown encoding {encoding!r}. Usual: 'utf-8', 'cp1252'.") from error


def _table(source: Any, columns: Mapping[str, Any], problems: list[str]) -> Rows:
    table = read_table(source, encoding=columns.get("encoding"), delimiter=columns.get("delimiter"))
    names = table.columns or ()
    audio = _column(names, columns.get("audio"), _AUDIO, "audio", table.name)
    wanted = (_PHONEMES, *_TEXT) if _PHONEMES in names else _TEXT
    text = _column(names, columns.get("text"), wanted, "text", table.name)
    speaker = next((name for name in _SPEAKER if name in names), None)
    root = Path(columns["root"]) if columns.get("root") else Path(table.name).parent
    values = [table.column(audio, "audio"), table.column(text, "text")]
    values += [
        table.column(name, name) if name in names else [None] * len(table.rows) for name in (_DURATIONS, speaker)
    ]
    lookup, rows = PathLookup(root, SUFFIXES), []
    for place, clip, words, seconds, who in zip(table.places, *values, strict=True):
        if not isinstance(clip, str) or not clip.strip():
            problems.append(f"{place}: the column {audio!r} is empty: write the path of a clip, or remove the row")
            continue
        path = lookup.find(clip.strip())
        given = _beside(path, problems) if seconds in (None, "") else _numbers(seconds, place, problems)
        said = " ".join(map(str, words)) if isinstance(words, (list, tuple)) else str(words or "")
        rows.append(Row(path, _text(said), place, given, None if who is None else str(who)))
    swapped = rows and not any(os.path.exists(row.audio) for row in rows)
    if swapped and all(os.path.exists(lookup.find(row.text)) for row in rows[:20] if row.text):
        raise DataError(
            f"The columns seem to be swapped: {text!r} of {table.name} holds the paths of clips. Give audio={text!r} "
            f"and text={audio!r}."
        )
    return Rows(tuple(rows), str(root), table.name, " " if text == _PHONEMES else "")


def _column(names: Sequence[str], given: Any, usual: Sequence[str], role: str, table: str) -> str:
    if isinstance(given, (list, tuple)) and len(given) == 1:  # as the command line gives it
        [given] = given
    if given is not None:
        if given in names:
            return str(given)
        raise DataError(
            f"{table} has no column {given!r} ({role}=).{did_you_mean(str(given), names)} It has: "
            f"{join_names(map(repr, names))}."
        )
    found = next((name for name in usual if name in names), None)
    if found is None:
        raise DataError(
            f"{table} has no column {join_names(map(repr, usual))} for {role}. It has: {join_names(map(repr, names))}. "
            f"Name it: {role}=..."
        )
    return found


def _beside(audio: str, problems: list[str]) -> tuple[float, ...] | None:
    """Return the seconds in the ``.dur`` file beside a clip; the last word of a line is a number."""
    path = Path(audio).with_suffix(DURATIONS_SUFFIX)
    if not path.is_file():
        return None
    words = [line.split()[-1] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return _numbers(" ".join(words), str(path), problems)


def _numbers(value: Any, place: str, problems: list[str]) -> tuple[float, ...] | None:
    words = value if isinstance(value, (list, tuple)) else str(value).split()
    try:
        found = tuple(float(word) for word in words)
    except (TypeError, ValueError):
        found = (-1.0,)
    if any(not 0 <= seconds < 3600 for seconds in found):
        problems.append(
            f"{place}: expected durations in seconds, one number for each symbol. Received: {str(value)[:60]!r}"
        )
        return None
    return found


def _text(value: str) -> str:
    return " ".join(unicodedata.normalize("NFC", value).split())
