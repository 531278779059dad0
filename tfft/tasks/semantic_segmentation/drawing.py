"""Masks drawn over images: :func:`overlay`, :func:`preview`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfft.tasks.semantic_segmentation import VOID

# "Bright" of Tol (2021), then colours of Tol and Trubetskoy (2017), each the farthest in CIELAB from those before it:
# any two are at least 34 apart, where 10 is hard to see once half of the colour is that of a photo.
_COLOURS = (
    (68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119), (0, 0, 117),
    (240, 50, 230), (170, 255, 195), (245, 130, 49), (250, 190, 212), (128, 0, 0), (67, 99, 216), (0, 153, 136),
    (191, 239, 69), (154, 99, 36),
)  # fmt: skip
_GOLDEN = 0.618033988749895  # turns of the colour circle between further classes


def palette(count: int) -> np.ndarray:
    """Return one colour per class, uint8 [count, 3]; the same ones for any number of classes.

    Example:
        >>> palette(2).tolist()
        [[68, 119, 170], [238, 102, 119]]
    """
    rows = [*_COLOURS[:count]]
    for at in range(len(_COLOURS), count):
        turns = (np.array([0, 1 / 3, 2 / 3]) + at * _GOLDEN) % 1
        rows.append(tuple((127.5 + 127.5 * np.cos(2 * np.pi * turns)).astype(int).tolist()))
    return np.array(rows, np.uint8).reshape(-1, 3)


def overlay(picture: np.ndarray, mask: np.ndarray, classes: int, *, opacity: float = 0.5) -> np.ndarray:
    """Draw a mask over an image; pixels without a label stay as they are.

    Args:
        picture: Image, uint8 [H, W, 3] or [H, W, 1].
        mask: Mask, int [H, W], :data:`VOID` for no label.
        classes: Number of classes.
        opacity: Share of the colour of the class, 0 to 1.

    Returns:
        uint8 [H, W, 3].

    Example:
        >>> drawn = overlay(photo, answer["mask"], len(class_names))
    """
    colours = np.zeros((VOID + 1, 3), np.float32)
    colours[:classes] = palette(classes)
    pixels = np.broadcast_to(picture, (*mask.shape, 3)).astype(np.float32)
    mixed = (1 - opacity) * pixels + opacity * colours[mask]
    return np.where((mask == VOID)[..., None], pixels, mixed).round().astype(np.uint8)


def legend(class_names: Sequence[str]) -> dict[str, str]:
    """Return the colour of each class as ``#rrggbb``.

    Example:
        >>> legend(["road", "car"])
        {'road': '#4477aa', 'car': '#ee6677'}
    """
    colours = palette(len(class_names)).tolist()
    return {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in zip(class_names, colours, strict=True)}


def draw_file(file: str, mask: np.ndarray, classes: int) -> bytes:
    """Draw a mask of any size over an image file.

    Args:
        file: Path of the image.
        mask: Mask of the whole image, uint8 [h, w].
        classes: Number of classes.

    Returns:
        A PNG file of the size of the image.
    """
    import tensorflow as tf

    from tfft.modalities.image.decode import decode_pixels
    from tfft.modalities.image.preview import as_png

    with tf.device("CPU:0"):
        picture = decode_pixels(tf.io.read_file(file))
        large = tf.image.resize(mask[..., None], tf.shape(picture)[:2], "nearest")[..., 0]
    return as_png(overlay(picture.numpy(), large.numpy(), classes))


def preview(examples: Any, spec: Any, *, augment: Any, rows: int, columns: int, seed: int) -> np.ndarray:
    """Draw a grid of images with their masks, one row per example and one view per column.

    Args:
        examples: :class:`tfft.tasks.semantic_segmentation.data.MaskedImages`.
        spec: Size and fitting of each image.
        augment: Augmentation, as in :func:`tfft.data.to_dataset`; without it, the grid shows different examples.
        rows: Number of rows.
        columns: Number of images per row.
        seed: Seed for the choice and the views.

    Returns:
        uint8 [height, width, 3].
    """
    from tfft.data.batches import BatchOptions
    from tfft.specs import augmentation

    varied = augmentation(augment)
    count = min(len(examples), rows if varied else rows * columns)
    chosen = examples.take(np.random.default_rng(seed).permutation(len(examples))[:count])
    drawn: list[np.ndarray] = []
    for view in range(columns if varied else 1):
        epoch = None if not varied else _epoch(view)
        views = columns if varied else None
        for pixels, masks in chosen.batches(spec, BatchOptions(seed=seed, augment=varied, views=views, epoch=epoch)):
            pairs = zip(pixels.numpy(), masks.numpy(), strict=True)
            drawn += [overlay(picture, mask, len(examples.class_names)) for picture, mask in pairs]
    if varied:  # all first views come first
        drawn = [drawn[view * count + row] for row in range(count) for view in range(columns)]
    high = -(-len(drawn) // columns)
    grid = np.full((high, columns, spec.height, spec.width, 3), 255, np.uint8)
    grid.reshape(-1, spec.height, spec.width, 3)[: len(drawn)] = drawn
    return grid.swapaxes(1, 2).reshape(high * spec.height, columns * spec.width, 3)


def _epoch(number: int) -> Any:
    import tensorflow as tf

    with tf.device("CPU:0"):
        return tf.Variable(number, dtype=tf.int64, trainable=False)
