"""Images for the report of a run: :func:`read_small`, :func:`as_jpeg`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfft.modalities.image.decode import decode_pixels

_SIDE = 480  # pixels of the longer side: a report holds dozens of images
_QUALITY = 85


def read_small(path: str) -> np.ndarray:
    """Read an image file, upright, reduced to at most 480 pixels on its longer side, uint8 [H, W, 3]."""
    return small(tf.io.read_file(path))


def small(encoded: bytes | tf.Tensor) -> np.ndarray:
    """Decode an image file as :func:`read_small` does, from its content."""
    with tf.device("CPU:0"):
        pixels = decode_pixels(tf.convert_to_tensor(encoded))
        scale = _SIDE / max(pixels.shape[:2])
        if scale < 1:
            size = [max(1, round(scale * side)) for side in pixels.shape[:2]]
            pixels = tf.cast(tf.round(tf.image.resize(pixels, size, antialias=True)), tf.uint8)
        return np.asarray(pixels)


def as_jpeg(pixels: np.ndarray) -> bytes:
    """Return pixels, uint8 [H, W, 3], as a JPEG file."""
    with tf.device("CPU:0"):
        encoded: bytes = tf.io.encode_jpeg(pixels, quality=_QUALITY).numpy()
    return encoded
