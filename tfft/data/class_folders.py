"""Folders of labelled files: one folder per class, with or without ``train/`` and ``val/``.

Implementation notes: each file is read once before training, so that an unreadable one is reported with its reason
instead of stopping an epoch. The split of a file does not depend on the order on disk, the operating system or files
that are added later.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from tfft.data.duplicates import Duplicates
from tfft.data.examples import Skipped, Splits, divide
from tfft.data.file_examples import FileExamples
from tfft.data.options import ReadOptions
from tfft.data.split import SplitOptions, groups_by, key_of
from tfft.data.table import archive_hint
from tfft.errors import DataError, did_you_mean, join_names, raise_problems
from tfft.io.name_files import composed

_TRAIN, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx", "icon\r")
_LAYOUT = """Expected one folder per class:
  {root}/
    cat/  a{ending} b{ending} ...
    dog/  c{ending} d{ending} ...
or the same inside of {root}/train/ and {root}/val/."""

F = TypeVar("F", bound=FileExamples)


class Facts(Protocol):
    """Statistics of a file that folders and tables need."""

    path: str
    reason: str | None


@dataclasses.dataclass(frozen=True)
class FileType:
    """Description of the files of a modality.

    Attributes:
        item: Singular noun for messages.
        items: Plural of it.
        suffixes: File suffixes in lower case.
        read_facts: Function that reads files: paths, a callback with (done, all), and the file that stores the facts.
        find_duplicates: Function that finds duplicates from the facts.
        foreign: Other suffixes of such files that cannot be read.
    """

    item: str
    items: str
    suffixes: tuple[str, ...]
    read_facts: Callable[[Sequence[str], Any, Any], list[Any]]
    find_duplicates: Callable[[Sequence[Any]], Duplicates]
    foreign: tuple[str, ...] = ()


def list_class_folders(
    make: type[F], kind: FileType, folder: str | os.PathLike[str], reading: ReadOptions, least_classes: int = 2
) -> F:
    """List the files of a folder with one folder per class.

    Subfolders belong to their class folder. Hidden files are ignored.

    Args:
        make: Class of the examples.
        kind: File type.
        folder: Folder with the class folders.
        reading: Options for reading files.
        least_classes: Minimum number of class folders; 1 for data to evaluate on.

    Raises:
        DataError: If the folder is missing, has fewer than ``least_classes`` classes or an empty class, or if a file
            cannot be used and reading is strict.
    """
    root = existing(folder)
    parts = split_folders(root)
    if parts:
        raise DataError(
            f"{root} is split into {join_names(p.name for p in parts.values())}; list {parts['train']} or use load."
        )
    skipped: list[Skipped] = []
    folders = class_folders(root, skipped, least_classes, kind)
    classes = tuple(sorted({composed(name) for name in folders}))
    label_of = {name: classes.index(composed(name)) for name in folders}
    files = [(path, label_of[name]) for name in folders for path in files_of(root / name, skipped, kind)]
    facts = kind.read_facts([path for path, _ in files], reading.progress, reading.store) if reading.check else []
    skipped += [Skipped(one.path, one.reason) for one in facts if one.reason]
    good = [one.reason is None for one in facts] if reading.check else [True] * len(files)
    used = [pair for pair, fine in zip(files, good, strict=True) if fine]
    if reading.strict:
        bad = [str(item) for item in skipped if not is_stray(item, kind.suffixes + kind.foreign)]
        raise_problems(DataError, f"Unusable files in {root}", bad)
    paths = tuple(path for path, _ in used)
    labels = np.array([label for _, label in used], np.int32)
    known = tuple(one for one in facts if one.reason is None)
    examples = make(paths, labels, classes, tuple(skipped), known, tuple(key_of(path, root) for path in paths))
    _check_classes(root, examples, kind, folders)
    return examples


def load_class_folders(
    make: type[F], kind: FileType, folder: str | os.PathLike[str], split: SplitOptions, reading: ReadOptions
) -> Splits[F]:
    """List a folder of files and split it into training and validation files.

    If the folder has ``train/`` and ``val/`` (or ``valid/``, ``validation/``), these are used. Otherwise a hash of seed
    and file name draws a share of each class: the split is the same on every machine, and almost all files keep their
    side when others are added. Duplicates stay on one side. A ``test/`` folder is not loaded; see ``test_folder`` of
    :class:`tfft.data.Splits`.

    Args:
        make: Class of the examples.
        kind: File type.
        folder: Class folders, or the split folders that hold them.
        split: Options of the split.
        reading: Options for reading files.

    Raises:
        DataError: If there is no usable data; the message names each class or file at fault.
    """
    root = existing(folder)
    parts = split_folders(root)
    test = str(parts["test"]) if "test" in parts else None
    if "validation" in parts:
        return dataclasses.replace(_given_split(make, kind, root, parts, split, reading), test_folder=test)
    source = parts.get("train", root)
    examples = list_class_folders(make, kind, source, reading)
    _check_divisible(examples, kind)
    duplicates = kind.find_duplicates(examples.facts)
    groups = None if split.group is None else groups_by(examples.names, str(split.group))
    held_out, words = split.hold_out(
        examples.names,
        f"each class in {source}",
        labels=examples.labels,
        groups=groups,
        pairs=duplicates.positions,
    )
    words += f", groups by {split.group!r}" if split.group is not None else ""
    return divide(examples, held_out, words, groups=groups, duplicates=duplicates, root=str(source), test_folder=test)


def _given_split(
    make: type[F], kind: FileType, root: Path, parts: dict[str, Path], split: SplitOptions, reading: ReadOptions
) -> Splits[F]:
    train, validation = (list_class_folders(make, kind, parts[name], reading) for name in ("train", "validation"))
    _check_same_classes(parts, train, validation)
    if split.group is not None:
        raise DataError(f"{root} is already split into folders. Received: group={split.group!r}. Leave group out.")
    duplicates = kind.find_duplicates(train.facts + validation.facts)
    train, validation = (
        dataclasses.replace(part, names=tuple(key_of(path, root) for path in part.paths))
        for part in (train, validation)
    )
    return Splits(
        train,
        validation,
        f"the folders {parts['train']} and {parts['validation']}",
        skipped=train.skipped + validation.skipped,
        duplicates=duplicates.pairs,
        duplicates_note=duplicates.note,
        root=str(root),
    )


def existing(folder: str | os.PathLike[str]) -> Path:
    """Return an existing folder as a path, or raise an error with the nearest name."""
    root = Path(folder).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"Expected a folder with one folder per class. Received: the file {root}.{archive_hint(root)}")
    parent = next((p for p in root.parents if p.is_dir()), Path("."))
    missing = root.relative_to(parent).parts[0] if parent in root.parents else str(root)
    siblings = [entry.name for entry in _entries(parent) if entry.is_dir()]
    there = f" Folders in {parent.resolve()}: {join_names(siblings)}." if siblings else ""
    raise DataError(f"The data folder {str(root)!r} does not exist.{did_you_mean(missing, siblings)}{there}")


def is_stray(item: Skipped, suffixes: tuple[str, ...]) -> bool:
    """Whether a file is of another type by its name; folders and other containers are not."""
    return os.path.isfile(item.path) and Path(item.path).suffix.lower() not in suffixes


def class_folders(root: Path, skipped: list[Skipped], least: int, kind: FileType) -> tuple[str, ...]:
    """Return the sorted names of the class folders; add other entries to ``skipped``."""
    names = []
    for entry in _entries(root):
        if not _is_text(entry.name):
            skipped.append(Skipped(_printable(entry.path), "has a name that is not UTF-8; rename it"))
        elif _is_folder(entry):
            names.append(entry.name)
        else:
            skipped.append(Skipped(entry.path, "is not inside a class folder"))
    if len(names) >= max(least, 1):
        return tuple(names)
    files = sum(Path(item.path).suffix.lower() in kind.suffixes for item in skipped)
    beside = f" and {files} {kind.items} that are in no class folder" if files else ""
    received = f"one class folder, {names[0]!r}" if len(names) == 1 else f"{len(names) or 'no'} class folders"
    fewer = f" A classifier needs at least {'two' if least == 2 else least} classes." if names else ""
    layout = _LAYOUT.format(root=root.name, ending=kind.suffixes[0])
    raise DataError(f"{root} has {received}{beside}.{fewer}\n{layout}")


def files_of(folder: Path, skipped: list[Skipped], kind: FileType, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the files of a class folder with the suffixes of ``kind``; add other entries to ``skipped``."""
    real = os.path.realpath(folder)
    if real in above:
        skipped.append(Skipped(str(folder), "is a link back to a folder above it"))
        return
    try:
        entries = _entries(folder)
    except OSError as error:
        skipped.append(Skipped(str(folder), f"cannot be read: {error.strerror or error}"))
        return
    for entry in entries:
        suffix = os.path.splitext(entry.name)[1].lower()
        if not _is_text(entry.name):
            skipped.append(Skipped(_printable(entry.path), "has a name that is not UTF-8; rename it"))
        elif _is_folder(entry):
            yield from files_of(Path(entry.path), skipped, kind, (*above, real))
        elif suffix not in kind.suffixes:
            what = f"the extension {suffix}" if suffix else "no extension"
            skipped.append(Skipped(entry.path, f"has {what}; expected {', '.join(kind.suffixes)}"))
        else:
            yield entry.path


def split_folders(root: Path) -> dict[str, Path]:
    """Return the folders ``"train"``, ``"validation"`` and ``"test"`` of split data, else an empty mapping."""
    by_name = {e.name.lower(): Path(e.path) for e in _entries(root) if _is_folder(e)}
    roles = (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST))
    parts = {role: by_name[name] for role, names in roles for name in names if name in by_name}
    # "train" may be a class name; a split folder has folders of its own.
    nested = {role: path for role, path in parts.items() if any(_is_folder(e) for e in _entries(path))}
    if "train" in nested:
        return nested
    if "validation" in nested:
        layout = _LAYOUT.format(root=root.name, ending=".jpg")
        raise DataError(f"{root} has {nested['validation'].name}/ but no train/ folder.\n{layout}")
    return {}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not _is_hidden(e.name)), key=lambda e: e.name)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _printable(path: str | Path) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _check_classes(root: Path, examples: FileExamples, kind: FileType, folders: Sequence[str]) -> None:
    problems = []
    for name, count in examples.counts.items():
        if count:
            continue
        own = {root / folder for folder in folders if composed(folder) == name}
        inside = [item for item in examples.skipped if own & set(Path(item.path).parents)]
        why = f"; {len(inside)} files were skipped, the first: {inside[0]}" if inside else ""
        problems.append(f"the class folder {name!r} has no usable {kind.item}{why}")
    fix = f"add {kind.items} to the class or remove its folder"
    raise_problems(DataError, f"{root} cannot be used as it is ({fix})", problems)


def _check_same_classes(parts: dict[str, Path], train: FileExamples, validation: FileExamples) -> None:
    problems = []
    for here, there, examples, others in (
        (parts["train"], parts["validation"], train, validation),
        (parts["validation"], parts["train"], validation, train),
    ):
        for name in sorted(set(examples.class_names) - set(others.class_names)):
            hint = did_you_mean(name, set(others.class_names) - set(examples.class_names))
            problems.append(f"class {name!r} is in {here} but not in {there}.{hint}")
    raise_problems(DataError, "Training and validation data must have the same classes", problems)


def _check_divisible(examples: FileExamples, kind: FileType) -> None:
    problems = [
        f"class {name!r} has one {kind.item}, too few to split: "
        f"add {kind.items}, remove the class, or make your own train/ and val/ folders"
        for name, count in examples.counts.items()
        if count == 1
    ]
    raise_problems(DataError, "The data cannot be split", problems)
