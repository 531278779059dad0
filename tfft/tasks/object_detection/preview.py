"""Grid of images with their boxes as training sees them: :func:`preview_boxes`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft.data.batches import BatchOptions
from tfft.errors import DataError
from tfft.modalities.image.preview import in_grid
from tfft.specs import Augmentation, InputSpec, augmentation
from tfft.tasks.object_detection.data import BoxedImages
from tfft.tasks.object_detection.drawing import class_colour


def preview_boxes(
    examples: BoxedImages,
    spec: InputSpec,
    *,
    augment: Augmentation | str | Sequence[str] | None = None,
    rows: int = 6,
    columns: int = 6,
    seed: int = 0,
) -> np.ndarray:
    """Draw a grid of images with their boxes: one row per image, the image itself first, followed by its views.

    Args:
        examples: Images with boxes.
        spec: Size of each image; it is stretched.
        augment: As in :func:`tfft.data.to_dataset`. Without it, the grid shows different images.
        rows: Number of images to draw.
        columns: Number of images per row.
        seed: Seed for the choice and the views.

    Returns:
        uint8 [height, width, 3].
    """
    if min(rows, columns) < 1 or not len(examples):
        raise DataError(f"Nothing to draw. Received: {len(examples)} images, {rows} rows, {columns} columns.")
    spec = dataclasses.replace(spec, resize="stretch")
    varied = augmentation(augment)
    count = rows if varied else rows * columns
    chosen = examples.take(np.random.default_rng(seed).permutation(len(examples))[:count])
    drawn = [_drawn(chosen, spec, varied, view, seed) for view in range(columns if varied else 1)]
    pictures = [one for row in zip(*drawn, strict=True) for one in row]
    return in_grid(pictures, columns)


def _drawn(chosen: BoxedImages, spec: InputSpec, varied: Augmentation | None, view: int, seed: int) -> list[np.ndarray]:
    """Return one view of each image with its boxes; the epoch chooses the view."""
    import tensorflow as tf

    with tf.device("CPU:0"):
        epoch = tf.Variable(view, dtype=tf.int64)
    options = BatchOptions(batch_size=len(chosen), seed=seed, epoch=epoch, augment=varied, cache=False)
    [(pixels, labels)] = chosen.batches(spec, options).as_numpy_iterator()
    return [_with_boxes(one, label) for one, label in zip(pixels, labels, strict=True)]


def _with_boxes(picture: Any, label: np.ndarray) -> np.ndarray:
    """Draw the boxes of a label [M, 7] as frames of two pixels, in a colour for each class."""
    result = np.array(picture)
    size = np.tile(result.shape[:2], 2)
    for row in label[label[:, 0] >= 0]:
        top, left, bottom, right = np.clip(np.round(row[1:5] * size).astype(int), 0, size)
        colour = class_colour(int(row[0]))
        frame = np.zeros(result.shape[:2], bool)
        frame[top:bottom, left:right] = True
        frame[top + 2 : bottom - 2, left + 2 : right - 2] = False
        result[frame] = colour
    return result
