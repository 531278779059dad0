"""Reader of images with boxes: :data:`BOXED_IMAGES`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.modalities.image.modality import ImageModality
from tfft.registry import Match

if TYPE_CHECKING:
    import numpy as np

    from tfft.backbones.base import Backbone
    from tfft.data.tfds.task_files import TaskFiles
    from tfft.inspection.findings import DataReport, Finding
    from tfft.specs import InputSpec
    from tfft.tasks.object_detection.data import BoxedImages

_COLUMNS = ("image", "label", "encoding", "delimiter", "decimal")
_SETTINGS = frozenset({*_COLUMNS, "images", "group", "task", "validation", "seed", "strict", "store", "progress"})
_READING = ("images", "strict", "store", "progress", *_COLUMNS)


class BoxedPictures(ImageModality):
    """Images with a box and a class for each object."""

    item = "image"
    items = "images with boxes"
    # The moves of "rand" are not known to the boxes.
    augmentations: ClassVar[tuple[str, ...]] = ("flip", "crop", "colour", "mosaic", "mixup")

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Accept any source, since it is used only if the task is named."""
        return Match("images with boxes", _load, _SETTINGS, 3, has_names=True)

    def own_format(self, source: Any) -> str | None:
        """Return the format of annotations, such as ``"Pascal VOC"``, if a path certainly holds some."""
        from tfft.tasks.object_detection.formats import guess_format

        return guess_format(source)

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> BoxedImages:
        """Read images with boxes for a model with known classes."""
        from tfft.tasks.object_detection.data import read_boxes

        return read_boxes(source, class_names, **{name: settings[name] for name in _READING if name in settings})

    def tfds_files(self, info: Any, settings: Mapping[str, Any]) -> TaskFiles:
        """Return how images and boxes of TensorFlow Datasets become files."""
        from tfft.tasks.object_detection.tfds_files import boxes_of

        return boxes_of(info, settings)

    def is_split(self, source: Any) -> bool:
        """Whether annotations mark a training part and a validation part."""
        from tfft.tasks.object_detection.formats import is_split

        return is_split(source)

    def check_source(self, source: Any, columns: Mapping[str, Any], **options: Any) -> DataReport | None:
        """Return None: the boxes are read first."""
        return None

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about files, boxes, classes, duplicates and the splits."""
        from tfft.tasks.object_detection.checks import box_findings

        return box_findings(splits, notes)

    def notes(self, splits: Any, backbone: Backbone) -> Iterator[str]:
        """Yield a warning if objects are smaller than a cell of the features, or too many for one answer."""
        from tfft.tasks.object_detection.box_report import crowded_images, small_objects

        if crowded := crowded_images(splits.train.labels):
            yield crowded
        if backbone.input_spec is not None and (
            small := small_objects(splits.train.labels, splits.class_names, backbone.input_spec.image_size)
        ):
            yield small

    def preview_grid(self, examples: Any, image: InputSpec, **options: Any) -> np.ndarray:
        """Return a grid of images and their views, with the boxes in each."""
        from tfft.tasks.object_detection.preview import preview_boxes

        return preview_boxes(examples, image, **options)


def _load(source: Any, *, task: str = "", **settings: Any) -> Any:
    from tfft.modalities.image.arrays import refuse_arrays
    from tfft.tasks.object_detection.data import load_boxes

    refuse_arrays(source, "a folder or file with annotations")
    return load_boxes(_parts(source), **settings)


def _parts(source: Any) -> Any:
    """Return a pair of paths as the training and the validation part."""
    pair = isinstance(source, (tuple, list)) and len(source) == 2
    if pair and all(isinstance(part, (str, os.PathLike)) for part in source):
        return {"train": Path(source[0]), "validation": Path(source[1])}
    return source


BOXED_IMAGES = BoxedPictures()
