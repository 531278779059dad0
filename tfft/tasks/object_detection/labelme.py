"""LabelMe folders: :func:`find_labelme`, :func:`read_labelme`.

Implementation notes: each image has a ``.json`` file with ``shapes``. The box of a polygon or circle is the smallest
one around it. Points and lines have no area, so they mark no object.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfft.tasks.object_detection.annotations import Annotations, BoxedObject
from tfft.tasks.object_detection.listed_pictures import ListedPicture, PictureList, read_listed
from tfft.tasks.object_detection.picture_folder import part_folders
from tfft.tasks.object_detection.source_files import Box, hull, mentions, parts_with, read_json

LOOKED_FOR = "LabelMe: a .json file with shapes for each image, beside it"
_LARGEST = 100_000_000  # bytes; a file may hold its image
_AREAS = ("rectangle", "polygon", "circle")
_LINES = ("point", "points", "line", "linestrip")


def is_labelme(file: Path) -> bool:
    """Whether a JSON file is one of LabelMe."""
    return mentions(file, "shapes", "imagePath")


def find_labelme(source: Path) -> list[tuple[str, Path]]:
    """Return the folders with LabelMe files and their parts; a file is returned as is."""
    if source.is_file():
        return [("", source)] if source.suffix.lower() == ".json" and is_labelme(source) else []
    inside = [(part, folder) for part, folder in part_folders(source) if _files_in(folder)]
    names = ("annotations", "labels", "json")
    return inside or [("", one) for one in (source, *(source / name for name in names)) if _files_in(one)][:1]


def _files_in(folder: Path) -> list[Path]:
    return parts_with(folder, is_labelme, ".json")


def read_labelme(
    places: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read LabelMe files.

    Args:
        places: Part and path of each folder or file.
        images: Folder of the images; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    return read_listed("LabelMe", "imagePath", places, images, problems, _read)


def _read(place: Path, problems: list[str]) -> PictureList:
    pictures, lines = [], 0
    for file in [place] if place.is_file() else _files_in(place):
        content = read_json(file, "LabelMe", _LARGEST)
        content = content if isinstance(content, dict) else {}
        objects, left_out = _objects(file, content, problems)
        lines += left_out
        sizes = (content.get(side) for side in ("imageHeight", "imageWidth"))
        height, width = (size if isinstance(size, int) and size > 0 else 0 for size in sizes)
        pictures.append(ListedPicture(_image_name(file, content), str(file), objects, height, width))
    notes = [f"{lines} points and lines of {place} have no area and are left out."] if lines else []
    return PictureList(pictures, notes=notes)


def _image_name(file: Path, content: dict[str, Any]) -> str:
    """Return the last part of ``imagePath``, whose folders are those of another machine; else the name of the file."""
    path = content.get("imagePath")
    return (path if isinstance(path, str) else "").replace("\\", "/").rpartition("/")[2] or file.stem


def _objects(file: Path, content: dict[str, Any], problems: list[str]) -> tuple[list[BoxedObject], int]:
    """Return the objects of an image, and the number of shapes without an area."""
    shapes = content.get("shapes")
    if not isinstance(shapes, list):
        problems.append(f"{file} has no list of shapes. Expected a LabelMe file")
        return [], 0
    found, lines = [], 0
    for at, shape in enumerate(shapes):
        place, shape = f"{file}: shapes[{at}]", shape if isinstance(shape, dict) else {}
        kind, label = shape.get("shape_type") or "polygon", shape.get("label")
        if kind in _LINES:
            lines += 1
        elif kind not in _AREAS:
            problems.append(f"{place} has the shape_type {str(kind)[:40]!r}. Expected {', '.join(_AREAS)}")
        elif not isinstance(label, str) or not label.strip():
            problems.append(f"{place} has no label")
        elif (box := _box(kind, shape.get("points"))) is None:
            problems.append(f"{place} has no points [[x, y], ...] of finite numbers in pixels")
        else:
            found.append(BoxedObject(box, label, place))
    return found, lines


def _box(kind: str, points: Any) -> Box | None:
    box = hull(points) if isinstance(points, list) else None
    if box is None or kind != "circle":
        return box
    if len(points) != 2:
        return None
    (x, y), rim = points
    reach = math.dist((x, y), rim)  # a circle has its centre and a point on its rim
    return y - reach, x - reach, y + reach, x + reach
