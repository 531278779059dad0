"""Images as one of the kinds of data: :data:`IMAGE`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfft.registry import FeatureLevel, Modality

if TYPE_CHECKING:
    import pathlib

    import keras
    import tensorflow as tf

    from tfft.backbones.base import Backbone
    from tfft.exporting.loader import ServingInput
    from tfft.exporting.prediction import RequestItem
    from tfft.models import ModelInput


class ImageModality(Modality):
    """Pictures: files of JPEG, PNG, GIF, BMP or WebP, or arrays of pixels."""

    name = "image"
    item = "image"
    items = "images"
    columns = ("image",)

    # --- checks

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
