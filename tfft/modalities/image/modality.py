"""Images as one of the kinds of data: :data:`IMAGE`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tfft.registry import FeatureLevel, Modality

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone
    from tfft.models import ModelInput


class ImageModality(Modality):
    """Pictures: files of JPEG, PNG, GIF, BMP or WebP, or arrays of pixels."""

    name = "image"
    item = "image"
    items = "images"
    columns = ("image",)

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


IMAGE = ImageModality()
