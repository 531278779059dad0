"""Detection of images that are crops of another: :func:`best_parts`, :func:`part_similarity`.

Implementation notes: to find a crop of unknown size, place and orientation, an image is reduced to several scales and
compared with every place of the other by normalized cross-correlation (Lewis, 1995) at 32 x 32 pixels. The best match
is then refined by shifting and stretching at a larger size while the correlation grows.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tfft.modalities.image.file_info import THUMB
from tfft.modalities.image.thumbnails import EVERY_WAY, normal, turn

LARGE = 96  # pixels per side of the images for the decision
_SIDES = (19, 22, 25, 28, 30, 32)  # side lengths of a crop, of 32: at least 0.6 of a side
_STEPS = (2.0, 1.0, 0.5)  # pixels of the large image
_SHOWN = 48  # pixels per side in the final comparison; the smallest crop of a large image has more
_WHOLE = (0.0, 0.0, float(LARGE), float(LARGE))
_FLAT = 1e-3  # least length of a vector of pixels to divide by
# Changes of top, left, height and width: shifted, one edge moved, stretched from the middle one way and both ways.
_CHANGES = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (-1, 0, 1, 0), (0, -1, 0, 1),
            (-0.5, 0, 1, 0), (0, -0.5, 0, 1), (-0.5, -0.5, 1, 1))  # fmt: skip
_MOVES = tuple(tuple(sign * by for by in change) for change in _CHANGES for sign in (1, -1))

_Box = tuple[float, ...]  # top, left, height and width in pixels


def best_parts(whole: np.ndarray, parts: np.ndarray, ways: Sequence[int] = EVERY_WAY) -> tuple[np.ndarray, np.ndarray]:
    """Search one image for crops.

    Args:
        whole: Image, uint8 [32, 32].
        parts: Possible crops, uint8 [P, 32, 32].
        ways: Orientations to try.

    Returns:
        The largest correlation of each, float32 [P]; and its place, int64 [P, 5]: the orientation of the crop, the
        first row and column, and the numbers of rows and columns that it covers.
    """
    turned = np.stack([turn(parts, way) for way in ways]).astype(np.float32)
    best = np.full(len(parts), -1, np.float32)
    where = np.zeros((len(parts), 5), np.int64)
    for high, wide in itertools.product(_SIDES, repeat=2):
        small = normal(_means(high, THUMB) @ turned @ _means(wide, THUMB).T).reshape(-1, high * wide)
        windows = sliding_window_view(whole, (high, wide))
        # Not a matrix product: many small ones on several threads are slower, on a busy machine many times slower.
        found = np.einsum("td,wd->tw", small, normal(windows.reshape(-1, high, wide)))
        found = found.reshape(len(ways), len(parts), -1)
        for i in range(len(parts)):
            way, place = np.unravel_index(found[:, i].argmax(), found[:, i].shape)
            if found[way, i, place] > best[i]:
                best[i] = found[way, i, place]
                where[i] = (ways[way], *divmod(int(place), windows.shape[1]), high, wide)
    return best, where


def part_similarity(whole: np.ndarray, part: np.ndarray, where: Sequence[int]) -> float:
    """Return the correlation of an image with the best fitting part of another near a place.

    Args:
        whole: Grayscale image [96, 96].
        part: The possible crop, likewise.
        where: Row of the places from :func:`best_parts`.
    """
    way, *box = where
    at: _Box = tuple(float(side) * (LARGE / THUMB) for side in box)
    whole, shown = whole.astype(np.float32), normal(_part(turn(part, way).astype(np.float32), _WHOLE))
    best = _fit(whole, shown, at)
    for step in _STEPS:
        grown = True
        while grown:
            grown = False
            for move in _MOVES:
                now = tuple(place + step * by for place, by in zip(at, move, strict=True))
                if not _inside(*now):
                    continue
                fit = _fit(whole, shown, now)
                if fit > best:
                    best, at, grown = fit, now, True
    return best


def _inside(top: float, left: float, high: float, wide: float) -> bool:
    """Return whether a box is within the image and not too small."""
    return min(top, left) >= 0 and max(top + high, left + wide) <= LARGE and min(high, wide) >= _SHOWN


def _fit(whole: np.ndarray, shown: np.ndarray, box: _Box) -> float:
    """Return the correlation of a part of an image with normalized areas [48 * 48], of mean 0 and length 1."""
    areas = _part(whole, box).ravel()
    square = float(areas @ areas) - float(areas.sum()) ** 2 / areas.size
    return float(areas @ shown) / max(math.sqrt(max(square, 0.0)), _FLAT)


def _part(picture: np.ndarray, box: _Box) -> np.ndarray:
    """Return the means of 48 x 48 areas of a part of an image, float32."""
    top, left, high, wide = box
    return _means(_SHOWN, LARGE, top, high) @ picture @ _means(_SHOWN, LARGE, left, wide).T


@functools.lru_cache(1024)
def _means(count: int, pixels: int, start: float = 0.0, length: float | None = None) -> np.ndarray:
    """Return a matrix that averages equal parts of some pixels, float32 [count, pixels]."""
    length = pixels if length is None else length
    ends = start + length * np.arange(count + 1) / count
    reach = np.clip(ends[:, None] - np.arange(pixels), 0, 1)  # share of each pixel before each end
    return ((reach[1:] - reach[:-1]) * (count / length)).astype(np.float32)
