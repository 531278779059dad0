"""Boxes drawn on images: :func:`draw_boxes`."""

from __future__ import annotations

import colorsys
import io
import os
from collections.abc import Sequence

import numpy as np

from tfft.errors import DataError, missing_package

_INSTALL = 'pip install "tfft[detection]"'
_GOLDEN = 0.618034  # of the circle of hues, so that few classes get colours far apart


def draw_boxes(
    picture: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[str],
    scores: Sequence[float] | None = None,
    *,
    classes: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes with their labels on an image; equal labels have one colour.

    Args:
        picture: uint8 [H, W, 3].
        boxes: Top, left, bottom and right, normalized to the image, float [n, 4].
        labels: Label of each box.
        scores: Score of each box. Predictions have them and get thick lines; without scores the boxes are taken for the
            truth, and get thin ones.
        classes: Number of the class of each box, so that a class has one colour in all images. Without them, colours
            are those of the labels of this image in alphabetical order.

    Returns:
        A new image, uint8 [H, W, 3].

    Raises:
        DataError: If the image or the boxes have another form.
        DependencyError: If Pillow is missing.

    Example:
        >>> draw_boxes(image, np.array([[0.1, 0.2, 0.9, 0.8]]), ["raccoon"], [0.97])
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        missing_package("pillow", "Drawing boxes", _INSTALL)
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise DataError(f"Expected an image uint8 [H, W, 3]. Received: {picture.dtype} {picture.shape}.")
    if not len(boxes) == len(labels) == (len(boxes) if scores is None else len(scores)):
        counts = f"{len(boxes)} boxes, {len(labels)} labels" + ("" if scores is None else f", {len(scores)} scores")
        raise DataError(f"Expected one label, and one score if any, for each box. Received: {counts}.")
    height, width = picture.shape[:2]
    line = max(1, round(max(height, width) / 400)) * (1 if scores is None else 3)
    font = ImageFont.load_default(max(10, round(max(height, width) / 50)))
    image = Image.fromarray(picture)
    canvas = ImageDraw.Draw(image)
    numbers = np.unique(labels, return_inverse=True)[1] if classes is None else classes
    for at in range(len(boxes)) if scores is None else np.argsort(scores, kind="stable"):  # the surest on top
        top, left, bottom, right = np.clip(boxes[at], 0, 1) * [height - 1, width - 1, height - 1, width - 1]
        colour = class_colour(int(numbers[at]))
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        text = labels[at] if scores is None else f"{labels[at]} {scores[at]:.2f}"
        place = canvas.textbbox((left + line, top + line), text, font=font)
        canvas.rectangle(place, fill=colour)
        canvas.text((left + line, top + line), text, fill=(0, 0, 0), font=font)
    return np.asarray(image)


def class_colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a class, the same for any number of classes."""
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(number * _GOLDEN % 1.0, 0.9, 1.0))
    return red, green, blue


def draw_file(file: str | os.PathLike[str], detections: Sequence[tuple[str, float, Sequence[float], int]]) -> bytes:
    """Draw detections on an image file, turned as its EXIF data say.

    Args:
        file: Path of the image.
        detections: Label, score, box (top, left, bottom, right, normalized) and number of the class of each.

    Returns:
        A PNG file.

    Raises:
        DependencyError: If Pillow is missing.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError:
        missing_package("pillow", "Drawing boxes", _INSTALL)
    with Image.open(file) as image:
        picture = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    labels, scores, boxes, classes = zip(*detections, strict=True) if detections else ((), (), (), ())
    buffer = io.BytesIO()
    Image.fromarray(draw_boxes(picture, np.array(boxes), labels, scores, classes=classes)).save(buffer, "PNG")
    return buffer.getvalue()
