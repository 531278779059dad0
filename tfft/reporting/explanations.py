"""Explanations as one HTML page: :func:`write_explanations`."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfft.errors import DataError
from tfft.explanation import Explanation
from tfft.io.atomic import write_whole
from tfft.registry import ReportPicture
from tfft.reporting.page import Page

# Colours of a heat map from 0 to 1: blue, turquoise, yellow, red.
_COLOURS = np.array(((40, 30, 120), (30, 150, 190), (250, 215, 60), (200, 30, 20)), np.float32)


def write_explanations(found: Sequence[Explanation], path: str | os.PathLike[str]) -> pathlib.Path:
    """Write explanations as one HTML file without scripts, which needs no network.

    Images are blue where they are irrelevant, and yellow to red where they support the class. Words and spans of time
    are green where they support the class and red where they contradict it; the strongest of an example has the
    full colour.

    Args:
        found: Explanations.
        path: HTML file to write.

    Returns:
        The path of the file.

    Example:
        >>> write_explanations(tfft.explain("runs/photos", ["ant.jpg"]), "explanation.html")
        PosixPath('explanation.html')
    """
    page = Page("Explanations")
    add_explanations(page, found)
    return write_whole(pathlib.Path(path).expanduser(), page.render())


def add_explanations(page: Page, found: Sequence[Explanation]) -> None:
    """Add explanations to a page: images in a grid, other examples one below the other.

    Args:
        page: Page under construction.
        found: Explanations.
    """
    pictures = [one for one in found if one.picture is not None]
    if pictures:
        page.pictures(ReportPicture(_caption(one), overlay(one)) for one in pictures)
    for one in found:
        if one.picture is None:
            page.text(_caption(one), "soft")
            page.coloured(one.scaled())


def _caption(one: Explanation) -> str:
    """Return the answer, after the name of a file; a text is shown in full by its words."""
    name = f"{os.path.basename(one.name)}: " if os.path.exists(one.name) else ""
    return f"{name}{one.answer} ({one.method})"


def overlay(one: Explanation) -> bytes:
    """Return the image of an explanation with its heat map, a JPEG file.

    Args:
        one: Explanation with an image.

    Raises:
        DataError: If it has none.
    """
    if one.picture is None:
        raise DataError(f"Expected the explanation of an image. Received: that of {one.name!r}, which has no image.")
    places = np.linspace(0, 1, len(_COLOURS))
    heat = np.stack([np.interp(one.relevance, places, channel) for channel in _COLOURS.T], axis=-1)
    grey = one.picture.astype(np.float32).mean(axis=-1, keepdims=True)
    drawn = (grey + heat) / 2
    encoded: bytes = tf.io.encode_jpeg(np.clip(drawn, 0, 255).astype(np.uint8), quality=85).numpy()
    return encoded
