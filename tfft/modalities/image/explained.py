"""Evidence in an image for a class: :func:`image_heatmap`, and cells that can be left out: :func:`image_parts`."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import BackboneError
from tfft.inspection.heatmaps import grad_cam
from tfft.modalities.image.report_pictures import small
from tfft.registry import Parts

_CELLS = 8  # on each side


def image_heatmap(model: keras.Model, encoded: bytes, column: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return an image, at most 480 pixels on its longer side, and its Grad-CAM map.

    Args:
        model: Model of images.
        encoded: Content of an image file.
        column: Number of the class.

    Returns:
        uint8 [H, W, 3] and float32 [H, W]; None for a model that gives no feature map.
    """
    picture = small(encoded)
    try:
        [heat] = grad_cam(model, picture[None], column)
    except BackboneError:
        return None
    return picture, heat


def image_parts(encoded: bytes) -> Parts:
    """Return 8 x 8 cells of an image, and the image with the mean colour in place of each.

    Args:
        encoded: Content of an image file.
    """
    picture = small(encoded)
    mean = picture.mean(axis=(0, 1)).round().astype(np.uint8)
    rows, columns = (np.linspace(0, side, _CELLS + 1).round().astype(int) for side in picture.shape[:2])
    names, without = [], []
    for row in range(_CELLS):
        for column in range(_CELLS):
            covered = picture.copy()
            covered[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = mean
            names.append(f"row {row + 1}, column {column + 1}")
            without.append(_png(covered))
    return Parts(tuple(names), _png(picture), tuple(without), picture, (_CELLS, _CELLS))


def _png(pixels: np.ndarray) -> bytes:
    encoded: bytes = tf.io.encode_png(pixels, compression=1).numpy()
    return encoded
