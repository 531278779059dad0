"""Checks of pixel ranges: :func:`check_pixels`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfft.errors import DataError, raise_problems


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
        return [f"pixels must be in 0 to 255, received {low:g} to {high:g}"]
    if images.dtype.kind == "f" and 0 < high <= 1:
        return [f"pixels must be in 0 to 255, received {low:g} to {high:g}: multiply by 255"]
    return []
