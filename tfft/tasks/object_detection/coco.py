"""COCO files: :func:`find_coco`, :func:`read_coco`.

Implementation notes: categories count by name, not by id, so ids may have holes, start at 1 or differ between the files
of a data set. Of a polygon or a run-length mask only the ``bbox`` is read. Pictures without annotations are examples
without objects.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfft.errors import DataError, did_you_mean
from tfft.tasks.object_detection.annotations import Annotations, BoxedObject, PictureBoxes
from tfft.tasks.object_detection.label_studio import is_label_studio
from tfft.tasks.object_detection.labelme import is_labelme
from tfft.tasks.object_detection.picture_folder import PictureFolder, beside, choose_folder, part_folders, part_of
from tfft.tasks.object_detection.source_files import mentions, read_json

LOOKED_FOR = "COCO: a .json file with images, annotations and categories, also in annotations/, train/ and valid/"
_LARGEST = 500_000_000  # bytes; the json module takes about eight times as much memory
_SHOWN = 80  # characters of a value in a message
_KEYS = ("images", "annotations", "categories")


def find_coco(source: Path) -> list[tuple[str, Path]]:
    """Return the COCO files of a folder with their parts; a file stands for itself."""
    if source.is_file():
        return [("", source)] if source.suffix.lower() == ".json" and not _is_other(source) else []
    inside = [(part, file) for part, folder in part_folders(source) for file in _files_in(folder)]
    if inside:
        return inside
    found = _files_in(source) or [file for name in ("annotations", "labels") for file in _files_in(source / name)]
    return [(part_of(file.stem), file) for file in found]


def _files_in(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*.json")) if is_coco(file)] if folder.is_dir() else []


def is_coco(file: Path) -> bool:
    """Whether a file has the keys of COCO somewhere, without parsing it."""
    return mentions(file, *_KEYS[:2])


def _is_other(file: Path) -> bool:
    return is_labelme(file) or is_label_studio(file)


def read_coco(
    files: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read COCO files.

    Args:
        files: Part and path of each.
        images: Folder of the pictures; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    pictures: list[PictureBoxes] = []
    names: dict[str, None] = {}
    notes: list[str] = []
    for part, file in files:
        content = _content(file)
        listed = _by_id(file, "images", content["images"], problems)
        wanted = [str(one.get("file_name", "")) for one in listed.values()]
        place = choose_folder(images, beside(file.parent, part), wanted, str(file))
        categories = _categories(file, content["categories"], problems, notes)
        names |= dict.fromkeys(categories.values())
        objects = _objects(file, content["annotations"], listed, categories, problems, notes)
        pictures += _pictures(file, listed, objects, place, part, problems)
    return Annotations("COCO", str(files[0][1]), tuple(pictures), tuple(names), tuple(notes))


def _content(file: Path) -> dict[str, list[Any]]:
    content = read_json(file, "COCO", _LARGEST)
    wrong = [key for key in _KEYS if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if wrong:
        kind = "a list" if isinstance(content, list) else "a mapping"
        raise DataError(
            f"Expected a COCO file with the lists images, annotations and categories. Received: {file}, {kind} without "
            f"{' and '.join(wrong)}. Export the data as COCO for object detection."
        )
    return content


def _by_id(file: Path, what: str, entries: Sequence[Any], problems: list[str]) -> dict[Any, dict[str, Any]]:
    """Return entries by id; an id that is used twice is a problem, since annotations could mean either."""
    found: dict[Any, dict[str, Any]] = {}
    for at, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), (int, str)):
            problems.append(f"{file}: {what}[{at}] has no id")
        elif entry["id"] in found:
            problems.append(f"{file}: {what}[{at}] has the id {entry['id']!r}, which an earlier one has too")
        else:
            found[entry["id"]] = entry
    return found


def _categories(file: Path, entries: Sequence[Any], problems: list[str], notes: list[str]) -> dict[Any, str]:
    found = _by_id(file, "categories", entries, problems)
    named = {id_: str(one.get("name") or "") for id_, one in found.items()}
    problems += [f"{file}: the category {id_!r} has no name" for id_, name in named.items() if not name.strip()]
    twice = sorted({name for name in named.values() if list(named.values()).count(name) > 1})
    notes += [f"{file} has several categories {name!r}, which count as one." for name in twice]
    return dict(sorted(named.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _objects(
    file: Path,
    entries: Sequence[Any],
    listed: dict[Any, Any],
    categories: dict[Any, str],
    problems: list[str],
    notes: list[str],
) -> dict[Any, list[BoxedObject]]:
    """Return the objects by the id of their picture."""
    found: dict[Any, list[BoxedObject]] = defaultdict(list)
    ids: set[Any] = set()
    repeated = 0
    for at, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        place = f"{file}: annotations[{at}]" + (f" (id {entry['id']})" if "id" in entry else "")
        image, category, box = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
        numbers = isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))
        if not isinstance(image, (int, str)) or image not in listed:
            problems.append(f"{place} belongs to the picture {_shown(image)}, which images does not list")
        elif not isinstance(category, (int, str)) or category not in categories:
            hint = did_you_mean(str(category), map(str, categories))
            problems.append(f"{place} has the category {_shown(category)}, which categories does not list.{hint}")
        elif not numbers:
            problems.append(
                f"{place} has the bbox {_shown(box)}. Expected [left, top, width, height], four numbers in pixels"
            )
        else:
            left, top, width, height = map(float, box or ())
            corners = (top, left, top + height, left + width)
            found[image].append(BoxedObject(corners, categories[category], place, bool(entry.get("iscrowd"))))
            key = str(entry.get("id", at))
            repeated += key in ids
            ids.add(key)
    if repeated:
        notes.append(f"{file} gives {repeated} annotations an id that another one has; all of them count.")
    return found


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _pictures(
    file: Path,
    listed: dict[Any, dict[str, Any]],
    objects: dict[Any, list[BoxedObject]],
    folder: PictureFolder,
    part: str,
    problems: list[str],
) -> list[PictureBoxes]:
    found = []
    for id_, entry in listed.items():
        place, name = f"{file}: the picture {id_!r}", entry.get("file_name")
        try:
            path = folder.find(name if isinstance(name, str) else "")
        except ValueError as error:
            problems.append(f"{place} has the file_name {_shown(name)}, which {error}")
            continue
        sides = {side: int(entry[side]) if _is_finite(entry.get(side)) else 0 for side in ("height", "width")}
        found.append(PictureBoxes.of(path, place, objects[id_], part=part, **sides))
    return found
