"""Tables with a row per box: :func:`find_box_table`, :func:`read_box_table`.

Implementation notes: delimiters, encodings and decimal marks are those of every other table. A row with a file and no
box is an image without objects. The corners are in pixels, counted from 0, unless no number of the table is above 1.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfft.data.dialect import looks_like_data
from tfft.data.table import SUFFIXES, Table, read_table
from tfft.errors import DataError, join_names
from tfft.tasks.object_detection.annotations import Annotations, BoxedObject, PictureBoxes
from tfft.tasks.object_detection.picture_folder import beside, choose_folder, part_folders, part_of

LOOKED_FOR = "a table (.csv, .tsv, .jsonl) with the columns file, xmin, ymin, xmax, ymax and class"
_FILE = ("file", "filename", "file_name", "image", "image_path", "path", "picture", "img", "imageid", "image_id",
         "image_name", "filepath")  # fmt: skip
_CLASS = ("class", "label", "class_name", "classname", "name", "category", "labelname", "label_name", "object")
_CORNERS: Mapping[str, tuple[str, ...]] = {
    "left": ("xmin", "x1", "x_min", "left", "bbox_x1", "x0"),
    "top": ("ymin", "y1", "y_min", "top", "bbox_y1", "y0"),
    "right": ("xmax", "x2", "x_max", "right", "bbox_x2"),
    "bottom": ("ymax", "y2", "y_max", "bottom", "bbox_y2"),
}
_PLAIN = ("file", "x1", "y1", "x2", "y2", "class")  # of a table without a header
_SIZED: Mapping[str, tuple[str, ...]] = {
    "left": ("x", "bbox_x", "left", "xmin"),
    "top": ("y", "bbox_y", "top", "ymin"),
    "across": ("w", "bbox_width", "bbox_w", "box_width"),
    "down": ("h", "bbox_height", "bbox_h", "box_height"),
}


def find_box_table(source: Any) -> list[tuple[str, Any]]:
    """Return the tables of a folder with their parts; a table is returned as is."""
    if not isinstance(source, Path):
        return [("", source)]
    if source.is_file():
        return [("", source)] if source.suffix.lower() in SUFFIXES else []
    inside = [(part, file) for part, folder in part_folders(source) for file in _tables_in(folder)]
    return inside or [(part_of(file.stem), file) for file in _tables_in(source)]


def _tables_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if has_boxes(file)]


def has_boxes(file: Path) -> bool:
    """Whether a file is a table whose first lines name the corners of boxes."""
    if file.suffix.lower() not in SUFFIXES or not file.is_file():
        return False
    with open(file, "rb") as opened:
        start = opened.read(2000).replace(b"\0", b"").decode("utf-8", "replace").lower()
    return any(all(names[at] in start for names in _CORNERS.values()) for at in range(4))


def read_box_table(
    tables: Sequence[tuple[str, Any]],
    images: str | os.PathLike[str] | None,
    problems: list[str],
    *,
    image: str | int | None = None,
    label: str | int | None = None,
    encoding: str | None = None,
    delimiter: str | None = None,
    decimal: str | None = None,
) -> Annotations:
    """Read tables with a row per box.

    Args:
        tables: Part and path of each, or a DataFrame.
        images: Folder of the images; None looks beside the table.
        problems: List to which a sentence is added for everything that cannot be used.
        image: Column of the files; None for a usual name.
        label: Column of the classes; None for a usual name.
        encoding: Encoding of the files; None for UTF-8 or a guess.
        delimiter: Delimiter between the fields; None infers it.
        decimal: Decimal mark; None takes a comma in a number as one.
    """
    pictures: list[PictureBoxes] = []
    for part, source in tables:
        table = read_table(source, encoding=encoding, delimiter=delimiter)
        if table.columns is not None and len(table.columns) == len(_PLAIN) and looks_like_data(table.columns):
            table = read_table(source, header=False, encoding=encoding, delimiter=delimiter)
            table = dataclasses.replace(table, columns=_PLAIN)
        columns = _columns(table, image, label)
        files = [str(value) if value is not None else "" for value in columns["file"]]
        folder = Path(source).parent if isinstance(source, (str, os.PathLike)) else Path()
        place = choose_folder(images, beside(folder, part), files, table.name)
        paths: dict[str, str] = {}
        for name, where in zip(files, table.places, strict=True):
            try:
                if name not in paths:
                    paths[name] = place.find(name)
            except ValueError as error:
                problems.append(f"{where} has the file {name!r}, which {error}")
        pictures += _pictures(table, columns, files, paths, part, decimal, problems)
    return Annotations("a table of boxes", str(tables[0][1]) if tables else "", tuple(_in_shares(pictures)))


def _columns(table: Table, image: str | int | None, label: str | int | None) -> dict[str, list[Any]]:
    """Return the values by meaning.

    Raises:
        DataError: If columns are missing; the message names all of them.
    """
    by_name = {str(name).strip().lower(): name for name in table.columns or ()}

    def of(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name), None)

    wanted: dict[str, Any] = {"file": image if image is not None else of(_FILE)}
    wanted["class"] = label if label is not None else of(_CLASS)
    corners = {side: of(names) for side, names in _CORNERS.items()}
    sized = {side: of(names) for side, names in _SIZED.items()}
    wanted |= sized if None in corners.values() and None not in sized.values() else corners
    if missing := [meaning for meaning, column in wanted.items() if column is None]:
        raise DataError(
            f"Expected a table with a row per box: file, xmin, ymin, xmax, ymax and class. Received: {table.name} with "
            f"the columns {join_names(map(repr, table.columns or ()))}, of which none is {join_names(missing)}. Rename "
            "them, or name those of the files and classes: image='...', label='...'."
        )
    return {meaning: table.column(column, meaning) for meaning, column in wanted.items()}


def _pictures(
    table: Table,
    columns: Mapping[str, Sequence[Any]],
    files: Sequence[str],
    paths: Mapping[str, str],
    part: str,
    decimal: str | None,
    problems: list[str],
) -> list[PictureBoxes]:
    objects: dict[str, list[BoxedObject]] = {}
    first: dict[str, str] = {}
    sides = [side for side in columns if side not in ("file", "class")]
    for at, (name, place) in enumerate(zip(files, table.places, strict=True)):
        if name not in paths:
            continue
        own = objects.setdefault(paths[name], [])
        first.setdefault(paths[name], place)
        written = {side: columns[side][at] for side in sides}
        if all(_is_empty(value) for value in written.values()):
            continue
        box = {side: _number(value, decimal) for side, value in written.items()}
        label = columns["class"][at]
        if bad := [f"{side} {written[side]!r}" for side in sides if not math.isfinite(box[side])]:
            problems.append(
                f"{place} has {join_names(bad)}. Expected four numbers, or none for an image without objects"
            )
        elif _is_empty(label):
            problems.append(f"{place} has a box without a class")
        else:
            bottom = box["bottom"] if "bottom" in box else box["top"] + box["down"]
            right = box["right"] if "right" in box else box["left"] + box["across"]
            own.append(BoxedObject((box["top"], box["left"], bottom, right), str(label), place))
    return [PictureBoxes.of(path, first[path], own, part=part) for path, own in objects.items()]


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or not str(value).strip()


def _number(value: Any, decimal: str | None) -> float:
    text = str(value).strip()
    try:
        return float(text.replace(",", ".") if decimal != "." else text)
    except ValueError:
        return math.nan


def _in_shares(pictures: Sequence[PictureBoxes]) -> Sequence[PictureBoxes]:
    """Mark all images as normalized if no number is above 1."""
    boxes = [one.boxes for one in pictures if len(one)]
    if not boxes or max(float(one.max()) for one in boxes) > 1:
        return pictures
    return [dataclasses.replace(one, normalized=True) for one in pictures]
