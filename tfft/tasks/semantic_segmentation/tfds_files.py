"""Masks of TensorFlow Datasets as files: :func:`masks_of_dataset`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfft.data.tfds.export import file_ending
from tfft.data.tfds.features import leaves, only_feature
from tfft.data.tfds.file_names import safe_name
from tfft.data.tfds.task_files import TaskFiles, TaskWriter

_PARTS = {"train": "train", "validation": "val", "test": "test"}
_WORDS = ("mask", "segment")  # in the names of features with masks


def masks_of_dataset(info: Any, settings: Mapping[str, Any]) -> TaskFiles:
    """Find the images and the masks of a dataset.

    Masks are a ``LabeledImage``, or an ``Image`` of one channel with "mask" or "segment" in its name.

    Args:
        info: ``builder.info``.
        settings: ``image`` and ``label``, names of the features with the images and the masks, if there are several.

    Raises:
        DataError: If there are none, or several and no choice among them; the message lists all features.
    """
    import tensorflow_datasets as tfds

    known = {"/".join(path): feature for path, feature in sorted(leaves(info.features), key=lambda leaf: leaf[0])}
    images = [name for name, one in known.items() if isinstance(one, tfds.features.Image)]
    labelled = [name for name in images if isinstance(known[name], tfds.features.LabeledImage)]
    named = [name for name in images if known[name].shape[-1] == 1 and any(word in name.lower() for word in _WORDS)]
    label = only_feature(info, known, labelled or named, "label", settings.get("label"), "masks", images)
    pictures = [name for name in images if name not in (label, *labelled, *named)]
    image = only_feature(info, known, pictures, "image", settings.get("image"), "images", images)
    classes = tuple(getattr(known[label], "names", None) or ())
    make = functools.partial(_MaskWriter, image=image, label=label, classes=classes)
    return TaskFiles((image, label), (image, label), classes, make)


class _MaskWriter(TaskWriter):
    """Writes images and masks of the same names, and the class names."""

    def __init__(self, folder: Path, *, image: str, label: str, classes: tuple[str, ...]) -> None:
        self._folder, self._names, self._classes = folder, (image, label), classes

    def add(self, part: str, name: str, values: Mapping[str, Any]) -> str | None:
        """Write the image and its mask, both as stored."""
        for kind, feature in zip(("images", "masks"), self._names, strict=True):
            data = values[feature]
            if not data:
                return f"has no {feature}"
            place = self._folder / _PARTS[part] / kind
            place.mkdir(parents=True, exist_ok=True)
            (place / (safe_name(name) + file_ending(data, ".png"))).write_bytes(data)
        return None

    def close(self) -> None:
        """Write the class names, in the order of the values in the masks."""
        if self._classes:
            (self._folder / "classes.txt").write_text("\n".join(self._classes) + "\n", encoding="utf-8")
