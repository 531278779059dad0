"""Boxes of TensorFlow Datasets as COCO files: :func:`boxes_of`."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfft.data.tfds.export import file_ending
from tfft.data.tfds.features import leaves, only_feature
from tfft.data.tfds.file_names import safe_name
from tfft.data.tfds.task_files import TaskFiles, TaskWriter

_PARTS = {"train": "train", "validation": "valid", "test": "test"}
_FILE = "_annotations.coco.json"
_NOT_COUNTED = ("is_crowd", "is_difficult")  # objects that are neither right nor wrong to find


def boxes_of(info: Any, settings: Mapping[str, Any]) -> TaskFiles:
    """Find the images and the boxes of a dataset.

    Args:
        info: ``builder.info``.
        settings: ``image`` and ``label``, names of the features with the images and the objects, if there are several.

    Raises:
        DataError: If there are none, or several and no choice among them; the message lists all features.
    """
    import tensorflow_datasets as tfds

    known = {"/".join(path): feature for path, feature in sorted(leaves(info.features), key=lambda leaf: leaf[0])}
    pictures = [name for name, one in known.items() if type(one) is tfds.features.Image]
    objects = {name: parts for name, one in known.items() if (parts := _parts_of(one)) is not None}
    image = only_feature(info, known, pictures, "image", settings.get("image"), "images")
    label = only_feature(info, known, list(objects), "label", settings.get("label"), "objects: {bbox, label}")
    _, kind = objects[label]
    classes = tuple(known[label].feature[kind].names)
    make = functools.partial(_CocoWriter, image=image, label=label, names=objects[label], classes=classes)
    return TaskFiles((image, label), (image,), classes, make)


def _parts_of(feature: Any) -> tuple[str, str] | None:
    """Return the names of the box and of the class in a sequence of objects; None for other features."""
    import tensorflow_datasets as tfds

    inner = getattr(feature, "feature", None)
    if not isinstance(feature, tfds.features.Sequence) or not isinstance(inner, tfds.features.FeaturesDict):
        return None
    boxes = [name for name, one in inner.items() if isinstance(one, tfds.features.BBoxFeature)]
    kinds = [name for name, one in inner.items() if isinstance(one, tfds.features.ClassLabel)]
    kinds = [name for name in kinds if name == "label"] or kinds  # beside poses and other attributes
    return (boxes[0], kinds[0]) if boxes and kinds else None


class _CocoWriter(TaskWriter):
    """Writes images, and one COCO file for each part."""

    def __init__(
        self, folder: Path, *, image: str, label: str, names: tuple[str, str], classes: tuple[str, ...]
    ) -> None:
        self._folder, self._image, self._label, self._names, self._classes = folder, image, label, names, classes
        self._parts: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {}

    def add(self, part: str, name: str, values: Mapping[str, Any]) -> str | None:
        """Write the image, and note its boxes."""
        from tfft.modalities.image.headers import picture_size

        data, objects = values[self._image], values[self._label]
        height, width = picture_size(data).numpy().tolist() if data else (0, 0)
        if not height * width:
            return "is not a readable image"
        images, annotations = self._parts.setdefault(part, ([], []))
        file = safe_name(name) + file_ending(data, ".png")
        place = self._folder / _PARTS[part]
        place.mkdir(exist_ok=True)
        (place / file).write_bytes(data)
        images.append({"id": len(images), "file_name": file, "height": int(height), "width": int(width)})
        box, kind = self._names
        boxes = np.asarray(objects[box], float).reshape(-1, 4) * [height, width, height, width]
        crowd = [objects[one] for one in _NOT_COUNTED if one in objects]
        for at, (top, left, bottom, right) in enumerate(boxes.tolist()):
            annotations.append({
                "id": len(annotations), "image_id": len(images) - 1, "category_id": int(objects[kind][at]),
                "bbox": [left, top, right - left, bottom - top], "iscrowd": int(any(one[at] for one in crowd)),
            })  # fmt: skip
        return None

    def close(self) -> None:
        """Write the annotations."""
        categories = [{"id": at, "name": name} for at, name in enumerate(self._classes)]
        for part, (images, boxes) in self._parts.items():
            content = {"images": images, "annotations": boxes, "categories": categories}
            (self._folder / _PARTS[part] / _FILE).write_text(json.dumps(content), encoding="utf-8")
