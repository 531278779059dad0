"""Label Studio exports (JSON and JSON-MIN): :func:`find_label_studio`, :func:`read_label_studio`.

Implementation notes: places are in percent of the image. Uploaded images got eight characters and a hyphen in front
of their names, which are left out where no image has them. If several people labelled an image, the first
annotation counts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tfft.tasks.object_detection.annotations import Annotations, BoxedObject
from tfft.tasks.object_detection.listed_pictures import ListedPicture, PictureList, find_files, read_listed
from tfft.tasks.object_detection.source_files import Box, hull, mentions, read_json, turned

LOOKED_FOR = "Label Studio: a .json file of the export JSON or JSON-MIN with rectanglelabels"
_LARGEST = 500_000_000  # bytes
_KINDS = ("rectanglelabels", "polygonlabels")
_PREFIX = re.compile(r"[0-9a-f]{8}-")


def is_label_studio(file: Path) -> bool:
    """Whether a JSON file is an export of Label Studio."""
    return mentions(file, "original_width") and any(mentions(file, kind) for kind in (*_KINDS, "brushlabels"))


def find_label_studio(source: Path) -> list[tuple[str, Path]]:
    """Return the exports in a folder and their parts; a file is returned as is."""
    return find_files(source, ".json", is_label_studio)


def read_label_studio(
    files: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read exports of Label Studio.

    Args:
        files: Part and path of each.
        images: Folder of the images; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    return read_listed("Label Studio", "image", files, images, problems, _read)


def _read(file: Path, problems: list[str]) -> PictureList | None:
    tasks = read_json(file, "Label Studio", _LARGEST)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        problems.append(f"{file} is not a list of tasks. Export it as JSON")
        return None
    pictures, several = [], 0
    for at, task in enumerate(tasks):
        name = _image_name(task)
        place = f"{file}: task {task.get('id', at)} ({name[:80]})"
        results, more = _results(task)
        several += more
        objects, height, width = _objects(results, place, problems)
        plain = _PREFIX.sub("", name, count=1)
        other = plain if plain != name else ""
        pictures.append(ListedPicture(name, place, objects, height, width, other_name=other))
    notes = [f"{several} images of {file} were labelled several times; the first annotation counts."]
    return PictureList(pictures, notes=notes if several else ())


def _image_name(task: dict[str, Any]) -> str:
    """Return the name of the image of a task: the last part of its address, or a path below a local folder."""
    data = task.get("data", task)
    values = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    address = data.get("image") if isinstance(data, dict) and isinstance(data.get("image"), str) else None
    address = address or next((value for value in values if "." in value.rpartition("/")[2]), "")
    address = unquote(address)
    if "?d=" in address:
        return address.partition("?d=")[2].lstrip("/")
    return address.partition("?")[0].replace("\\", "/").rpartition("/")[2]


def _results(task: dict[str, Any]) -> tuple[list[Any], bool]:
    """Return the shapes of an image, and whether several annotations have some."""
    given = task.get("annotations", task.get("completions"))
    if isinstance(given, list):
        kept = [one for one in given if isinstance(one, dict) and not one.get("was_cancelled")]
        results = [one["result"] for one in kept if isinstance(one.get("result"), list)]
        return (results[0] if results else []), len(results) > 1
    shapes = next((v for v in task.values() if isinstance(v, list) and v and isinstance(v[0], dict)), [])  # JSON-MIN
    return [{"value": one, **one} if isinstance(one, dict) else one for one in shapes], False


def _objects(results: list[Any], place: str, problems: list[str]) -> tuple[list[BoxedObject], int, int]:
    """Return the objects of an image with boxes in pixels, and its height and width."""
    found, height, width = list[BoxedObject](), 0, 0
    for at, result in enumerate(results):
        where = f"{place}: result[{at}]"
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict) or result.get("type") in ("choices", "textarea", "rating"):
            continue
        kind = next((kind for kind in (*_KINDS, "brushlabels") if value.get(kind)), None)
        sizes = [result.get(f"original_{side}") for side in ("height", "width")]
        if kind == "brushlabels":
            problems.append(f"{where} is a brush mask. Export the project as COCO or as PNG masks")
        elif kind is None:
            problems.append(f"{where} has no label. Expected rectanglelabels or polygonlabels")
        elif not all(isinstance(size, int) and size > 0 for size in sizes):
            problems.append(f"{where} has no original_width and original_height")
        elif (box := _box(kind, value, height := int(sizes[0]), width := int(sizes[1]))) is None:
            problems.append(f"{where} has no x, y, width and height, or points, of finite numbers in percent")
        else:
            found.append(BoxedObject(box, str(value[kind][0]), where))
    return found, height, width


def _box(kind: str, value: dict[str, Any], height: int, width: int) -> Box | None:
    try:
        if kind == "polygonlabels":
            return hull([(x * width / 100, y * height / 100) for x, y in value["points"]])
        left, across = (float(value[name]) * width / 100 for name in ("x", "width"))
        top, down = (float(value[name]) * height / 100 for name in ("y", "height"))
        degrees = float(value.get("rotation") or 0)
    except (KeyError, TypeError, ValueError):
        return None
    box = top, left, top + down, left + across
    if not all(map(math.isfinite, (*box, degrees))):
        return None
    return hull(turned(box, degrees, (left, top))) if degrees else box  # boxes turn around their first corner
