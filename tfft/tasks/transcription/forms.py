"""Forms of data with recordings and transcripts: :func:`read_source` makes one table of each."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfft.data.dialect import decode_table
from tfft.data.examples import Skipped
from tfft.data.split import groups_by
from tfft.data.table import SUFFIXES as TABLES
from tfft.data.table import Table, read_table
from tfft.errors import DataError, join_names, raise_problems
from tfft.modalities.audio.decode import SUFFIXES

AUDIO_COLUMNS = ("audio", "path", "file", "filename", "file_name", "audio_filepath", "wav", "recording", "clip")
TEXT_COLUMNS = ("text", "sentence", "transcript", "transcription", "normalized_text", "words")

_TRANSCRIPTS = ".trans.txt"
_BESIDE = ("wavs", "clips", "wav", "audio")  # folders of recordings beside a table
_SHOWN = 20
_EXPECTED = (
    "Expected one of: a table (.csv, .tsv, .jsonl, DataFrame) with a column of recordings and one of transcripts, "
    "audio= and text= name them; metadata.csv of LJSpeech (id|text|normalized text) with wavs/ beside it; a folder "
    "like LibriSpeech's with *.trans.txt; a folder with a .txt file beside each recording; a NeMo manifest (.json)."
)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Recordings and transcripts as they are written.

    Attributes:
        name: Name of the source, for messages.
        root: Folder of relative paths.
        paths: Recordings as written.
        texts: Transcripts as written; None where there is none.
        groups: Group of each, such as the speaker; None without groups.
        places: ``file:line`` of each.
        skipped: Files without a counterpart.
        listed: Whether a table lists the recordings, so that further ones may lie beside it.
    """

    name: str
    root: Path
    paths: tuple[Any, ...]
    texts: tuple[Any, ...]
    groups: tuple[str, ...] | None
    places: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    listed: bool = True


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns and form of a table, as the user names them.

    Attributes:
        audio: Column of the recordings; None takes the usual name that is there.
        text: Column of the transcripts; None takes the usual name that is there.
        group: Column of the groups; None for none.
        root: Folder of relative paths; None for that of the table.
        encoding: Encoding of tables and text files.
        delimiter: Delimiter of a table.
    """

    audio: str | int | None = None
    text: str | int | None = None
    group: str | int | None = None
    root: str | os.PathLike[str] | None = None
    encoding: str | None = None
    delimiter: str | None = None


def read_source(source: Any, columns: Columns) -> Rows:
    """Read recordings and transcripts in any of the known forms, without opening the recordings.

    Args:
        source: A path, or a DataFrame.
        columns: Columns of a table; those of other forms are known.

    Raises:
        DataError: If the form is unknown, or the files cannot be read; the message lists all faults.
    """
    if not isinstance(source, (str, os.PathLike)):
        if not hasattr(source, "itertuples"):
            raise DataError(f"{_EXPECTED} Received: {type(source).__name__}.")
        return _from_table(read_table(source), Path(), columns)
    path = Path(source).expanduser()
    if not path.exists():
        raise DataError(f"{path} does not exist. {_EXPECTED}")
    if path.is_dir():
        return _from_folder(path, columns)
    if path.suffix == ".csv" and columns.audio is None and _is_ljspeech(path):
        return _ljspeech(path, columns)
    if path.suffix == ".json":
        return _from_table(_manifest(path, columns.encoding), path.parent, columns)
    header = not isinstance(columns.audio, int)
    form = {"encoding": columns.encoding, "delimiter": columns.delimiter}
    if path.suffix.lower() not in TABLES:
        raise DataError(f"{_EXPECTED} Received: {path}.")
    return _from_table(read_table(path, header=header, **form), path.parent, columns)


def _from_folder(folder: Path, columns: Columns) -> Rows:
    metadata = folder / "metadata.csv"
    if metadata.is_file() and _is_ljspeech(metadata):
        return _ljspeech(metadata, columns)
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES)
    if any(folder.rglob(f"*{_TRANSCRIPTS}")):
        return _librispeech(folder, columns)
    texts = [path for path in sorted(folder.rglob("*.txt")) if not path.name.startswith(".")]
    sounds = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    if {path.with_suffix("") for path in texts} & {path.with_suffix("") for path in sounds}:
        return _beside(folder, texts, sounds, columns)
    if tables:
        raise DataError(f"{folder} is a folder with tables: give one of them, {join_names(tables, limit=5)}.")
    raise DataError(
        f"{_EXPECTED} Received: the folder {folder} with {len(sounds)} recordings and {len(texts)} .txt files, of "
        "which none has the name of a recording."
    )


def _from_table(table: Table, folder: Path, columns: Columns) -> Rows:
    """Return the rows of a table, whose columns are named or have usual names."""
    problems: list[str] = []
    audio = _column(table, columns.audio, "audio", AUDIO_COLUMNS, problems)
    texts = _column(table, columns.text, "text", TEXT_COLUMNS, problems)
    groups = None if columns.group is None else _column(table, columns.group, "group", (), problems)
    raise_problems(DataError, "The table cannot be used", problems)
    _check_swapped(table, audio, texts)
    root = folder if columns.root is None else Path(columns.root).expanduser()
    if columns.root is None:
        root = _folder_of(root, audio)
    return Rows(
        table.name, root, tuple(audio), tuple(texts), None if groups is None else tuple(map(str, groups)), table.places
    )


def _column(table: Table, which: str | int | None, role: str, usual: Sequence[str], problems: list[str]) -> list[Any]:
    if which is None:
        which = next((name for name in usual if name in (table.columns or ())), None)
    if which is None:
        has = join_names(map(repr, table.columns or ()))
        problems.append(f"{table.name} has no column with a usual name for {role}=. Name it. It has: {has}")
        return []
    try:
        return table.column(which, role)
    except DataError as error:
        problems.append(str(error))
        return []


def _check_swapped(table: Table, audio: Sequence[Any], texts: Sequence[Any]) -> None:
    """Raise DataError if the transcripts are file names, and the recordings are not."""
    names, words = (sum(str(one).lower().endswith(SUFFIXES) for one in values) for values in (texts, audio))
    if names > len(texts) / 2 and words < len(audio) / 2:
        raise DataError(
            f"The columns of {table.name} seem to be swapped: {names} of {len(texts)} transcripts are names of "
            f"recordings, such as {str(texts[0])!r} ({table.places[0]}), and audio= holds texts, such as "
            f"{str(audio[0])[:40]!r}. Swap audio= and text=."
        )


def _folder_of(root: Path, paths: Sequence[Any]) -> Path:
    """Return the folder of the recordings of a table: its own, or one beside it that has the first one."""
    first = next((str(path) for path in paths if path), "")
    if not first or (root / first).exists():
        return root
    beside = [root / name for name in _BESIDE if (root / name / first).exists()]
    beside += [root / name for name in _BESIDE for end in SUFFIXES if (root / name / f"{first}{end}").exists()]
    return beside[0] if beside else root


def _lines(path: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Yield the non-empty lines of a text file with their numbers."""
    text, _ = decode_table(path.read_bytes(), path, encoding)
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _is_ljspeech(path: Path) -> bool:
    """Whether the first line of a table is ``id|text`` or ``id|text|normalized text``, without a header."""
    with open(path, "rb") as file:
        fields = file.readline().decode("utf-8", "replace").strip().split("|")
    return len(fields) in (2, 3) and "," not in fields[0] and fields[0].strip("\ufeff") not in AUDIO_COLUMNS


def _ljspeech(path: Path, columns: Columns) -> Rows:
    """LJSpeech 1.1 (Ito and Johnson, 2017): ``id|text|normalized text``, the recordings in wavs/."""
    names, texts, places, faults = [], [], [], []
    for number, line in _lines(path, columns.encoding):
        fields = line.split("|")
        if len(fields) not in (2, 3):
            faults.append(f"{path}:{number} has {len(fields)} fields between bars. Expected id|text|normalized text")
            continue
        names.append(fields[0].strip())
        texts.append(fields[-1] or fields[1])
        places.append(f"{path}:{number}")
    raise_problems(DataError, f"{path} cannot be read", faults, limit=_SHOWN)
    root = _folder_of(path.parent, names) if columns.root is None else Path(columns.root).expanduser()
    return Rows(str(path), root, tuple(names), tuple(texts), None, tuple(places))


def _librispeech(folder: Path, columns: Columns) -> Rows:
    """LibriSpeech (Panayotov et al., 2015): ``speaker-chapter-number TEXT`` in *.trans.txt, each in its folder."""
    paths, texts, groups, places, skipped = [], [], [], [], []
    for file in sorted(folder.rglob(f"*{_TRANSCRIPTS}")):
        names = {path.stem: path for path in sorted(file.parent.iterdir()) if path.suffix.lower() in SUFFIXES}
        for number, line in _lines(file, columns.encoding):
            name, _, text = line.partition(" ")
            if name not in names:
                skipped.append(Skipped(f"{file}:{number}", f"has a transcript, but no recording {name}.flac beside it"))
                continue
            paths.append(str(names.pop(name).relative_to(folder)))
            texts.append(text)
            groups.append(name.split("-")[0])
            places.append(f"{file}:{number}")
        skipped += [Skipped(str(path), f"has no transcript in {file.name}") for path in names.values()]
    named = columns.group is not None
    return _of_files(folder, paths, texts, tuple(groups) if named else None, places, skipped)


def _beside(folder: Path, texts: Sequence[Path], sounds: Sequence[Path], columns: Columns) -> Rows:
    """A text file beside each recording, of the same name."""
    by_name = {path.with_suffix(""): path for path in texts}
    paths, found, places, skipped = [], [], [], []
    for path in sounds:
        text = by_name.pop(path.with_suffix(""), None)
        if text is None:
            skipped.append(Skipped(str(path), f"has no transcript: expected {path.with_suffix('.txt').name} beside it"))
            continue
        paths.append(str(path.relative_to(folder)))
        found.append(" ".join(line for _, line in _lines(text, columns.encoding)))
        places.append(str(text))
    skipped += [
        Skipped(str(path), "has a transcript, but no recording of its name beside it") for path in by_name.values()
    ]
    groups = None if columns.group is None else groups_by(paths, str(columns.group))
    return _of_files(folder, paths, found, groups, places, skipped)


def _of_files(folder: Path, paths: Any, texts: Any, groups: Any, places: Any, skipped: Any) -> Rows:
    every = (tuple(paths), tuple(texts), groups, tuple(places), tuple(skipped))
    return Rows(str(folder), folder, *every, listed=False)


def _manifest(path: Path, encoding: str | None) -> Table:
    """A manifest of NeMo: one JSON object in each line, with ``audio_filepath`` and ``text``."""
    found, places, faults = [], [], []
    for number, line in _lines(path, encoding):
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            value, fault = None, f"{path}:{number} is not valid JSON: {error.msg} at character {error.pos}"
        else:
            fault = _manifest_fault(value, f"{path}:{number}")
        if fault:
            faults.append(fault)
        else:
            found.append(value)
            places.append(f"{path}:{number}")
    raise_problems(DataError, f"{path} cannot be read as a manifest, one JSON object per line", faults, limit=_SHOWN)
    names = tuple(dict.fromkeys(name for value in found for name in value))
    return Table(names, tuple([value.get(name) for name in names] for value in found), tuple(places), str(path))


def _manifest_fault(value: Any, place: str) -> str:
    if not isinstance(value, dict):
        return f"{place} holds a {type(value).__name__}. Expected an object with audio_filepath and text"
    if value.get("offset"):
        return f"{place} takes a part of its recording (offset {value['offset']}): cut the recordings into clips first"
    return ""
