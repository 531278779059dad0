"""Grid of training images and their views: :func:`preview`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.errors import DataError
from tfft.layers.preprocess import check_spec
from tfft.modalities.image.batches import array_views, file_views
from tfft.modalities.image.decode import decode_image
from tfft.modalities.image.examples import ImageArrays, ImageFiles
from tfft.specs import Augmentation, InputSpec, augmentation

_THUMBNAIL = InputSpec(height=96, width=96, resize="pad")
_GAP = 4  # white pixels between two images


def preview(
    examples: ImageFiles | ImageArrays,
    spec: InputSpec,
    *,
    augment: Augmentation | str | Sequence[str] | None = None,
    rows: int = 6,
    columns: int = 6,
    seed: int = 0,
) -> np.ndarray:
    """Draw a grid of images: one row per example, with the image itself first, followed by its views.

    Use it before training, to check that augmentation does not crop, mirror or recolour the features of a class.

    Args:
        examples: Examples from :func:`tfft.data.load` or :func:`list_images`.
        spec: Size and fitting, from a backbone's ``input_spec``.
        augment: As in :func:`tfft.data.to_dataset`. Without it, the grid shows different examples.
        rows: Number of examples to draw, balanced over the classes.
        columns: Number of images per row.
        seed: Seed for the choice and the views; training with the same seed uses other views.

    Returns:
        uint8 [height, width, 3].

    Example:
        >>> tf.io.write_file("grid.png", tf.io.encode_png(preview(splits.train, spec, augment="crop")))
    """
    check_spec(spec)
    if min(rows, columns) < 1 or not len(examples):
        raise DataError(f"Nothing to draw. Received: {len(examples)} examples, {rows} rows, {columns} columns.")
    varied = augmentation(augment)
    chosen = _chosen(examples, rows if varied else rows * columns, seed)
    if varied is None:
        pictures = _drawn(chosen, spec, Augmentation(), 1, seed)
    else:  # all first views come first, then all second ones
        pictures = _drawn(chosen, spec, varied, columns, seed)
        pictures = pictures.reshape(columns, len(chosen), *pictures.shape[1:]).swapaxes(0, 1)
        pictures = pictures.reshape(-1, *pictures.shape[2:])
    return in_grid(pictures, columns)


def in_grid(pictures: Sequence[np.ndarray] | np.ndarray, columns: int) -> np.ndarray:
    """Return images of one size as one image, row by row on white.

    Args:
        pictures: Images, each uint8 [H, W, 3].
        columns: Images per row.
    """
    height, width, _ = pictures[0].shape
    high = -(-len(pictures) // columns)
    grid = np.full((high * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3), 255, np.uint8)
    for at, picture in enumerate(pictures):
        top, left = (at // columns) * (height + _GAP), (at % columns) * (width + _GAP)
        grid[top : top + height, left : left + width] = picture
    return grid


def _drawn(
    examples: ImageFiles | ImageArrays, spec: InputSpec, changes: Augmentation, views: int, seed: int
) -> np.ndarray:
    """Return all views of examples, uint8 [views * N, H, W, C]: all first views, then all second views."""
    options = BatchOptions(seed=seed)
    if isinstance(examples, ImageFiles):
        dataset = file_views(examples.paths, examples.labels, spec, changes, views, options)
    else:
        dataset = array_views(examples.images, examples.labels, spec, changes, views, options)
    return np.concatenate([pixels.numpy() for pixels, _ in dataset])


def _chosen(examples: ImageFiles | ImageArrays, count: int, seed: int) -> ImageFiles | ImageArrays:
    """Select examples, from each class in turn if examples have one class."""
    order = np.random.default_rng(seed).permutation(len(examples))
    if examples.labels.ndim == 1 and examples.labels.dtype.kind != "f":
        labels, place = examples.labels[order], np.zeros(len(order), int)
        for label in np.unique(labels):
            place[labels == label] = np.arange((labels == label).sum())
        order = order[np.lexsort((labels, place))]
    return examples.take(order[:count])


def as_png(grid: np.ndarray) -> bytes:
    """Encode an image as PNG."""
    with tf.device("CPU:0"):
        return tf.io.encode_png(grid).numpy()


def thumbnail(path: str) -> bytes | None:
    """Return a thumbnail of 96 x 96 pixels of an image file, as JPEG; None if it cannot be decoded."""
    try:
        with tf.device("CPU:0"):
            return tf.io.encode_jpeg(decode_image(tf.io.read_file(path), _THUMBNAIL), quality=80).numpy()
    except tf.errors.OpError:
        return None
