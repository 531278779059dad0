"""Tables of image files and labels: :func:`load_image_table`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from tfft.data.examples import Examples, Splits
from tfft.data.file_index import facts_of
from tfft.data.file_table import Task, read_rows, split_rows
from tfft.modalities.image.duplicates import find_copies


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
    rows = read_rows(source, "image", image, label, group=group, root=root, encoding=encoding)
    facts = facts_of(rows.paths, progress, store)
    rows = rows.usable(facts, strict)
    parsed = rows.parse_labels(task, separator)
    examples = Examples(
        rows.paths, parsed.labels, parsed.class_names, rows.skipped, tuple(one for one in facts if one.reason is None)
    )
    splits, _ = split_rows(rows, examples, parsed.task, find_copies(examples.facts), validation, seed)
    return splits


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
    columns = settings.get("image", "image"), settings.get("label", "label")
    rows = read_rows(source, "image", *columns, root=settings.get("root"))
    facts = facts_of(rows.paths)
    rows = rows.usable(facts)
    labels = rows.parse_labels(task, settings.get("separator"), class_names).labels
    used = tuple(one for one in facts if one.reason is None)
    return Examples(rows.paths, labels, tuple(class_names), rows.skipped, used)
