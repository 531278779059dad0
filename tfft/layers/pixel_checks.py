"""Pixels that cannot be right, refused in time: :func:`check_pixels` and :class:`PixelModel`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import DataError, raise_problems
from tfft.keras_compat import InspectedInputs

_EXPECTED = "Expected pixels from 0 to 255: the model scales them itself. Received {} from"
_SIXTEEN_BITS = "for images of 16 bits, divide by 257"
_FIXES = {
    "booleans": "Multiply by 255.",
    "floats": "Leave out the division by 255 or the preprocess_input in front of the model.",
    "integers": f"Scale them to 0 to 255; {_SIXTEEN_BITS}.",
}


@keras.saving.register_keras_serializable(package="tfft")
class PixelModel(InspectedInputs):
    """A functional model of pixels from 0 to 255 that refuses floats which were scaled already.

    Keras casts what a model is given to the type of its input, uint8: of pixels from 0 to 1 nothing but 0 is left
    before any layer could look, and of 256 too. This model looks first, in ``predict``, ``evaluate``, ``fit`` and when
    it is called. It refuses a batch that has a negative value or one over 255, and floats and booleans that lie within
    0 to 1 and are not all 0. Bytes cost nothing.

    Example:
        >>> keras.saving.load_model("model.keras").predict(photos / 255)  # doctest: +SKIP
        Traceback (most recent call last):
        InvalidArgumentError: Expected pixels from 0 to 255: the model scales them itself. Received ...
    """

    def inspect_inputs(self, inputs: list[Any]) -> list[tf.Operation]:
        """Raise DataError for scaled pixels, and within a graph ``tf.errors.InvalidArgumentError``."""
        checks = []
        for given, wanted in zip(inputs, self.inputs, strict=False):
            if wanted.dtype != "uint8" or isinstance(given, keras.KerasTensor):
                continue
            images = given if tf.is_tensor(given) else np.asarray(given)
            if (kind := _kind_of(images)) is not None:
                checks += _check_tensor(tf.convert_to_tensor(images), kind)
        return checks


def _kind_of(images: tf.Tensor | np.ndarray) -> str | None:
    """Return which numbers images are of; None for bytes, and for what Keras refuses itself."""
    dtype = tf.as_dtype(images.dtype)
    if dtype == tf.bool:
        return "booleans"
    if dtype.is_floating:
        return "floats"
    return "integers" if dtype.is_integer and dtype != tf.uint8 else None


@tf.autograph.experimental.do_not_convert
def _check_tensor(images: tf.Tensor, kind: str) -> list[tf.Operation]:
    expected, fix = _EXPECTED.format(kind), _FIXES[kind]
    pixels = tf.cast(images, tf.float32)
    low, high = tf.reduce_min(pixels), tf.reduce_max(pixels)
    unscaled = True if kind == "integers" else (high > 1) | (high == 0)
    possible = (tf.size(pixels) == 0) | ((low >= 0) & (high <= 255) & unscaled)  # NaN is neither
    if tf.executing_eagerly():
        if not bool(possible):
            raise DataError(f"{expected} {float(low):g} to {float(high):g}. {fix}")
        return []
    return [tf.debugging.Assert(possible, [expected, low, "to", high, fix])]


def check_pixels(images: tf.Tensor | np.ndarray, name: str) -> None:
    """Raise an error for floating images that are already scaled, if raw pixels are expected.

    Models of tfft take uint8, and Keras casts to it: without this check, pixels from 0 to 1 would silently become
    black.

    Args:
        images: One batch, or all images; integers pass.
        name: Name for the message, such as "the training dataset".

    Raises:
        DataError: If floating pixels are not in 0 to 255, or all in 0 to 1 (but not all 0).
    """
    if tf.as_dtype(images.dtype).is_floating:
        pixels = tf.cast(images, tf.float32).numpy()
        raise_problems(DataError, f"The images of {name} cannot be used", pixel_problems(pixels))


def pixel_problems(images: np.ndarray) -> list[str]:
    """Return the problems of pixels, as sentences without a full stop."""
    if images.dtype == np.uint8 or images.size == 0:
        return []
    if images.dtype.kind not in "iuf":
        return [f"images must be numbers, received dtype {images.dtype}"]
    if not np.isfinite(images).all():
        return ["images must be finite, received NaN or infinity"]
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        hint = f": {_SIXTEEN_BITS}" if low >= 0 and images.dtype.kind in "iu" else ""
        if -1 <= low < 0 and high <= 1:
            hint = ": (images + 1) * 127.5"
        return [f"pixels must be in 0 to 255, received {low:g} to {high:g}{hint}"]
    if images.dtype.kind == "f" and 0 < high <= 1:
        return [f"pixels must be in 0 to 255, received {low:g} to {high:g}: multiply by 255"]
    return []
