"""Serving of image models with image files, and reading of files for prediction."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.exporting.loader import BYTES_SIGNATURE, EncodedInput, ServingInput
from tfft.exporting.prediction import RequestItem
from tfft.layers.preprocess import preprocess_of, scale_pixels
from tfft.modalities.image.decode import decode_image
from tfft.modalities.image.headers import picture_size
from tfft.specs import InputSpec

BYTES_INPUT = "image_bytes"
_SAMPLES = 3


def image_input(
    model: keras.Model, inputs: Mapping[str, tf.TensorSpec], given: InputSpec | None
) -> ServingInput | None:
    """Return the serving input for image files; None if the model's input is not one image.

    Args:
        model: Any Keras model.
        inputs: Inputs of the model by name.
        given: Input spec for a model that tfft did not build.
    """
    [(name, tensor), *others] = inputs.items()
    preprocess = preprocess_of(model)
    if preprocess is not None and not others:
        return _taking(preprocess.spec, lambda pixels: pixels, {name: "images"})
    if others or tensor.shape.rank != 4 or tensor.shape[-1] not in (1, 3):
        return None
    height, width, channels = tensor.shape[1:]
    if height is None or width is None:
        return _taking_none("the model's image size is open.")
    if given is not None:
        spec = dataclasses.replace(given, height=height, width=width, channels=channels)
        return _taking(spec, lambda pixels: tf.cast(scale_pixels(tf.cast(pixels, tf.float32), spec), tensor.dtype))
    if tensor.dtype == tf.uint8 or any(isinstance(layer, keras.layers.Rescaling) for layer in model.layers):
        source = "the model itself: it scales pixels from 0 to 255"
        spec = InputSpec(height, width, channels, value_range=(0.0, 255.0), source=source)
        return _taking(spec, lambda pixels: tf.cast(pixels, tensor.dtype))
    return _taking_none("the pixel range of the model is unknown; pass input_spec=.")


def _taking_none(why: str) -> ServingInput:
    return ServingInput("image", BYTES_SIGNATURE, notes=(f"{BYTES_SIGNATURE} left out: {why}",))


def _taking(spec: InputSpec, prepare: Callable[[Any], Any], names: Mapping[str, str] | None = None) -> ServingInput:
    def encode(images: Sequence[np.ndarray]) -> list[bytes]:
        if any(image.dtype != np.uint8 for image in images):  # scaled already: image files cannot store them
            shape = (_SAMPLES, spec.height, spec.width, spec.channels)
            images = list(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        return [tf.io.encode_png(image).numpy() for image in images]

    pixels = tf.TensorSpec([spec.height, spec.width, spec.channels], tf.uint8)
    encoded = EncodedInput(BYTES_INPUT, lambda one: decode_image(one, spec), pixels, prepare, encode, picture_size)
    card = ("Images", _sentence(spec))
    return ServingInput("image", BYTES_SIGNATURE, spec, encoded=encoded, names=names or {}, card=card)


def _sentence(spec: InputSpec) -> str:
    low, high = spec.value_range
    normalized = "" if spec.mean is None else f", minus mean {spec.mean}, divided by {spec.std}"
    return (
        f"Pixels are 0 to 255. Inside the model every image becomes {spec.height} x {spec.width} x {spec.channels} "
        f"({spec.interpolation}, {spec.resize}); 0 to 255 is mapped to {low:g} to {high:g}{normalized} ({spec.source})."
    )


def served_images(signatures: Mapping[str, Any]) -> ServingInput | None:
    """Return the serving input of an exported model for image files; None if it takes none."""
    function = signatures.get(BYTES_SIGNATURE)
    if function is None or set(function.structured_input_signature[1]) != {BYTES_INPUT}:
        return None
    return ServingInput("image", BYTES_SIGNATURE)


def read_files(files: Sequence[str | os.PathLike[str]]) -> Iterator[RequestItem]:
    """Yield the contents of files; the model decodes them."""
    for file in [os.fspath(one) for one in files]:
        try:
            yield RequestItem(file, pathlib.Path(file).read_bytes())
        except OSError as error:
            yield RequestItem(file, error=error.strerror or str(error))
