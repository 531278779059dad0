"""CVAT files ("CVAT for images 1.1"): :func:`find_cvat`, :func:`read_cvat`.

Implementation notes: one XML file has all images. The box of a turned box, a polygon or a mask is the smallest
upright one around it. Hostile XML is refused as in :mod:`tfft.tasks.object_detection.source_files`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tfft.tasks.object_detection.annotations import Annotations, BoxedObject
from tfft.tasks.object_detection.listed_pictures import ListedPicture, PictureList, find_files, read_listed
from tfft.tasks.object_detection.picture_folder import part_of
from tfft.tasks.object_detection.source_files import Box, hull, number, read_xml, turned

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
    """Return the CVAT files of a folder and their parts; a file is returned as is."""
    return find_files(source, ".xml", is_cvat, inner=("annotations",))


def read_cvat(
    files: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read CVAT files.

    Args:
        files: Part and path of each.
        images: Folder of the images; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    return read_listed("CVAT", "name", files, images, problems, _read)


def _read(file: Path, problems: list[str]) -> PictureList | None:
    if (tree := read_xml(file, "an export of CVAT", "annotations", _LARGEST, problems)) is None:
        return None
    if tree.find("track") is not None:
        problems.append(f'{file} holds tracks of a video. Export it as "CVAT for images 1.1"')
        return None
    names = [one.text.strip() for one in tree.iterfind("meta//labels/label/name") if one.text]
    pictures, lines = [], 0
    for at, entry in enumerate(tree.findall("image")):
        name = entry.get("name", "")
        place = f"{file}: image {entry.get('id', at)} ({name[:80]})"
        objects, left_out = _objects(entry, place, problems)
        lines += left_out
        sides = [number(entry.get(side)) for side in ("height", "width")]
        height, width = map(int, sides) if all(map(math.isfinite, sides)) else (0, 0)
        pictures.append(ListedPicture(name, place, objects, height, width, part_of(entry.get("subset", ""))))
    notes = [f"{lines} points, lines and tags of {file} have no area and are left out."] if lines else []
    return PictureList(pictures, names, notes)


def _objects(entry: ElementTree.Element, place: str, problems: list[str]) -> tuple[list[BoxedObject], int]:
    """Return the objects of an image, and the number of shapes without an area."""
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
        top, left, height, width = (number(shape.get(side)) for side in _PLACED)
        return hull([(left, top), (left + width, top + height)])
    if shape.tag == "ellipse":
        x, y, across, down = (number(shape.get(name)) for name in ("cx", "cy", "rx", "ry"))
        return hull([(x - across, y - down), (x + across, y + down)])
    top, left, bottom, right = box = tuple(number(shape.get(side)) for side in _CORNERS)
    if not all(map(math.isfinite, box)):
        return None
    degrees = number(shape.get("rotation", "0"))
    return (
        hull(turned(box, degrees, ((left + right) / 2, (top + bottom) / 2))) if degrees else (top, left, bottom, right)
    )
