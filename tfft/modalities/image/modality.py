"""Images as one of the kinds of data: :data:`IMAGE`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfft.errors import DataError
from tfft.registry import FeatureLevel, Modality

if TYPE_CHECKING:
    import pathlib

    import keras
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.inspection.findings import DataReport, Finding
    from tfft.models import ModelInput
    from tfft.specs import InputSpec


class ImageModality(Modality):
    """Pictures: files of JPEG, PNG, GIF, BMP or WebP, or arrays of pixels."""

    name = "image"
    item = "image"
    items = "images"
    columns = ("image",)

    # --- checks

    def check_source(self, source: Any, columns: Mapping[str, Any], **options: Any) -> DataReport | None:
        """Looks at a folder in whatever state it is; tables are loaded first."""
        from tfft.modalities.image.folder_check import check_folder

        if columns:
            return None
        if not isinstance(source, (str, os.PathLike)):
            raise DataError("check looks at files and texts, and these are arrays.")
        return check_folder(source, **options)

    def findings(self, splits: Any, *, notes: list[str]) -> Iterator[Finding]:
        """Yields findings about files, classes, copies and the two parts."""
        from tfft.modalities.image.checks import split_findings

        return split_findings(splits, notes)

    def preview(
        self, examples: Any, image: InputSpec, *, augment: Any, rows: int, columns: int, seed: int
    ) -> tuple[bytes, int, int]:
        """Draws images, and views of them."""
        from tfft.modalities.image.preview import as_png, preview

        grid = preview(examples, image, augment=augment, rows=rows, columns=columns, seed=seed)
        return as_png(grid), grid.shape[0], grid.shape[1]

    def thumbnail(self, path: str) -> bytes | None:
        """Returns a small picture of an image file."""
        from tfft.modalities.image.preview import thumbnail

        return thumbnail(path)

    # --- model

    def why_not(self, backbone: Backbone) -> str | None:
        """Returns why a backbone takes no images."""
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
        """Puts an input of pixels and their preprocessing in front of a network."""
        from tfft.modalities.image.attach import attach_images

        return attach_images(backbone, network, image_size)

    # --- serving

    def serving(self, model: keras.Model, inputs: Mapping[str, tf.TensorSpec], **options: Any) -> ServingInput | None:
        """Returns how a model takes arrays of pixels and image files."""
        from tfft.modalities.image.serving import image_input

        return image_input(model, inputs, options.get("input_spec"))

    def served(self, signatures: Mapping[str, Any], assets: pathlib.Path) -> ServingInput | None:
        """Returns how an exported model takes image files."""
        from tfft.modalities.image.serving import served_images

        return served_images(signatures)

    def read_items(self, items: Sequence[Any], spec: Any) -> Iterator[RequestItem]:
        """Yields the contents of image files."""
        from tfft.modalities.image.serving import read_files

        return read_files(items)

    def request_noun(self, spec: Any) -> str:
        """Returns "image files"."""
        return "image files"


IMAGE = ImageModality()
