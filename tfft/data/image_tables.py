"""Tables of image files and labels: :func:`load_image_table`.

Hides where the files are, which rows cannot be used, and how rows are split.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tfft.data.copies import find_copies
from tfft.data.examples import Examples, Skipped, Splits, divided
from tfft.data.fact_store import facts_of
from tfft.data.splitting import hold_out, joined, read_split
from tfft.data.table_labels import (
    class_problems,
    has_value,
    names_among,
    numbers_of,
    task_of,
    unknown_labels,
    values_of,
)
from tfft.data.tables import read_table
from tfft.errors import DataError, raise_problems

Task = Literal["auto", "classification", "multilabel", "regression"]


def load_image_table(
    source: Any,
    *,
    image: str | int = "image",
    label: str | int = "label",
    task: Task = "auto",
    separator: str | None = None,
    group: str | int | None = None,
    root: str | os.PathLike[str] | None = None,
    validation: float | str | os.PathLike[str] = 0.2,
    seed: int = 0,
    strict: bool = False,
    encoding: str = "utf-8",
    store: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Splits:
    """Reads a table with a file and a label in each row, and splits it.

    Use it for pictures that are not sorted into folders, that have several labels each, or numbers. Copies of one
    picture stay on one side of the split.

    Args:
        source: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        image: column of the paths, absolute or below ``root``.
        label: column of the labels.
        task: ``"classification"``, ``"multilabel"`` (several labels in a list, or with a ``separator``), or
            ``"regression"`` (numbers); ``"auto"`` looks at them.
        separator: between the labels of one picture.
        group: column of what must not be on both sides, such as the person in the picture.
        root: folder of the files; that of the table by default.
        validation: share to hold out, of each class alike, or the file of an earlier split.
        seed: of the split.
        strict: True makes a row that cannot be used an error; else it is skipped and listed.
        encoding: of the table.
        store: as in :func:`tfft.data.list_images`.
        progress: called with (files checked, files in all).

    Returns:
        The examples; ``task`` says what the labels are: int32 [N] for one class each, float32 [N, K] of 0 and 1 for
        several, or float32 [N] for numbers.

    Raises:
        DataError: listing everything that is wrong, with file and line.

    Example:
        >>> splits = load_image_table("flowers.csv", image="file", label="species")
        >>> splits.train.counts
        {'daisy': 40, 'rose': 38}
    """
    is_file = isinstance(source, (str, os.PathLike))
    place = Path(root).expanduser() if root is not None else Path(source).expanduser().parent if is_file else Path()
    table = read_table(source, header=not isinstance(image, int), encoding=encoding)
    columns = {"image": image, "label": label} | ({} if group is None else {"group": group})
    problems, found = [], {}
    for role, which in columns.items():
        try:
            found[role] = table.column(which, role)
        except DataError as error:
            problems.append(str(error))
    raise_problems(DataError, "The table cannot be used", problems)
    skipped, rows = _rows(found, table.places, place)
    facts = facts_of([path for _, path in rows], progress, store)
    skipped += [
        Skipped(table.places[at], f"names {path}, which {fact.reason}")
        for (at, path), fact in zip(rows, facts, strict=True)
        if fact.reason
    ]
    if strict:
        raise_problems(DataError, f"Rows of {table.name} that cannot be used", list(map(str, skipped[:20])))
    used = [(at, fact) for (at, _), fact in zip(rows, facts, strict=True) if fact.reason is None]
    if not used:
        raise DataError(f"No row of {table.name} can be used: {skipped[0] if skipped else 'there is none'}.")
    places = [table.places[at] for at, _ in used]
    values = values_of([found["label"][at] for at, _ in used], separator)
    task = task_of([values], separator) if task == "auto" else task
    names = () if task == "regression" else names_among(values, task)
    raise_problems(DataError, "The labels cannot be used", class_problems([values], names, task, [places]))
    kept = tuple(fact for _, fact in used)
    paths = tuple(fact.path for fact in kept)
    examples = Examples(paths, numbers_of(values, names, task), names, tuple(skipped), kept)
    groups = None if group is None else [str(found["group"][at]) for at, _ in used]
    return _split(examples, _common(paths, place), groups, task, validation, seed, table.name)


def read_image_table(source: Any, class_names: Sequence[str], task: str, **settings: Any) -> Examples:
    """Reads a whole table for a model that knows its classes.

    Args:
        source: as :func:`load_image_table` takes it.
        class_names: of the model; empty for numbers.
        task: of the model.
        **settings: ``image``, ``label``, ``separator`` and ``root``, as for :func:`load_image_table`.

    Raises:
        DataError: as :func:`load_image_table`, and for labels that are not among the classes.
    """
    image, label = settings.get("image", "image"), settings.get("label", "label")
    table = read_table(source, header=not isinstance(image, int))
    root = settings.get("root") or Path(source).expanduser().parent
    found = {"image": table.column(image, "image"), "label": table.column(label, "label")}
    skipped, rows = _rows(found, table.places, Path(root))
    facts = facts_of([path for _, path in rows])
    used = [(at, fact) for (at, _), fact in zip(rows, facts, strict=True) if fact.reason is None]
    values = values_of([found["label"][at] for at, _ in used], settings.get("separator"))
    names = tuple(class_names)
    if task != "regression":
        raise_problems(
            DataError,
            "The labels cannot be used",
            unknown_labels(values, names, [table.places[at] for at, _ in used])[:10],
        )
    paths = tuple(fact.path for _, fact in used)
    return Examples(paths, numbers_of(values, names, task), names, tuple(skipped), tuple(fact for _, fact in used))


def _rows(
    found: dict[str, list[Any]], places: Sequence[str], root: Path
) -> tuple[list[Skipped], list[tuple[int, str]]]:
    """What cannot be used without looking at the files, and number and path of the other rows."""
    skipped, rows = [], []
    for at, (path, label) in enumerate(zip(found["image"], found["label"], strict=True)):
        if not has_value(path) or not isinstance(path, str):
            skipped.append(Skipped(places[at], f"has {'no path' if not has_value(path) else repr(path)}"))
        elif not has_value(label) and not (isinstance(label, (list, tuple)) and len(label)):
            skipped.append(Skipped(places[at], "has no label"))
        else:
            rows.append((at, str(root / path.strip())))
    return skipped, rows


def _common(paths: Sequence[str], root: Path) -> str:
    """The folder that the names of files are told from: the root, or, for files elsewhere, what they share."""
    inside = all(Path(path).is_relative_to(root) for path in paths)
    return str(root) if inside else os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])


def _split(
    examples: Examples,
    root: str,
    groups: Sequence[str] | None,
    task: str,
    validation: float | str | os.PathLike[str],
    seed: int,
    name: str,
) -> Splits:
    # A file may be in several rows, with several labels; its number keeps the names apart.
    keys, seen = [], {}
    for path in examples.paths:
        key = os.path.relpath(path, root).replace(os.sep, "/")
        seen[key] = seen.get(key, 0) + 1
        keys.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    copies = find_copies(examples.facts)
    if isinstance(validation, (str, os.PathLike)):
        held, words = read_split(validation, keys), f"the split in {validation}"
    else:
        together = joined(groups, copies.positions, len(keys))
        labels = examples.labels if task == "classification" else None
        held = hold_out(keys, validation, seed, labels=labels, groups=together)
        words = f"{validation * 100:g} % of {name}, drawn with seed {seed}"
    parts = tuple(tuple(keys[i] for i in np.flatnonzero(part)) for part in (~held, held))
    return divided(examples, held, groups, copies, words, root, names=parts, task=task)
