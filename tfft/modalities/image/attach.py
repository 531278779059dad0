"""Image input for a backbone, with preprocessing of pixels of any size."""

from __future__ import annotations

import dataclasses

import keras

from tfft.backbones.base import PREPROCESS_LAYER, Backbone
from tfft.errors import BackboneError
from tfft.layers.preprocess import Preprocess, check_spec
from tfft.models import ModelInput
from tfft.specs import InputSpec

IMAGE_INPUT = "image"


def attach_images(
    backbone: Backbone, network: keras.Model, image_size: int | tuple[int, int] | None = None
) -> ModelInput:
    """Build the input of a model: pixels, their preprocessing and a network.

    Args:
        backbone: Backbone with an ``input_spec``.
        network: Model of the backbone.
        image_size: Height and width, or one number for both. Defaults to the backbone's usual size.

    Raises:
        BackboneError: If the size does not fit.
    """
    spec = spec_of(backbone, image_size)
    inputs = keras.Input((None, None, spec.channels), dtype="uint8", name=IMAGE_INPUT)
    pixels = Preprocess(spec, name=PREPROCESS_LAYER)(inputs)
    return ModelInput(inputs, features_of(backbone, network, pixels, spec))


def spec_of(backbone: Backbone, image_size: int | tuple[int, int] | None = None) -> InputSpec:
    """Return the input spec of a backbone, with another size if given.

    Raises:
        BackboneError: If it takes no images, or not this size.
    """
    spec = backbone.input_spec
    if spec is None:
        raise BackboneError(f"{backbone.name} does not take images.")
    if image_size is not None:
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(size) != 2:
            raise BackboneError(f"Expected image_size as one number or (height, width). Received: {image_size!r}.")
        if size != spec.image_size and not spec.flexible:
            raise BackboneError(
                f"{backbone.name} expects images of {spec.height} x {spec.width} pixels. Received: "
                f"image_size={image_size!r}. Leave image_size out: images of any size are resized."
            )
        spec = dataclasses.replace(spec, height=size[0], width=size[1])
    check_spec(spec)
    return spec


def features_of(
    backbone: Backbone, network: keras.Model, pixels: keras.KerasTensor, spec: InputSpec
) -> keras.KerasTensor:
    """Return the features of preprocessed pixels.

    Raises:
        BackboneError: If the network takes pixels of another shape.
    """
    inputs = keras.tree.flatten(network.input)
    if len(inputs) != 1:
        raise BackboneError(f"{backbone.name} has {len(inputs)} inputs. Expected one for images. Set input_spec=None.")
    wanted = tuple(inputs[0].shape[1:])
    received = tuple(pixels.shape[1:])
    if len(wanted) != 3 or any(w is not None and w != r for w, r in zip(wanted, received, strict=True)):
        raise BackboneError(
            f"The input of {backbone.name} has the shape {wanted} (rows, columns, channels), but images are made "
            f"{received}: {spec.source}. Pass the size that it takes as image_size to tfft.load_backbone."
        )
    try:
        return network(keras.tree.pack_sequence_as(network.input, [pixels]))
    except (ValueError, TypeError) as error:
        raise BackboneError(
            f"{backbone.name} cannot take images of {spec.height} x {spec.width} x {spec.channels}: {error}"
        ) from error
