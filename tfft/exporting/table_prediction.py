"""Predictions for the rows of a table, as new columns: :func:`predict_table`, :func:`write_predictions`.

Implementation notes: an empty row does not stop the others.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfft import registry
from tfft.data.label_parsing import has_value
from tfft.data.table import SUFFIXES, Table, read_table
from tfft.errors import DataError, join_names, raise_problems
from tfft.exporting.loader import BYTES_SIGNATURE, Served
from tfft.exporting.prediction import Prediction, predict_items
from tfft.io.atomic import write_whole

_PREFIX = "predicted_"  # of the columns that are added, so that those of the table stay


def predict_each(
    model: Served, items: Sequence[Any], pairs: Sequence[str] | None = None, *, top: int = 3
) -> Iterator[Prediction]:
    """Predict for any inputs of a model, in order.

    Args:
        model: Model, as from :func:`tfft.exporting.open_export`.
        items: Texts, or pairs of them as tuples, for a model of texts, else paths of images or recordings.
        pairs: Second text of each pair, if ``items`` are the first ones.
        top: Number of classes to list per item.

    Yields:
        One prediction for each item; an item that cannot be used gets its reason instead.

    Raises:
        ExportError: If the modality of the model is unknown.
    """
    given, taken = list(items) if pairs is None else list(zip(items, pairs, strict=True)), model.asked()
    read = _reader(model, taken.modality).read_items(given, taken.spec)
    decodes = taken.signature == BYTES_SIGNATURE
    return predict_items(model.predict, read, class_names=model.class_names, top=top, decodes=decodes, task=model.task)


def _reader(model: Served, modality: str) -> registry.Modality:
    """Return the modality that reads inputs: the reader of the model's task, if it is of the same modality."""
    own = registry.task_or_plain(model.task).reader
    return own if own is not None and own.name == modality else registry.modality(modality)


def predict_table(
    model: Served,
    source: Any,
    columns: Sequence[str | int],
    *,
    root: str | os.PathLike[str] | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    top: int = 3,
) -> tuple[Table, Iterator[Prediction]]:
    """Read a table and predict for each of its rows.

    Use it for texts in a column (or pairs in two), or for files in a column. Other columns are ignored, so a table with
    labels can be used unchanged.

    Args:
        model: Model, as from :func:`tfft.exporting.open_export`.
        source: A ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file, or a pandas DataFrame.
        columns: Columns of the texts, or of the paths, absolute or below ``root``; numbers for a file without header.
        root: Folder of the files; that of the table by default.
        encoding: Encoding of the table; None looks at its bytes.
        delimiter: Delimiter between its fields; None looks at the rows.
        top: Number of classes to list per row.

    Returns:
        The table, and one prediction for each of its rows, as they are made.

    Raises:
        DataError: If the table cannot be read, has no such column, or the model takes more or fewer columns.

    Example:
        >>> table, found = predict_table(tfft.exporting.open_export("served"), "new.csv", ["review"])
        >>> write_predictions(table, found, "answers.csv")
    """
    taken = model.asked()
    kind = registry.modality(taken.modality)
    wanted = len(kind.columns_of(taken.spec))
    if len(columns) != wanted:
        raise DataError(
            f"The model takes {kind.request_noun(taken.spec)}, so name {wanted} "
            f"column{'s' if wanted > 1 else ''}; received {len(columns)}: {join_names(map(repr, columns))}."
        )
    table = read_table(
        source, header=not any(isinstance(column, int) for column in columns), encoding=encoding, delimiter=delimiter
    )
    problems, values = [], []
    for column in columns:
        try:
            values.append(table.column(column, "column"))
        except DataError as error:
            problems.append(str(error))
    raise_problems(DataError, "The table cannot be used", problems)
    is_file = isinstance(source, (str, os.PathLike))
    folder = Path(root if root is not None else Path(source).parent if is_file else "").expanduser()
    rows = list(zip(*values, strict=True))
    items = [kind.item_of_row(row, folder) if all(map(has_value, row)) else None for row in rows]
    return table, _predictions(model, rows, items, join_names(map(repr, columns)), top)


def _predictions(
    model: Served, rows: Sequence[Sequence[Any]], items: Sequence[Any], names: str, top: int
) -> Iterator[Prediction]:
    """Predictions for the rows that hold something, and reasons for the others, in order."""
    found = predict_each(model, [item for item in items if item is not None], top=top)
    for row, item in zip(rows, items, strict=True):
        if item is not None:
            yield next(found)
        else:
            yield Prediction(str(row[0]) if has_value(row[0]) else "", error=f"has nothing in {names}")


def check_target(out: str | os.PathLike[str]) -> Path:
    """Return the file for predictions; refuse one that exists or has another form.

    Raises:
        DataError: If it exists, its folder does not, or its name is not that of a table.
    """
    target = Path(out).expanduser()
    if target.suffix.lower() not in SUFFIXES:
        raise DataError(f"{target} has no table suffix. Expected {join_names(SUFFIXES)}.")
    if target.exists():
        raise DataError(f"{target} already exists, and tfft never overwrites files. Use another name or remove it.")
    if not target.parent.is_dir():
        raise DataError(f"The folder {target.parent} of {target.name} does not exist. Create it first.")
    return target


def write_predictions(table: Table, predictions: Iterable[Prediction], out: str | os.PathLike[str]) -> list[Prediction]:
    """Write a table with the predictions of each row in further columns.

    They are ``predicted_label`` and ``predicted_probability`` for classes, one for each output else, and
    ``predicted_error`` where a row could not be used. The file is written under another name and renamed when whole.

    Args:
        table: Table from :func:`predict_table`.
        predictions: One prediction for each row.
        out: New ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson`` file.

    Returns:
        The predictions.

    Raises:
        DataError: If the file exists already, or its name is not that of a table.
    """
    target, found = check_target(out), list(predictions)
    names = table.columns or tuple(f"column_{i}" for i in range(max(map(len, table.rows), default=0)))
    own = [{k: v for k, v in zip(names, row, strict=False) if not k.startswith(_PREFIX)} for row in table.rows]
    rows = [{**given, **_columns_of(said)} for given, said in zip(own, found, strict=True)]
    header = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    if target.suffix.lower() in (".jsonl", ".ndjson"):
        text.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    else:
        form = "excel-tab" if target.suffix.lower() == ".tsv" else "excel"
        writer = csv.DictWriter(text, header, dialect=form, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _field(value) for key, value in row.items()} for row in rows)
    write_whole(target, text.getvalue())
    return found


def _columns_of(said: Prediction) -> dict[str, Any]:
    if said.error is not None:
        return {f"{_PREFIX}error": said.error}
    if said.label is not None:
        return {f"{_PREFIX}label": said.label, f"{_PREFIX}probability": said.probability}
    return {f"{_PREFIX}{name}": value for name, value in said.outputs.items()}


def _field(value: Any) -> Any:
    """A value as a field of a .csv file: lists and mappings as JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict, tuple)) else value
