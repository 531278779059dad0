"""Annotation files that list images with their objects: :func:`find_files`, :func:`read_listed`.

COCO, CVAT, Label Studio and LabelMe share this: files are found in the folders of parts, a file gives
:class:`ListedPicture` by :class:`ListedPicture`, and the images are looked for beside it. A format adds how it is
recognized and what its entries mean.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tfft.tasks.object_detection.annotations import Annotations, BoxedObject, PictureBoxes
from tfft.tasks.object_detection.picture_folder import PictureFolder, beside, choose_folder, part_folders, part_of
from tfft.tasks.object_detection.source_files import parts_with

_SHOWN = 80  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class ListedPicture:
    """An image as an annotation file lists it.

    Attributes:
        name: Name or relative path of the image as written.
        place: Where the image is written, for messages.
        objects: Its objects, with boxes in pixels.
        height: Height of the image in pixels; 0 if the file does not say.
        width: Width in pixels; 0 if the file does not say.
        part: Part of the data that the file states for this image, if any.
        other_name: Name to look for if no image has the first one.
    """

    name: str
    place: str
    objects: Sequence[BoxedObject]
    height: int = 0
    width: int = 0
    part: str = ""
    other_name: str = ""

    def find(self, folder: PictureFolder) -> str:
        """Return the path of the image in a folder.

        Raises:
            ValueError: As :meth:`PictureFolder.find`.
        """
        path = folder.find(self.name)
        return path if not self.other_name or os.path.isfile(path) else folder.find(self.other_name)


@dataclasses.dataclass(frozen=True)
class PictureList:
    """What one annotation file says.

    Attributes:
        pictures: Its images.
        class_names: Classes that it declares, in its order.
        notes: Remarks about what is harmless, one sentence each.
    """

    pictures: Sequence[ListedPicture]
    class_names: Sequence[str] = ()
    notes: Sequence[str] = ()


def find_files(
    source: Path, suffix: str, is_one: Callable[[Path], bool], inner: Sequence[str] = ()
) -> list[tuple[str, Path]]:
    """Return the annotation files of a folder with their parts; a file is returned as is.

    Args:
        source: File or folder.
        suffix: Ending of the files, such as ``".json"``.
        is_one: Whether a file has the format.
        inner: Names of the folders to look in if there is no file in the folder itself.
    """
    if source.is_file():
        return [("", source)] if source.suffix.lower() == suffix and is_one(source) else []
    inside = [(part, file) for part, folder in part_folders(source) for file in parts_with(folder, is_one, suffix)]
    folders = (source, *(source / name for name in inner))
    found = next((files for folder in folders if (files := parts_with(folder, is_one, suffix))), [])
    return inside or [(part_of(file.stem), file) for file in found]


def read_listed(
    form: str,
    field: str,
    sources: Sequence[tuple[str, Path]],
    images: str | os.PathLike[str] | None,
    problems: list[str],
    read: Callable[[Path, list[str]], PictureList | None],
) -> Annotations:
    """Read annotation files, and find the images that they list.

    Args:
        form: Name of the format.
        field: What the format calls the name of an image, for messages.
        sources: Part and path of each file, or of each folder of files.
        images: Folder of the images; None looks beside the files.
        problems: List to which a sentence is added for everything that cannot be used.
        read: Function of a source and the list of problems; it returns None for a source that cannot be used.
    """
    pictures: list[PictureBoxes] = []
    names: dict[str, None] = {}
    notes: list[str] = []
    for part, source in sources:
        if (listed := read(source, problems)) is None:
            continue
        names |= dict.fromkeys(listed.class_names)
        notes += listed.notes
        wanted = [one.other_name or one.name for one in listed.pictures]
        wanted += [one.name for one in listed.pictures if one.other_name]
        place = source if source.is_dir() else source.parent
        folder = choose_folder(images, beside(place, part), wanted, str(source))
        for one in listed.pictures:
            try:
                path = one.find(folder)
            except ValueError as error:
                problems.append(f"{one.place} has the {field} {shown(one.name)}, which {error}")
                continue
            sides = {"height": one.height, "width": one.width}
            pictures.append(PictureBoxes.of(path, one.place, one.objects, part=part or one.part, **sides))
    return Annotations(form, str(sources[0][1]), tuple(pictures), tuple(names), tuple(notes))


def shown(value: object) -> str:
    """Return a value for a message, not longer than a line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
