"""YOLO folders: :func:`find_yolo`, :func:`read_yolo`.

Implementation notes: each image has a ``.txt`` file of its name, in ``labels/`` where the image is in ``images/``
or beside it. A line has ``class centre-x centre-y width height`` of an object in shares of the image. A longer
line is a polygon, of which the box is used. An image without a file, or with an empty one, is an example without
objects. Folders in ``data.yaml`` are looked for below it only, whatever the file says.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tfft.errors import DataError, join_names
from tfft.tasks.object_detection.annotations import Annotations, BoxedObject, PictureBoxes
from tfft.tasks.object_detection.picture_folder import PictureFolder, images_in, part_folders
from tfft.tasks.object_detection.source_files import number

LOOKED_FOR = "YOLO: data.yaml, or labels/ with .txt files beside images/"
_KEYS = {"train": "train", "val": "validation", "test": "test"}
_NAMES = ("classes.txt", "obj.names", "names.txt", "_darknet.labels")
_CLASSES = 100_000  # at most
_TRIED = 20  # text files by which a folder is recognized
_LINE = "Expected: class centre-x centre-y width height"


def find_yolo(source: Path) -> list[tuple[str, Path]]:
    """Return the description of a folder (``data.yaml``), or the folder itself if it has labels without one."""
    if source.is_file():
        return [("", source)] if source.suffix.lower() in (".yaml", ".yml") else []
    described = [file for pattern in ("*.yaml", "*.yml") for file in sorted(source.glob(pattern)) if _describes(file)]
    if described:
        return [("", described[0])]
    folders = [source, *(folder for _, folder in part_folders(source))]
    is_yolo = any(_has_lines(folder / "labels") or _has_lines(folder) for folder in folders)
    return [("", source)] if is_yolo or _has_lines(source / "labels" / "train") else []


def _describes(file: Path) -> bool:
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and "names" in content and "train" in content


def _has_lines(folder: Path) -> bool:
    """Whether a folder has a text file that begins with the number of a class and four or more others."""
    files = sorted(folder.glob("*.txt"))[:_TRIED] if folder.is_dir() else ()
    return any(map(_is_labels, files))


def _is_labels(file: Path) -> bool:
    if file.name in _NAMES or not file.is_file():
        return False
    with open(file, encoding="utf-8-sig", errors="replace") as opened:
        fields = opened.readline(10_000).split()
    return len(fields) >= 5 and all(math.isfinite(number(field)) for field in fields)


def read_yolo(
    found: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read a YOLO folder.

    Args:
        found: Result of :func:`find_yolo`.
        images: Folder of the images; None for those that ``data.yaml`` names, or ``images/``.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    [(_, place)] = found
    described = _described(place) if place.is_file() else {}
    root = place.parent if place.is_file() else place
    names, notes = _class_names(root, described), list[str]()
    if not names:
        notes.append(f"{root} has neither data.yaml nor classes.txt, so the classes are called 0, 1, ...")
    pictures: list[PictureBoxes] = []
    used: set[str] = set()
    for part, folder, chosen in _images_of(root, described, images, problems):
        for path in chosen:
            try:
                path = folder.find(os.path.relpath(path, folder.folder))
            except ValueError as error:
                problems.append(f"{path} {error}")
                continue
            file = _labels_of(Path(path), root, folder.folder)
            used.add(os.path.abspath(file))
            objects = _objects(file, names, problems) if file.is_file() else []
            pictures.append(PictureBoxes.of(path, str(file), objects, part=part, normalized=True))
    if not pictures and not problems:
        raise DataError(
            f"{root} has no images. Expected them in images/ beside labels/. Name their folder: images='...'."
        )
    pictures += _without_image(used)
    return Annotations("YOLO", str(place), tuple(pictures), names or _numbers(pictures), tuple(notes))


def _described(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text("utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or "names" not in content:
        raise DataError(f"Expected a YOLO description with names, train and val. Received: {file} without names.")
    return content


def _class_names(root: Path, described: dict[str, Any]) -> tuple[str, ...]:
    names = described.get("names", _names_above(root))
    if isinstance(names, dict):
        numbers = range(max((key for key in names if isinstance(key, int)), default=-1) + 1)
        names = [names.get(number, number) for number in numbers] if len(numbers) <= _CLASSES else None
    if names is not None:
        # A text of lists that refer to lists can be longer than the memory, so only plain names become text.
        if not isinstance(names, list) or not all(isinstance(name, (str, int, float)) for name in names):
            raise DataError(f"Expected names in {root / 'data.yaml'} to be a list of class names, or one by number.")
        return tuple(map(str, names))
    files = [folder / name for folder in (root, root / "labels") for name in _NAMES]
    file = next((file for file in files if file.is_file()), None)
    return () if file is None else _lines(file)


def _names_above(root: Path) -> Any:
    """Return the names in the ``data.yaml`` beside a folder, whose part it may be, such as ``test/``; None without."""
    files = [file for pattern in ("*.yaml", "*.yml") for file in sorted(root.parent.glob(pattern)) if _describes(file)]
    return _described(files[0])["names"] if files and (root / "labels").is_dir() else None


def _lines(file: Path) -> tuple[str, ...]:
    return tuple(line.strip("\r") for line in file.read_text("utf-8-sig", "replace").rstrip().split("\n"))


def _numbers(pictures: Sequence[PictureBoxes]) -> tuple[str, ...]:
    return tuple(sorted({name for one in pictures for name in one.class_names}, key=int))


def _images_of(
    root: Path, described: dict[str, Any], images: str | os.PathLike[str] | None, problems: list[str]
) -> list[tuple[str, PictureFolder, list[str]]]:
    """Return part, folder and paths of the images."""
    top = PictureFolder(root if images is None else Path(images).expanduser())
    found: list[tuple[str, PictureFolder, list[str]]] = []
    for key, part in _KEYS.items():
        given = described.get(key)
        for entry in given if isinstance(given, list) else [given] if given else []:
            path, entry = (value if isinstance(value, str) else "" for value in (described.get("path"), entry))
            place = _below(top.folder, path, entry)
            if place is None:
                problems.append(
                    f"data.yaml: {key}: {entry!r} is not below {top.folder}. Write the folder as below data.yaml, or "
                    "name the folder of the images: images='...'"
                )
            elif place.is_dir():
                found.append((part, top, list(images_in(place))))
            else:
                found.append((part, top, [os.path.join(place.parent, line) for line in _lines(place) if line.strip()]))
    if found or problems:
        return found
    parts = part_folders(root) or part_folders(root / "images" if (root / "images").is_dir() else root)
    if images is None and parts:
        return [(part, top, list(images_in(folder))) for part, folder in parts]
    return [("", top, list(images_in(top.folder)))]


def _below(root: Path, path: str, entry: str) -> Path | None:
    """Return a folder or list that ``data.yaml`` names, if it lies below its own folder.

    Many tools write ``../train/images`` for what is ``train/images`` beside the file, and an absolute ``path`` of
    another machine; what is there without either is meant.
    """
    plain = [word for word in entry.replace("\\", "/").split("/") if word not in ("", ".")]
    inner = [word for word in plain if word != ".."]
    above = [word for word in path.replace("\\", "/").split("/") if word not in ("", ".", "..")]
    for words in ([*above, *inner], inner):
        place = root.joinpath(*words)
        real = os.path.realpath(place)
        top = os.path.realpath(root)
        if place.exists() and words and (real == top or real.startswith(top + os.sep)):
            return place
    return None


def _labels_of(path: Path, root: Path, pictures: Path) -> Path:
    """Return the file with the objects of an image: in ``labels/`` instead of ``images/``, else beside it."""
    words = list(path.parts)
    places = [at for at, word in enumerate(words[:-1]) if word.lower() == "images"]
    tries = [path.with_suffix(".txt")]
    if places:
        words[places[-1]] = "labels"
        tries.insert(0, Path(*words).with_suffix(".txt"))
    inner = path.relative_to(pictures) if path.is_relative_to(pictures) else Path(path.name)
    tries += [(place / inner).with_suffix(".txt") for place in (root / "labels", root)]
    return next((file for file in tries if file.is_file()), tries[0])


def _objects(file: Path, names: Sequence[str], problems: list[str]) -> list[BoxedObject]:
    found = []
    for line, text in enumerate(file.read_text("utf-8-sig", "replace").splitlines(), 1):
        place, fields = f"{file}:{line}", text.split()
        if not fields:
            continue
        numbers = [number(field) for field in fields]
        polygon = len(numbers) >= 7 and len(numbers) % 2 == 1
        if not all(map(math.isfinite, numbers)) or not (len(numbers) == 5 or polygon):
            problems.append(f"{place} has {text.strip()[:80]!r}. {_LINE}, five numbers")
        elif not numbers[0].is_integer() or numbers[0] < 0 or (names and numbers[0] >= len(names)):
            last = f"0 to {len(names) - 1} ({join_names(names, limit=5)})" if names else "a number from 0 on"
            problems.append(f"{place} has the class {fields[0]}. Expected {last}")
        elif max(numbers[1:]) > 2:
            problems.append(
                f"{place} is in pixels ({' '.join(fields[1:5])}). Expected shares of the image: divide x and width "
                "by its width, y and height by its height"
            )
        else:
            at = int(numbers[0])
            box = _of_polygon(numbers[1:]) if polygon else _of_centre(*numbers[1:])
            found.append(BoxedObject(box, names[at] if names else str(at), place))
    return found


def _of_centre(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return y - height / 2, x - width / 2, y + height / 2, x + width / 2


def _of_polygon(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    x, y = numbers[::2], numbers[1::2]
    return min(y), min(x), max(y), max(x)


def _without_image(used: set[str]) -> list[PictureBoxes]:
    """Return the label files to which no image belongs, as images that do not exist."""
    folders = sorted({Path(file).parent for file in used})
    files = [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.txt"))]
    lost = [file for file in files if os.path.abspath(file) not in used and _is_labels(file)]
    return [PictureBoxes.of(str(file.with_suffix("")), str(file), [], normalized=True) for file in lost]
