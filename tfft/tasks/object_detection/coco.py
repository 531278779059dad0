"""COCO files: :func:`find_coco`, :func:`read_coco`.

Implementation notes: categories count by name, not by id, so ids may have holes, start at 1 or differ between the files
of a dataset. Of a polygon or a run-length mask only the ``bbox`` is read. Images without annotations are examples
without objects.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfft.errors import DataError, did_you_mean
from tfft.settings import is_number
from tfft.tasks.object_detection.annotations import Annotations, BoxedObject
from tfft.tasks.object_detection.label_studio import is_label_studio
from tfft.tasks.object_detection.labelme import is_labelme
from tfft.tasks.object_detection.listed_pictures import ListedPicture, PictureList, find_files, read_listed, shown
from tfft.tasks.object_detection.source_files import mentions, read_json

LOOKED_FOR = "COCO: a .json file with images, annotations and categories, also in annotations/, train/ and valid/"
_LARGEST = 500_000_000  # bytes; the json module takes about eight times as much memory
_KEYS = ("images", "annotations", "categories")


def find_coco(source: Path) -> list[tuple[str, Path]]:
    """Return the COCO files of a folder with their parts; a file is returned as is."""
    is_one = (lambda file: not _is_other(file)) if source.is_file() else is_coco
    return find_files(source, ".json", is_one, inner=("annotations", "labels"))


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
        images: Folder of the images; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    return read_listed("COCO", "file_name", files, images, problems, _read)


def _read(file: Path, problems: list[str]) -> PictureList:
    content, notes = _content(file), list[str]()
    listed = _by_id(file, "images", content["images"], problems)
    categories = _categories(file, content["categories"], problems, notes)
    objects = _objects(file, content["annotations"], listed, categories, problems, notes)
    pictures = [_picture(file, id_, entry, objects[id_]) for id_, entry in listed.items()]
    return PictureList(pictures, tuple(categories.values()), notes)


def _picture(file: Path, id_: Any, entry: dict[str, Any], objects: Sequence[BoxedObject]) -> ListedPicture:
    name = entry.get("file_name")
    height, width = (int(entry[side]) if is_number(entry.get(side)) else 0 for side in ("height", "width"))
    place = f"{file}: the image {id_!r}"
    return ListedPicture(name if isinstance(name, str) else "", place, objects, height, width)


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
    """Return the objects by the id of their image."""
    found: dict[Any, list[BoxedObject]] = defaultdict(list)
    ids: set[Any] = set()
    repeated = 0
    for at, entry in enumerate(entries):
        entry = entry if isinstance(entry, dict) else {}
        place = f"{file}: annotations[{at}]" + (f" (id {entry['id']})" if "id" in entry else "")
        image, category, box = (entry.get(key) for key in ("image_id", "category_id", "bbox"))
        numbers = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
        if not isinstance(image, (int, str)) or image not in listed:
            problems.append(f"{place} refers to the image {shown(image)}, which is not in 'images'")
        elif not isinstance(category, (int, str)) or category not in categories:
            hint = did_you_mean(str(category), map(str, categories))
            problems.append(f"{place} has the category {shown(category)}, which is not in 'categories'.{hint}")
        elif not numbers:
            problems.append(
                f"{place} has the bbox {shown(box)}. Expected [left, top, width, height], four numbers in pixels"
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
