"""Reader of images with masks: :data:`MASKED_PICTURES`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.errors import quantity
from tfft.modalities.image.modality import ImageModality
from tfft.registry import Match

if TYPE_CHECKING:
    import numpy as np

    from tfft.data.tfds.task_files import TaskFiles
    from tfft.inspection.findings import DataReport, Finding
    from tfft.specs import InputSpec
    from tfft.tasks.semantic_segmentation.data import MaskedImages

_OWN = frozenset({"masks", "ignore", "task"})
_RARE, _FEW = 0.001, 5  # share of the labelled pixels, and images, below which a class is hardly learned


class MaskedPictures(ImageModality):
    """Images with one class per pixel."""

    items = "images with masks"
    # The moves of "rand" are not known to the masks, and a pixel of "mixup" would have two classes.
    augmentations: ClassVar[tuple[str, ...]] = ("flip", "crop", "colour", "mosaic", "cutmix")

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Accept any source, since it is used only if the task is named."""
        from tfft.data.options import ReadOptions, setting_names
        from tfft.data.split import SplitOptions

        names = setting_names(SplitOptions, ReadOptions) | _OWN
        return Match("images with masks", _load, names, 3, has_names=True)

    def own_format(self, source: Any) -> str | None:
        """Return ``"mask"`` if a folder has images and PNG masks with their names."""
        from tfft.tasks.semantic_segmentation.folders import has_masks

        return "mask" if isinstance(source, (str, os.PathLike)) and has_masks(Path(source)) else None

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> MaskedImages:
        """Read a folder of images with masks."""
        from tfft.tasks.semantic_segmentation.data import read_masks

        known = {name: value for name, value in settings.items() if name in ("masks", "ignore", "store")}
        return read_masks(source, class_names, **known)

    def tfds_files(self, info: Any, settings: Mapping[str, Any]) -> TaskFiles:
        """Return how images and masks of TensorFlow Datasets become files."""
        from tfft.tasks.semantic_segmentation.tfds_files import masks_of_dataset

        return masks_of_dataset(info, settings)

    def is_split(self, source: Any) -> bool:
        """Whether a folder has parts for training and validation."""
        from tfft.tasks.semantic_segmentation.folders import is_split

        return is_split(Path(source))

    def check_source(self, source: Any, columns: Mapping[str, Any], **options: Any) -> DataReport | None:
        """Return None: the masks are read first."""
        return None

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about files, duplicates, the splits, and classes that few training pixels or images show."""
        from tfft.inspection.findings import Finding, Item

        yield from super().findings(splits, notes=notes)
        pixels, counts = splits.train.pixels, splits.train.counts
        few = tuple(
            Item(name, f"has {share:.2%} of the labelled pixels, in {quantity(int(counts[name]), 'image')}")
            for name, share in zip(splits.class_names, (pixels / pixels.sum()).tolist(), strict=True)
            if share < _RARE or counts[name] < _FEW
        )
        if few:
            message = f"rare in the training masks: {quantity(len(few), 'class')}"
            yield Finding("few", "warning", message, "add images of them, or leave them out with ignore=", few)

    def preview_grid(self, examples: Any, image: InputSpec, **options: Any) -> np.ndarray:
        """Return a grid of images and their views, with the masks over them."""
        from tfft.tasks.semantic_segmentation.drawing import preview

        return preview(examples, image, **options)


def _load(source: Any, *, task: str = "semantic_segmentation", **settings: Any) -> Any:
    from tfft.modalities.image.arrays import refuse_arrays
    from tfft.tasks.semantic_segmentation.data import load_masks

    refuse_arrays(source, "a folder of images and masks")
    return load_masks(source, **settings)


MASKED_PICTURES = MaskedPictures()
