"""A folder of labelled images: one folder per class, with or without ``train/`` and ``val/``.

Hides the state that real folders are in. Each file is decoded once before training starts, so that a
bad one is named with its reason instead of stopping an epoch; the order of files on disk, the
operating system and later additions do not change which side of the split a file is on.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tfft.data.examples import Examples, Skipped, Splits, divided
from tfft.data.file_index import facts_of
from tfft.data.split import groups_by, hold_out, joined, key_of, read_split
from tfft.errors import DataError, did_you_mean, listed, raise_problems
from tfft.modalities.image.decode_errors import FOREIGN_SUFFIXES, SUFFIXES
from tfft.modalities.image.duplicates import Copies, find_copies

_TRAIN, _VALIDATION, _TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "__macosx", "icon\r")
_LAYOUT = """Expected one folder per class:
  {root}/
    cat/  a.jpg  b.jpg ...
    dog/  c.jpg  d.jpg ...
or the same inside of {root}/train/ and {root}/val/."""


def list_images(
    folder: str | os.PathLike[str],
    strict: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
    *,
    least_classes: int = 2,
    store: str | os.PathLike[str] | None = None,
) -> Examples:
    """Lists the images of a folder that has one folder per class.

    Use it to look at a data set before training, or for data that is split already. Sub-folders
    of a class folder are part of the class. Hidden files are ignored.

    Args:
        folder: the folder that holds the class folders.
        strict: True makes every image that cannot be used an error, all of them named; files that are no
            images by their extension (``notes.txt``, ``README``) are only listed in ``skipped``.
        check: False skips decoding; a damaged file then fails later.
        progress: called with (files checked, files in all) while files are decoded.
        least_classes: how many class folders there must be; 1 for data to measure a model on.
        store: file in which is kept what reading the files told, so that only new ones are read the next time.

    Returns:
        :class:`Examples`; what was left out is in ``skipped``.

    Raises:
        DataError: when the folder is missing, holds fewer than ``least_classes`` or an empty
            class; or ``strict`` and an image cannot be used.

    Example:
        >>> list_images("photos/").counts
        {'ants': 123, 'bees': 121}
    """
    root = existing(folder)
    parts = split_folders(root)
    if parts:
        raise DataError(
            f"{root} is split into {listed(p.name for p in parts.values())}; list {parts['train']} or use load."
        )
    skipped: list[Skipped] = []
    classes = class_folders(root, skipped, least_classes)
    found = [(path, label) for label, name in enumerate(classes) for path in files_of(root / name, skipped)]
    facts = facts_of([path for path, _ in found], progress, store) if check else []
    skipped += [Skipped(one.path, one.reason) for one in facts if one.reason]
    good = [one.reason is None for one in facts] if check else [True] * len(found)
    used = [pair for pair, fine in zip(found, good, strict=True) if fine]
    facts = [one for one in facts if one.reason is None]
    if strict:
        raise_problems(
            DataError, f"Files in {root} that cannot be used", [str(item) for item in skipped if not is_stray(item)]
        )
    labels = np.array([label for _, label in used], np.int32)
    examples = Examples(tuple(path for path, _ in used), labels, classes, tuple(skipped), tuple(facts))
    _check_classes(root, examples)
    return examples


def load_images(
    folder: str | os.PathLike[str],
    *,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    strict: bool = False,
    check: bool = True,
    progress: Callable[[int, int], None] | None = None,
    group: str | None = None,
    store: str | os.PathLike[str] | None = None,
) -> Splits:
    """Lists a folder of images and decides which are held out for validation.

    Where the folder has ``train/`` and ``val/`` (or ``valid/``, ``validation/``), these are used.
    Otherwise a share of each class is drawn by a hash of seed and file name: the choice is the
    same on every machine, and a file keeps its side when others are added, but for the few at the
    border. Copies of one picture stay on one side. A ``test/`` folder is left alone.

    Args:
        folder: class folders, or the split folders that hold them.
        validation: share of each class to hold out, above 0 and below 1; at least one file of each
            class is on either side. Or the file of an earlier split, such as ``split.csv`` of a run. Ignored where
            the folder is split already.
        seed: picks another draw.
        strict: True makes every image that cannot be used an error, all of them named, as in
            :func:`list_images`.
        check: False skips decoding every file once.
        progress: called with (files checked, files in all), once per folder that is listed.
        group: what must not be on both sides, such as the pictures of one person: ``"folder"``, or a regular
            expression on the path of a file below ``folder``, with the telling part in parentheses.
        store: as in :func:`list_images`.

    Returns:
        :class:`Splits`.

    Raises:
        DataError: when there is no usable data; the message names every class or file at fault.

    Example:
        >>> splits = load_images("photos/", validation=0.25)
        >>> len(splits.train), len(splits.validation), splits.split_from
        (184, 60, '25 % of each class in photos, drawn with seed 0')
    """
    root = existing(folder)
    parts = split_folders(root)
    test = str(parts["test"]) if "test" in parts else None
    listed_as = functools.partial(list_images, strict=strict, check=check, progress=progress, store=store)
    if "validation" in parts:
        train, held_out = listed_as(parts["train"]), listed_as(parts["validation"])
        _check_same_classes(parts, train, held_out)
        skipped = train.skipped + held_out.skipped
        words = f"the folders {parts['train']} and {parts['validation']}"
        if group is not None:
            raise DataError(f"{root} is split into folders already, so group={group!r} has nothing to decide.")
        copies = find_copies(train.facts + held_out.facts)
        found = (str(root), copies.pairs, copies.note)
        return Splits(train, held_out, train.class_names, skipped, words, test, *found)
    source = parts.get("train", root)
    examples = listed_as(source)
    _check_divisible(examples)
    copies = find_copies(examples.facts)
    keys = [key_of(path, source) for path in examples.paths]
    groups = None if group is None else groups_by(keys, group)
    held, words = _held_out(examples, keys, validation, seed, groups, copies)
    words = words.replace("each class", f"each class in {source}") + (f", groups by {group!r}" if group else "")
    splits = divided(examples, held, groups, copies, words, str(source))
    return dataclasses.replace(splits, test_folder=test)


def existing(folder: str | os.PathLike[str]) -> Path:
    """Returns a folder that is there; refuses others with the nearest name."""
    root = Path(folder).expanduser()
    if root.is_dir():
        return root
    if root.exists():
        raise DataError(f"{root} is a file, expected a folder. If it is an archive, unpack it first.")
    parent = next((p for p in root.parents if p.is_dir()), Path("."))
    missing = root.relative_to(parent).parts[0] if parent in root.parents else str(root)
    siblings = [entry.name for entry in _entries(parent) if entry.is_dir()]
    there = f" Folders in {parent.resolve()}: {listed(siblings)}." if siblings else ""
    raise DataError(f"The data folder {str(root)!r} does not exist.{did_you_mean(missing, siblings)}{there}")


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
    except OSError:  # a link that leads to itself
        return False


def is_stray(item: Skipped, suffixes: tuple[str, ...] = SUFFIXES + FOREIGN_SUFFIXES) -> bool:
    """Tells whether a file is no image by its name; what may hide images, such as an unreadable folder, is not."""
    return os.path.isfile(item.path) and Path(item.path).suffix.lower() not in suffixes


def class_folders(root: Path, skipped: list[Skipped], least: int) -> tuple[str, ...]:
    """Returns the names of the class folders, sorted; what is beside them is added to ``skipped``."""
    names = []
    for entry in _entries(root):
        if not _is_text(entry.name):
            skipped.append(Skipped(_printable(entry.path), "has a name that is not UTF-8; rename it"))
        elif _is_folder(entry):
            names.append(entry.name)
        else:
            skipped.append(Skipped(entry.path, "is not inside of a class folder"))
    if len(names) >= max(least, 1):
        return tuple(names)
    images = sum(Path(item.path).suffix.lower() in SUFFIXES for item in skipped)
    beside = f" and {images} images that are in no class folder" if images else ""
    received = f"one class folder, {names[0]!r}" if len(names) == 1 else f"{len(names) or 'no'} class folders"
    fewer = f" A classifier needs at least {'two' if least == 2 else least} classes." if names else ""
    raise DataError(f"{root} has {received}{beside}.{fewer}\n{_LAYOUT.format(root=root.name)}")


def files_of(
    folder: Path, skipped: list[Skipped], above: tuple[str, ...] = (), suffixes: tuple[str, ...] = SUFFIXES
) -> Iterator[str]:
    """Yields the files of a class folder that end as images do; what else there is is added to ``skipped``."""
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
            yield from files_of(Path(entry.path), skipped, (*above, real), suffixes)
        elif suffix not in suffixes:
            what = f"the extension {suffix}" if suffix else "no extension"
            skipped.append(Skipped(entry.path, f"has {what}; expected {', '.join(suffixes)}"))
        else:
            yield entry.path


def _check_classes(root: Path, examples: Examples) -> None:
    problems = []
    for name, count in examples.counts.items():
        if count:
            continue
        inside = [item for item in examples.skipped if (root / name) in Path(item.path).parents]
        why = f"; {len(inside)} files were skipped, the first: {inside[0]}" if inside else ""
        problems.append(f"the class folder {name!r} has no image that can be used{why}")
    fix = "add images to the class or remove its folder"
    raise_problems(DataError, f"{root} cannot be used as it is ({fix})", problems)


def split_folders(root: Path) -> dict[str, Path]:
    """Returns the folders ``"train"``, ``"validation"`` and ``"test"`` of data that is split, else none."""
    by_name = {e.name.lower(): Path(e.path) for e in _entries(root) if _is_folder(e)}
    roles = (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST))
    parts = {role: by_name[name] for role, names in roles for name in names if name in by_name}
    # "train" may be the name of a class; as a part of a split it has folders of its own.
    nested = {role: path for role, path in parts.items() if any(_is_folder(e) for e in _entries(path))}
    if "train" in nested:
        return nested
    if "validation" in nested:
        raise DataError(
            f"{root} has {nested['validation'].name}/ but no train/ folder.\n{_LAYOUT.format(root=root.name)}"
        )
    return {}


def _check_same_classes(parts: dict[str, Path], train: Examples, held_out: Examples) -> None:
    problems = []
    for here, there, examples, others in (
        (parts["train"], parts["validation"], train, held_out),
        (parts["validation"], parts["train"], held_out, train),
    ):
        for name in sorted(set(examples.class_names) - set(others.class_names)):
            hint = did_you_mean(name, set(others.class_names) - set(examples.class_names))
            problems.append(f"class {name!r} is in {here} but not in {there}.{hint}")
    raise_problems(DataError, "Training and validation data must have the same classes", problems)


def _check_divisible(examples: Examples) -> None:
    problems = [
        f"class {name!r} has one image, which cannot be both learned from and held out: "
        "add images, remove the class, or make your own train/ and val/ folders"
        for name, count in examples.counts.items()
        if count == 1
    ]
    raise_problems(DataError, "The data cannot be split", problems)


def _held_out(
    examples: Examples,
    keys: Sequence[str],
    validation: float | str | os.PathLike[str],
    seed: int,
    groups: Sequence[str] | None,
    copies: Copies,
) -> tuple[np.ndarray, str]:
    """What is held out, bool [N], and in words how that came about."""
    if isinstance(validation, (str, os.PathLike)):
        return read_split(validation, keys), f"the split in {validation}"
    together = joined(groups, copies.positions, len(keys))
    try:
        held = hold_out(keys, validation, seed, labels=examples.labels, groups=together)
    except DataError:
        if groups is not None or together is None:
            raise
        held = hold_out(keys, validation, seed, labels=examples.labels)  # a class of copies only: told as leaks
    return held, f"{validation * 100:g} % of each class, drawn with seed {seed}"
