"""Pascal VOC files: :func:`find_voc`, :func:`read_voc`.

Implementation notes: VOC counts pixels from 1 and includes the last one, so the left edge of a box is ``xmin - 1`` and
its right edge ``xmax``. A 0 anywhere shows that the tool counted from 0; then no file is shifted. VOC's own evaluation
counts a ``difficult`` object neither as found nor as missed (Everingham et al., "The Pascal visual object classes
challenge", 2010), which is what a crowd region means here. Hostile XML is refused as in
:mod:`tfft.tasks.object_detection.source_files`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from tfft.errors import quantity
from tfft.tasks.object_detection.annotations import Annotations, BoxedObject, PictureBoxes
from tfft.tasks.object_detection.cvat import is_cvat
from tfft.tasks.object_detection.picture_folder import (
    PictureFolder,
    beside,
    choose_folder,
    images_in,
    part_folders,
    part_of,
)
from tfft.tasks.object_detection.source_files import number, read_xml

LOOKED_FOR = "Pascal VOC: .xml files in Annotations/ beside JPEGImages/ or images/, or beside the images"
_LARGEST = 10_000_000  # bytes of a file
_LISTS = ("train", "val", "valid", "validation", "test")
_SIDES = ("ymin", "xmin", "ymax", "xmax")


def find_voc(source: Path) -> list[tuple[str, Path]]:
    """Return the folders of a folder that hold ``.xml`` files, with their parts; a list of images as it is."""
    if source.is_file():
        root = _root_of(source)
        return [("", source)] if root is not None and find_voc(root) else []
    if not source.is_dir():
        return []
    parts = [(part, folder) for part, folder in part_folders(source) if _files_in(folder)]
    if parts:
        return parts
    inner = [entry for entry in sorted(source.iterdir()) if entry.name.lower() in ("annotations", "xml", "labels")]
    return [("", folder) for folder in (*inner, source) if folder.is_dir() and _files_in(folder)][:1]


def _files_in(folder: Path) -> list[Path]:
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".xml" and file.name[:1] != ".")
    return [] if found and is_cvat(found[0]) else found


def read_voc(
    folders: Sequence[tuple[str, Path]], images: str | os.PathLike[str] | None, problems: list[str]
) -> Annotations:
    """Read folders of VOC files.

    Args:
        folders: Part and path of each; or the list of some images, ``ImageSets/Main/test.txt``.
        images: Folder of the images; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
    """
    pictures: list[PictureBoxes] = []
    notes: list[str] = []
    source, chosen = folders[0][1], None
    if (root := _root_of(source)) is not None:
        folders, chosen = find_voc(root), _listed(source)
    for part, folder in folders:
        files = [file for file in _files_in(folder) if chosen is None or file.stem in chosen]
        trees = [(file, tree) for file in files if (tree := _tree(file, problems)) is not None]
        names = [_image_name(file, tree) for file, tree in trees]
        place = choose_folder(images, beside(folder, part), names, str(folder))
        listed = (
            _listed_parts(folder.parent, {file.stem for file, _ in trees}, problems) if not part and not chosen else {}
        )
        for (file, tree), name in zip(trees, names, strict=True):
            own = listed.get(file.stem, "unlisted") if listed else part
            if (picture := _picture(file, tree, name, place, own, problems)) is not None:
                pictures.append(picture)
        notes += _unannotated(place, pictures) if chosen is None else []
    if left := sum(one.part == "unlisted" for one in pictures):
        notes.append(f"{left} annotated images are in neither train.txt nor val.txt and are left out.")
    pictures = [one for one in pictures if one.part != "unlisted"]
    return Annotations("Pascal VOC", str(source), tuple(_from_zero(pictures, notes)), (), tuple(notes))


def _tree(file: Path, problems: list[str]) -> ElementTree.Element | None:
    return read_xml(file, "a VOC annotation", "annotation", _LARGEST, problems)


def _image_name(file: Path, tree: ElementTree.Element) -> str:
    """Return the name of an image; many tools copy ``filename`` from elsewhere, so an empty one is the file's own."""
    return (tree.findtext("filename") or "").strip() or file.stem


def _picture(
    file: Path, tree: ElementTree.Element, name: str, folder: PictureFolder, part: str, problems: list[str]
) -> PictureBoxes | None:
    try:
        path = folder.find(name)
    except ValueError as error:
        problems.append(f"{file} has the filename {name!r}, which {error}")
        return None
    objects = []
    for at, element in enumerate(tree.iterfind("object"), 1):
        place, box = f"{file}: object {at}", element.find("bndbox")
        texts = [box.findtext(side) if box is not None else None for side in _SIDES]
        sides = [number(text) for text in texts]
        name = (element.findtext("name") or "").strip("\r\n\t")
        if not all(map(math.isfinite, sides)):
            shown = ", ".join(f"{side} {text!r}" for side, text in zip(_SIDES, texts, strict=True))
            problems.append(f"{place} has the box {shown}. Expected four numbers in pixels in <bndbox>")
        elif not name.strip():
            problems.append(f"{place} has no <name>")
        else:
            top, left, bottom, right = sides
            crowd = (element.findtext("difficult") or "").strip() == "1"
            objects.append(BoxedObject((top, left, bottom, right), name, place, crowd))
    size = [number(tree.findtext(f"size/{side}")) for side in ("height", "width")]
    height, width = (int(side) if math.isfinite(side) else 0 for side in size)
    return PictureBoxes.of(path, str(file), objects, height=height, width=width, part=part)


def _from_zero(pictures: Sequence[PictureBoxes], notes: list[str]) -> Sequence[PictureBoxes]:
    """Shift boxes so that they count from 0, unless they do."""
    corners = [one for one in pictures if len(one)]
    if any((one.boxes[:, :2] == 0).any() for one in corners):
        notes.append("Boxes begin at 0, so pixels are counted from 0 here and not from 1 as in VOC.")
        return pictures
    if corners and all(one.boxes.max() <= 1 for one in corners):  # in shares, which is reported with the image
        return pictures
    for one in corners:
        one.boxes[:, :2] -= 1
    return pictures


def test_list(source: Path) -> Path | None:
    """Return the list of the test images of a VOC folder; None without."""
    places = (source / "ImageSets" / "Main", source / "ImageSets")
    return next((folder / "test.txt" for folder in places if (folder / "test.txt").is_file()), None)


def _root_of(file: Path) -> Path | None:
    """Return the VOC folder of a list of its images, such as ``ImageSets/Main/test.txt``; None for other files."""
    if file.suffix.lower() != ".txt" or not file.is_file():
        return None
    return next((folder.parent for folder in file.parents[:2] if folder.name == "ImageSets"), None)


def _listed(file: Path) -> set[str]:
    """Return the names in a list of images, with and without suffix."""
    names = [Path(line.strip()).name for line in file.read_text("utf-8-sig", "replace").splitlines() if line.strip()]
    return {each for name in names for each in (name, os.path.splitext(name)[0])}


def _listed_parts(root: Path, stems: set[str], problems: list[str]) -> dict[str, str]:
    """Return the part of each image in ``ImageSets/Main/train.txt`` and ``val.txt``; empty without both lists."""
    folder = next((f for f in (root / "ImageSets" / "Main", root / "ImageSets") if f.is_dir()), root)
    files = {part_of(file.stem): file for file in sorted(folder.glob("*.txt")) if file.stem.lower() in _LISTS}
    if not {"train", "validation"} <= set(files):
        return {}
    found: dict[str, str] = {}
    for part, file in files.items():
        for line, text in enumerate(file.read_text("utf-8-sig", "replace").splitlines(), 1):
            if not text.strip():
                continue
            stem = Path(text.strip()).name
            stem = stem if stem in stems else os.path.splitext(stem)[0]
            if stem not in stems:
                problems.append(f"{file}:{line} names {text.strip()!r}, which has no .xml file")
            elif found.get(stem, part) != part:
                problems.append(f"{file}:{line} names {stem!r}, which is in {found[stem]} too")
            found[stem] = part
    return found


def _unannotated(folder: PictureFolder, pictures: Sequence[PictureBoxes]) -> list[str]:
    known = {os.path.realpath(one.path) for one in pictures}
    left = [path for path in images_in(folder.folder) if os.path.realpath(path) not in known]
    if not left:
        return []
    return [
        f"Without an .xml file and left out: {quantity(len(left), 'image')} in {folder.folder}, such as "
        f"{os.path.basename(left[0])}. VOC has a file without objects for an image without objects."
    ]
