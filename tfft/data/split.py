"""Training and validation split by a hash of the names, stratified and with whole groups.

Implementation notes: the split depends on the names of examples and the seed alone, so it is the same on every machine,
and almost all examples keep their side when others are added.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np

from tfft.errors import DataError, did_you_mean, join_names, raise_problems
from tfft.io.atomic import write_whole
from tfft.io.name_files import composed, csv_text

TRAIN, VALIDATION = "train", "validation"
_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """Options for splitting examples.

    Attributes:
        validation: Share to hold out, above 0 and below 1, of each class; or the file of an earlier split, such as
            ``split.csv`` of a run. No effect if the source is split already.
        seed: Seed for the split.
        group: Groups to keep on one side, such as the images of one person: ``"folder"`` or a regular expression on
            file names with the group in parentheses; a column for a table.
    """

    validation: float | str | os.PathLike[str] = 0.2
    seed: int = 0
    group: str | int | None = None

    @property
    def share(self) -> float:
        """Share to hold out, for examples without names.

        Raises:
            DataError: If the file of a split is given.
        """
        if isinstance(self.validation, (str, os.PathLike)):
            raise DataError(
                f"validation={self.validation!r} needs examples with names, such as image files. Expected a share."
            )
        return self.validation

    def hold_out(
        self,
        names: Sequence[str],
        whole: str,
        *,
        labels: np.ndarray | None = None,
        groups: Sequence[str] | None = None,
        pairs: Sequence[tuple[int, int]] = (),
    ) -> tuple[np.ndarray, str]:
        """Draw the held-out examples, or read them from the file of an earlier split.

        Args:
            names: Unique names of the examples, [N].
            whole: Noun phrase for what the share is taken of.
            labels: Integers [N]; None without classes.
            groups: Groups of the examples; each stays on one side.
            pairs: Positions of duplicates, which also stay on one side.

        Returns:
            bool [N], True for held-out examples, and the origin of the split in words.

        Raises:
            DataError: If such a split is impossible.
        """
        if isinstance(self.validation, (str, os.PathLike)):
            return read_split(self.validation, names), f"the split in {self.validation}"
        together = joined(groups, pairs, len(names))
        try:
            held_out = hold_out(names, self.validation, self.seed, labels=labels, groups=together)
        except DataError:
            if groups is not None or together is None:
                raise
            # A class of duplicates only is divided anyway, and its duplicates are reported as leaks.
            held_out = hold_out(names, self.validation, self.seed, labels=labels)
        return held_out, f"{self.validation * 100:g} % of {whole}, drawn with seed {self.seed}"


def hold_out(
    keys: Sequence[str],
    share: float,
    seed: int,
    *,
    labels: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """Draw a stratified share of the examples, without dividing a group.

    Args:
        keys: Unique names of the examples, [N].
        share: Share to hold out, above 0 and below 1.
        seed: Seed for the split.
        labels: Integers [N]; None without classes.
        groups: Group names [N]; None without groups.

    Returns:
        bool [N], True for held-out examples. Each class has at least one example on either side.

    Raises:
        DataError: If the share is invalid, or a class cannot be on both sides.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise DataError(f"Expected validation as a share above 0 and below 1. Received: {share!r}. Usual: 0.2.")
    classes, names, group, tables = _grouped(keys, labels, groups)
    counts = tables.sum(axis=0)
    wanted = np.minimum(counts - 1, np.maximum(1, np.round(counts * share).astype(int)))
    held, taken = np.zeros(len(names), bool), np.zeros(len(classes), int)
    for at in np.argsort([_rank(name, seed) for name in names], kind="stable"):
        table = tables[at]
        nearer = np.abs(wanted - taken - table).sum() < np.abs(wanted - taken).sum()
        if nearer and (taken + table < counts)[table > 0].all():
            held[at], taken = True, taken + table
    if groups is not None:
        _check_both_sides(classes, counts, taken, tables)
    return held[group]


def folds(
    keys: Sequence[str],
    count: int,
    seed: int,
    *,
    labels: np.ndarray | None = None,
    groups: Sequence[str] | None = None,
) -> np.ndarray:
    """Distribute examples into stratified folds, without dividing a group.

    Args:
        keys: Unique names of the examples, [N].
        count: Number of folds, 2 or more.
        seed: Seed for the folds.
        labels: Integers [N]; None without classes.
        groups: Group names [N]; None without groups.

    Returns:
        int [N], the fold of each example, from 0.

    Raises:
        DataError: If a class has fewer examples than folds, or there are fewer groups.
    """
    classes, names, group, tables = _grouped(keys, labels, groups)
    counts = tables.sum(axis=0)
    if count < 2 or len(names) < count or (groups is None and counts.min() < count):
        least = f"{len(names)} groups" if groups is not None else f"{counts.min()} examples in the smallest class"
        raise DataError(f"Cannot make {count} folds of {least}. Expected 2 to that many folds.")
    # Large groups first, while others can still compensate; each to the fold that it balances best.
    ranks = [_rank(name, seed) for name in names]
    order = sorted(range(len(names)), key=lambda at: (-int(tables[at].sum()), ranks[at]))
    filled, found = np.zeros((count, len(classes)), int), np.zeros(len(names), int)
    for at in order:
        own = tables[at] > 0
        load = (filled[:, own] * tables[at][own] / counts[own]).sum(axis=1)
        found[at] = min(range(count), key=lambda fold: (load[fold], filled[fold].sum(), fold))
        filled[found[at]] += tables[at]
    return found[group]


def groups_by(names: Sequence[str], group: str) -> tuple[str, ...]:
    """Extract the group of each example from its name.

    Args:
        names: Relative paths of files, with ``/``.
        group: ``"folder"`` for the folder a file is in, or a regular expression with one group in parentheses, such
            as ``r"_(\\w+)_"`` for the speaker in ``7_theo_3.wav``.

    Raises:
        DataError: If the expression is invalid, or a name does not match.
    """
    if group == "folder":
        return tuple(str(PurePath(name).parent) for name in names)
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise DataError(f"group={group!r} is not a valid regular expression: {error}.") from error
    if pattern.groups != 1:
        raise DataError(
            f"group={group!r} has {pattern.groups} groups in parentheses. Expected one: the part of a file name that "
            'names the group, such as r"_(\\w+)_" for the speaker in 7_theo_3.wav; or "folder".'
        )
    found = [pattern.search(name) for name in names]
    missed = [name for name, match in zip(names, found, strict=True) if match is None or match[1] is None]
    if missed:
        raise DataError(
            f"group={group!r} does not match {len(missed)} of {len(names)} names: {join_names(missed[:5])}."
        )
    return tuple(match[1] for match in found)  # type: ignore[index]


def joined(first: Sequence[str] | None, pairs: Sequence[tuple[int, int]], count: int) -> tuple[str, ...] | None:
    """Merge groups so that the examples of each pair, such as duplicates, are in one group.

    Args:
        first: Existing groups, [N], or None.
        pairs: Pairs of positions.
        count: Number of examples, N.
    """
    if not len(pairs):
        return None if first is None else tuple(first)
    above = list(range(count))

    def root(at: int) -> int:
        while above[at] != at:
            above[at] = above[above[at]]
            at = above[at]
        return at

    together = list(pairs)
    if first is not None:
        seen: dict[str, int] = {}
        together += [(seen.setdefault(name, at), at) for at, name in enumerate(first)]
    for a, b in together:
        a, b = root(a), root(b)
        above[max(a, b)] = min(a, b)
    return tuple(str(root(at)) for at in range(count))


def write_split(path: str | os.PathLike[str], parts: Mapping[str, Sequence[str]]) -> None:
    """Write a split as a table with the columns ``item`` and ``part``.

    Args:
        path: Path of the file, which is written atomically.
        parts: Names of the examples by part, ``"train"`` and ``"validation"``.
    """
    rows = [(name, part) for part, names in parts.items() for name in names]
    write_whole(path, csv_text([("item", "part"), *rows]))


def read_split(path: str | os.PathLike[str], keys: Sequence[str]) -> np.ndarray:
    """Read the held-out examples from a file of :func:`write_split`.

    Args:
        path: Path of the file.
        keys: Names of the current examples.

    Returns:
        bool [N], True for held-out examples.

    Raises:
        DataError: If the file is not a split, or does not fit the examples.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"The split {str(path)!r} cannot be read: {error}.") from error
    if not rows or rows[0] != ["item", "part"]:
        raise DataError(f"{str(path)!r} is not a split file. Expected a table with the columns item and part.")
    problems = [
        f"line {line}: {join_names(map(repr, row))}. Expected an item and {TRAIN!r} or {VALIDATION!r}"
        for line, row in enumerate(rows[1:], 2)
        if len(row) != 2 or row[1] not in (TRAIN, VALIDATION)
    ]
    raise_problems(DataError, f"The split {str(path)!r} cannot be used", problems, limit=_SHOWN)
    part = {composed(name): side for name, side in rows[1:]}
    keys = [composed(key) for key in keys]
    missing = [key for key in keys if key not in part]
    gone = sorted(set(part) - set(keys))
    if missing:
        hint = did_you_mean(missing[0], gone)
        raise DataError(
            f"The split {str(path)!r} lacks {len(missing)} of {len(keys)} examples: "
            f"{join_names(missing[:5])}.{hint} Make a new split, or add lines for them."
        )
    if gone:
        raise DataError(
            f"The split {str(path)!r} names {len(gone)} examples that do not exist or cannot be used: "
            f"{join_names(gone[:5])}. Make a new split, or remove their lines."
        )
    return np.array([part[key] == VALIDATION for key in keys])


def key_of(path: str, root: str | os.PathLike[str]) -> str:
    """Return the name of a file that is the same on every machine: below its root, with ``/``, in composed letters."""
    return composed(Path(path).relative_to(root).as_posix())


def _rank(key: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}/{key}".encode("utf-8", "surrogateescape")).hexdigest()


def _grouped(
    keys: Sequence[str], labels: np.ndarray | None, groups: Sequence[str] | None
) -> tuple[np.ndarray, list[str], np.ndarray, np.ndarray]:
    """Return the classes, the names of the groups, the group of each example, and the class counts of each group."""
    labels = np.zeros(len(keys), np.int64) if labels is None else np.asarray(labels)
    classes, numbers = np.unique(labels, return_inverse=True)
    if groups is None:
        return classes, list(keys), np.arange(len(keys)), np.eye(len(classes), dtype=int)[numbers]
    names, group = np.unique(np.asarray(groups, object).astype(str), return_inverse=True)
    tables = np.zeros((len(names), len(classes)), int)
    np.add.at(tables, (group, numbers), 1)
    # By the first name in the group, not its own name: clusters of duplicates are only numbered.
    first: dict[int, str] = {}
    for key, at in sorted(zip(keys, group.tolist(), strict=True)):
        first.setdefault(at, key)
    return classes, [first[at] for at in range(len(names))], group, tables


def _check_both_sides(classes: np.ndarray, counts: np.ndarray, taken: np.ndarray, tables: np.ndarray) -> None:
    problems = []
    for at, name in enumerate(classes):
        if not 0 < taken[at] < counts[at]:
            holders = int((tables[:, at] > 0).sum())
            few = " (all of its examples are in one group)" if holders == 1 else ""
            problems.append(f"class {name} would be on one side only{few}")
    fix = "use other groups, another seed, or make your own train/ and val/ folders"
    raise_problems(DataError, f"The data cannot be split by group ({fix})", problems)
