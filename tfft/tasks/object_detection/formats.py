"""Recognition of annotation formats: :func:`recognize`, :func:`read_annotations`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tfft.data.class_folders import existing
from tfft.errors import DataError, join_names, raise_problems
from tfft.tasks.object_detection import box_table, coco, cvat, label_studio, labelme, voc, yolo
from tfft.tasks.object_detection.annotations import Annotations, PictureBoxes

SHOWN = 50  # problems in one message


@dataclasses.dataclass(frozen=True)
class Recognized:
    """Annotations of one format.

    Attributes:
        form: Name of the format.
        files: Parts, and the files or folders with their annotations.
        read: Function of files, image folder, list of problems and settings that returns :class:`Annotations`.
    """

    form: str
    files: tuple[tuple[str, Any], ...]
    read: Callable[..., Annotations]


_FORMATS: Mapping[str, tuple[Callable[[Path], list[tuple[str, Any]]], Callable[..., Annotations], str]] = {
    "COCO": (coco.find_coco, coco.read_coco, coco.LOOKED_FOR),
    "Pascal VOC": (voc.find_voc, voc.read_voc, voc.LOOKED_FOR),
    "YOLO": (yolo.find_yolo, yolo.read_yolo, yolo.LOOKED_FOR),
    "LabelMe": (labelme.find_labelme, labelme.read_labelme, labelme.LOOKED_FOR),
    "CVAT": (cvat.find_cvat, cvat.read_cvat, cvat.LOOKED_FOR),
    "Label Studio": (label_studio.find_label_studio, label_studio.read_label_studio, label_studio.LOOKED_FOR),
    "a table of boxes": (box_table.find_box_table, box_table.read_box_table, box_table.LOOKED_FOR),
}


def recognize(source: Any) -> Recognized:
    """Return the format of annotations.

    Args:
        source: File, folder, or pandas DataFrame.

    Raises:
        DataError: If there is no format that tfft knows, or more than one.
    """
    if not isinstance(source, (str, os.PathLike)):
        if hasattr(source, "itertuples"):
            return Recognized("a table of boxes", (("", source),), box_table.read_box_table)
        raise DataError(f"Expected a folder or file with annotations. Received: {type(source).__name__}.")
    path = Path(source).expanduser()
    if not path.is_file():
        existing(path)
    found = {form: files for form, (find, _, _) in _FORMATS.items() if (files := find(path))}
    if len(found) > 1:
        each = join_names(f"{form} ({files[0][1]})" for form, files in found.items())
        raise DataError(
            f"Expected annotations in one format. Received: {path} with {each}. Give one of them as the data."
        )
    for form, files in found.items():
        if len({part for part, _ in files}) < len(files):
            raise DataError(
                f"Expected one annotation file per part. Received: {join_names(str(file) for _, file in files)}. Give "
                "one of them as the data, or name them ..._train and ..._val."
            )
        return Recognized(form, tuple(files), _FORMATS[form][1])
    looked = "\n".join(f"  - {text}" for _, _, text in _FORMATS.values())
    raise DataError(
        f"Expected a folder or file with the boxes of images. Received: {path}, without any. Looked for:\n{looked}"
    )


def guess_format(source: Any) -> str | None:
    """Return the format of annotations if a path certainly holds some; None if not.

    Args:
        source: Any source of examples.
    """
    if not isinstance(source, (str, os.PathLike)) or not Path(source).expanduser().exists():
        return None
    path = Path(source).expanduser()
    known = {".json": (coco.is_coco, labelme.is_labelme, label_studio.is_label_studio), ".xml": (cvat.is_cvat,)}
    if path.is_file() and not any(fits(path) for fits in known.get(path.suffix.lower(), (box_table.has_boxes,))):
        return None
    try:
        return recognize(path).form
    except (DataError, OSError):
        return None


def is_split(source: Any) -> bool:
    """Whether annotations mark a training part and a validation part, without reading the images."""
    both = {"train", "validation"}
    try:
        if both <= {part for part, _ in recognize(source).files}:
            return True
        return both <= {one.part for one in read_annotations(source).pictures}
    except DataError:
        return False


def read_annotations(
    source: Any, images: str | os.PathLike[str] | None = None, settings: Mapping[str, Any] | None = None
) -> Annotations:
    """Read the boxes of all images.

    Args:
        source: As in :func:`recognize`; or ``{"train": source, "validation": source}``, or a pair of both.
        images: Folder of the images; None looks beside the annotations.
        settings: Settings of :func:`tfft.tasks.object_detection.box_table.read_box_table`, for tables only.

    Raises:
        DataError: If something cannot be used; the message lists everything with file and line or object.

    Example:
        >>> read_annotations("raccoon/").form
        'Pascal VOC'
    """
    if isinstance(source, (tuple, list)) and len(source) == 2:
        source = dict(zip(("train", "validation"), source, strict=True))
    if isinstance(source, Mapping):
        return _joined(source, images, settings)
    found = recognize(source)
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    if given and found.form != "a table of boxes":
        raise DataError(f"{join_names(given)} apply to a table of boxes. Received: {found.form}. Leave them out.")
    problems: list[str] = []
    annotations = found.read(found.files, images, problems, **given)
    problems += _twice(annotations.pictures)
    raise_faults(problems, annotations.source)
    return annotations


def raise_faults(problems: list[str], source: str) -> None:
    """Raise one error that lists all problems; do nothing if there are none."""
    raise_problems(DataError, f"The annotations in {source} cannot be used", problems, limit=SHOWN)


def _joined(source: Mapping[str, Any], images: Any, settings: Mapping[str, Any] | None) -> Annotations:
    if set(source) != {"train", "validation"}:
        raise DataError(f"Expected the sources 'train' and 'validation'. Received: {join_names(source)}.")
    parts = {part: read_annotations(one, images, settings) for part, one in source.items()}
    pictures = [dataclasses.replace(one, part=part) for part, own in parts.items() for one in own.pictures]
    raise_faults(_twice(pictures), parts["train"].source)
    names = dict.fromkeys(name for own in parts.values() for name in own.class_names)
    notes = [note for own in parts.values() for note in own.notes]
    return dataclasses.replace(
        parts["train"], pictures=tuple(pictures), class_names=tuple(names), notes=tuple(dict.fromkeys(notes))
    )


def _twice(pictures: Any) -> list[str]:
    """Return a problem for each image that is annotated more than once."""
    first: dict[str, PictureBoxes] = {}
    problems = []
    for one in pictures:
        real = os.path.realpath(one.path)
        if real in first:
            problems.append(f"{one.place} annotates {one.path}, which {first[real].place} annotates too: join the two")
        first.setdefault(real, one)
    return problems
