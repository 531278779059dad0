"""CVAT files ("CVAT for images 1.1"): :func:`find_cvat`, :func:`read_cvat`.

Implementation notes: one XML file has all pictures. The box of a turned box, a polygon or a mask is the smallest
upright one around it. Hostile XML is refused as in :mod:`tfft.tasks.object_detection.source_files`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tfft.tasks.object_detection.annotations import Annotations, BoxedObject, PictureBoxes
from tfft.tasks.object_detection.picture_folder import beside, choose_folder, part_folders, part_of
from tfft.tasks.object_detection.source_files import Box, hull, parts_with, read_xml, turned

LOOKED_FOR = 'CVAT: an .xml file of the export "CVAT for images 1.1"'
_LARGEST = 200_000_000  # bytes
_CORNERS = ("ytl", "xtl", "ybr", "xbr")
_PLACED = ("top", "left", "height", "width")
_WITHOUT_AREA = ("points", "polyline", "tag")
_START = 4000  # bytes in which the root element begins


def is_cvat(file: Path) -> bool:
    """Whether an XML file begins with the root element of CVAT."""
    if not file.is_file():
        return False
    with open(file, "rb") as opened:
        return b"<annotations" in opened.read(_START).replace(b"\0", b"")


def find_cvat(source: Path) -> list[tuple[str, Path]]:
    """Return the CVAT files of a folder and their parts; a file stands for itself."""
    if source.is_file():
        return [("", source)] if source.suffix.lower() == ".xml" and is_cvat(source) else []
    inside = [(part, file) for part, folder in part_folders(source) for file in parts_with(folder, is_cvat, ".xml")]
    found = parts_with(source, is_cvat, ".xml") or parts_with(source / "annotations", is_cvat, ".xml")
    return inside or [(part_of(file.stem), file) for file in found]


def read_cvat(
    files: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read CVAT files.

    Args:
        files: Part and path of each.
        images: Folder of the pictures; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    pictures: list[PictureBoxes] = []
    names: dict[str, None] = {}
    notes: list[str] = []
    for part, file in files:
        if (tree := read_xml(file, "an export of CVAT", "annotations", _LARGEST, problems)) is None:
            continue
        if tree.find("track") is not None:
            problems.append(f'{file} holds tracks of a video. Export it as "CVAT for images 1.1"')
            continue
        names |= dict.fromkeys(one.text.strip() for one in tree.iterfind("meta//labels/label/name") if one.text)
        entries = tree.findall("image")
        folder = choose_folder(images, beside(file.parent, part), [one.get("name", "") for one in entries], str(file))
        lines = 0
        for at, entry in enumerate(entries):
            name = entry.get("name", "")
            place = f"{file}: image {entry.get('id', at)} ({name[:80]})"
            objects, left_out = _objects(entry, place, problems)
            lines += left_out
            try:
                path = folder.find(name)
            except ValueError as error:
                problems.append(f"{place} has the name {name[:80]!r}, which {error}")
                continue
            height, width = (_number(entry.get(side)) for side in ("height", "width"))
            sides = {"height": int(height), "width": int(width)} if math.isfinite(height + width) else {}
            own = part or part_of(entry.get("subset", ""))
            pictures.append(PictureBoxes.of(path, place, objects, part=own, **sides))
        if lines:
            notes.append(f"{lines} points, lines and tags of {file} have no area and are left out.")
    return Annotations("CVAT", str(files[0][1]), tuple(pictures), tuple(names), tuple(notes))


def _objects(entry: ElementTree.Element, place: str, problems: list[str]) -> tuple[list[BoxedObject], int]:
    """Return the objects of a picture, and the number of shapes without an area."""
    found, lines = [], 0
    for at, shape in enumerate(entry, 1):
        where, label = f"{place}: {shape.tag} {at}", shape.get("label", "")
        if shape.tag in _WITHOUT_AREA:
            lines += 1
        elif not label.strip():
            problems.append(f"{where} has no label")
        elif (box := _box(shape)) is None:
            problems.append(f"{where} has no corners of finite numbers. Expected xtl, ytl, xbr and ybr, or points")
        else:
            found.append(BoxedObject(box, label, where))
    return found, lines


def _box(shape: ElementTree.Element) -> Box | None:
    if shape.tag == "polygon":
        return hull([pair.split(",") for pair in shape.get("points", "").split(";")])
    if shape.tag == "mask":
        top, left, height, width = (_number(shape.get(side)) for side in _PLACED)
        return hull([(left, top), (left + width, top + height)])
    if shape.tag == "ellipse":
        x, y, across, down = (_number(shape.get(name)) for name in ("cx", "cy", "rx", "ry"))
        return hull([(x - across, y - down), (x + across, y + down)])
    top, left, bottom, right = box = tuple(_number(shape.get(side)) for side in _CORNERS)
    if not all(map(math.isfinite, box)):
        return None
    degrees = _number(shape.get("rotation", "0"))
    return (
        hull(turned(box, degrees, ((left + right) / 2, (top + bottom) / 2))) if degrees else (top, left, bottom, right)
    )


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan
