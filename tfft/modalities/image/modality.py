"""Image modality: :data:`IMAGE`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tfft.registry import FeatureLevel, Match, Modality, PageInput, Parts

if TYPE_CHECKING:
    import keras
    import numpy as np
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.features.engines import Staged
    from tfft.features.sources import Source, Views
    from tfft.inspection.findings import DataReport, Finding
    from tfft.modalities.image.examples import ImageFiles
    from tfft.models import ModelInput
    from tfft.specs import InputSpec


class ImageModality(Modality):
    """Images: JPEG, PNG, GIF, BMP or WebP files, or arrays of pixels."""

    name = "image"
    item = "image"
    items = "images"
    default_backbone: ClassVar[str | None] = "efficientnet-lite0"
    columns = ("image",)
    augmentations: ClassVar[tuple[str, ...]] = ("flip", "crop", "rand", "colour")

    # --- data

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Recognize tables with a column of images, pairs of arrays, and any other path as a folder of images."""
        from tfft.data.options import ReadOptions, TableOptions, setting_names
        from tfft.data.split import SplitOptions
        from tfft.modalities.image.arrays import load_arrays
        from tfft.modalities.image.folder import load_images
        from tfft.modalities.image.table import load_image_table

        files = setting_names(SplitOptions, ReadOptions)
        if settings.get("image") is not None:
            columns = setting_names(TableOptions) | {"image"}
            return Match("a table of images", load_image_table, (files | columns) - {"check"}, 3, has_names=True)
        if isinstance(source, (str, os.PathLike)):  # the loader reports what it finds
            return Match("a folder of images", load_images, files, 1, has_names=True)
        pair = isinstance(source, (tuple, list)) and len(source) == 2 and hasattr(source[0], "__len__")
        if hasattr(source, "element_spec") or (
            pair and not isinstance(source[0], (str, bytes, os.PathLike)) and not hasattr(source[0], "element_spec")
        ):
            return Match("arrays", load_arrays, frozenset({"validation", "seed", "task"}), 1, joinable=True)
        return None

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> ImageFiles:
        """Load a labelled folder or table of image files."""
        from tfft.data.class_folders import split_folders
        from tfft.modalities.image.folder import list_images
        from tfft.modalities.image.table import read_image_table

        if "image" in settings:
            return read_image_table(source, class_names, **settings)
        folder = Path(source)
        place = split_folders(folder).get("train", folder) if folder.is_dir() else folder
        return list_images(place, least_classes=1, store=settings.get("store"))

    def is_split(self, source: Any) -> bool:
        """Whether a folder has ``train/`` and another part."""
        folder = Path(source)
        return folder.is_dir() and {"train"} < {path.name.lower() for path in folder.iterdir() if path.is_dir()}

    def array_source(self, values: Any, labels: Any, staged: Staged, batch_size: int, views: Views) -> Source | None:
        """Return augmented images for a model that starts with a Preprocess layer."""
        from tfft.modalities.image.examples import image_source

        return None if staged.spec is None else image_source(values, labels, staged, batch_size, views)

    # --- checks

    def check_source(self, source: Any, columns: Mapping[str, Any], **options: Any) -> DataReport | None:
        """Check a folder in any state; tables are loaded first."""
        from tfft.modalities.image.folder_check import check_folder

        if columns:
            return None
        if not isinstance(source, (str, os.PathLike)):
            return None  # arrays are loaded first
        return check_folder(source, **options)

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yield findings about files, classes, duplicates and the splits."""
        from tfft.modalities.image.checks import split_findings

        return split_findings(splits, notes)

    def preview(
        self, examples: Any, image: InputSpec, *, augment: Any, rows: int, columns: int, seed: int
    ) -> tuple[bytes, int, int]:
        """Draw a grid of images and their views."""
        from tfft.modalities.image.preview import as_png

        grid = self.preview_grid(examples, image, augment=augment, rows=rows, columns=columns, seed=seed)
        return as_png(grid), grid.shape[0], grid.shape[1]

    def preview_grid(self, examples: Any, image: InputSpec, **options: Any) -> np.ndarray:
        """Return the grid of :meth:`preview` as pixels, uint8 [height, width, 3]."""
        from tfft.modalities.image.preview import preview

        return preview(examples, image, **options)

    def thumbnail(self, path: str) -> bytes | None:
        """Return a thumbnail of an image file."""
        from tfft.modalities.image.preview import thumbnail

        return thumbnail(path)

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Return the reason why a backbone does not fit images; None if it does."""
        return None if backbone.input_spec is not None else f"{backbone.name} does not take images"

    def attach_input(
        self,
        backbone: Backbone,
        network: keras.Model,
        level: FeatureLevel = "pooled",
        *,
        image_size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> ModelInput:
        """Add an input of pixels and their preprocessing to a network."""
        from tfft.modalities.image.attach import attach_images

        return attach_images(backbone, network, image_size)

    def input_of(self, model: keras.Model) -> InputSpec | None:
        """Return the size and range of the images that a model takes."""
        from tfft.layers.preprocess import preprocess_of

        layer = preprocess_of(model)
        return None if layer is None else layer.spec

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Return the serving input for arrays of pixels and image files."""
        from tfft.modalities.image.serving import image_input

        return image_input(model, inputs, options.get("input_spec"))

    def served(self, signatures: Mapping[str, Any], assets: Path) -> ServingInput | None:
        """Return the serving input of an exported model for image files."""
        from tfft.modalities.image.serving import served_images

        return served_images(signatures)

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yield the contents of image files."""
        from tfft.modalities.image.serving import read_files

        return read_files(items)

    def parts(self, value: bytes, spec: Any) -> Parts:
        """Return the cells of a grid over the image."""
        from tfft.modalities.image.explained import image_parts

        return image_parts(value)

    def heatmap(self, model: keras.Model, value: bytes, column: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the image with its Grad-CAM map; None for a model without a feature map."""
        from tfft.modalities.image.explained import image_heatmap

        return image_heatmap(model, value, column)

    def page_inputs(self, spec: Any) -> tuple[PageInput, ...]:
        """Return a field for an image."""
        return (PageInput("image", "Image"),)

    def file_suffixes(self) -> tuple[str, ...]:
        """Return the endings of image files."""
        from tfft.modalities.image.folder import IMAGE_FILES

        return IMAGE_FILES.suffixes

    def request_noun(self, spec: Any) -> str:
        """Return ``"image files"``."""
        return "image files"


IMAGE = ImageModality()
