"""Detection of images that are crops of another: :func:`best_parts`, :func:`part_similarity`.

Implementation notes: to find a crop of unknown size, place and orientation, an image is reduced to several scales and
compared with every place of the other by normalized cross-correlation (Lewis, 1995) at 32 x 32 pixels. The best match
is then refined by shifting and stretching at a larger size while the correlation grows.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tfft.modalities.image.file_info import THUMB
from tfft.modalities.image.thumbnails import EVERY_WAY, normal, turn

LARGE = 96  # pixels per side of the images for the decision
_SIDES = (19, 22, 25, 28, 30, 32)  # side lengths of a crop, of 32: at least 0.6 of a side
_STEPS = (2.0, 1.0, 0.5)  # pixels of the large image
_SHOWN = 48  # pixels per side in the final comparison; the smallest crop of a large image has more
# Changes of top, left, height and width: shifted, one edge moved, stretched from the middle one way and both ways.
_CHANGES = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (-1, 0, 1, 0), (0, -1, 0, 1),
            (-0.5, 0, 1, 0), (0, -0.5, 0, 1), (-0.5, -0.5, 1, 1))  # fmt: skip
_MOVES = tuple(np.array(change, np.float32) * sign for change in _CHANGES for sign in (1, -1))


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
        small = normal(_area(high) @ turned @ _area(wide).T).reshape(-1, high * wide)
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
    at = np.array(box, np.float32) * (LARGE / THUMB)
    sums = _sums(whole)
    shown = normal(_cut(_sums(turn(part, way)), np.array([0, 0, LARGE, LARGE])))
    best = _fit(sums, shown, at)
    for step in _STEPS:
        grown = True
        while grown:
            grown = False
            for move in _MOVES:
                now = at + step * move
                if now[:2].min() < 0 or (now[:2] + now[2:]).max() > LARGE or now[2:].min() < _SHOWN:
                    continue
                fit = _fit(sums, shown, now)
                if fit > best:
                    best, at, grown = fit, now, True
    return best


def _fit(sums: np.ndarray, shown: np.ndarray, box: np.ndarray) -> float:
    return float(normal(_cut(sums, box)) @ shown)


def _sums(picture: np.ndarray) -> np.ndarray:
    """Compute the summed-area table (Crow, 1984)."""
    return np.pad(picture.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _cut(sums: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return a part of an image as the means of 48 x 48 areas, up to a factor."""
    for start, length in zip(box[:2], box[2:], strict=True):
        ends = start + length * np.arange(_SHOWN + 1) / _SHOWN
        low = np.minimum(ends.astype(int), LARGE - 1)
        sums = (sums[low] + (ends - low)[:, None] * (sums[low + 1] - sums[low])).T  # the other axis comes next
    return np.diff(np.diff(sums, axis=0), axis=1)


@functools.cache
def _area(side: int) -> np.ndarray:
    """Return a matrix that averages equal parts of 32 pixels, [side, 32]."""
    ends = THUMB * np.arange(side + 1) / side
    reach = np.clip(ends[:, None] - np.arange(THUMB), 0, 1)  # share of each pixel before each end
    return ((reach[1:] - reach[:-1]) * (side / THUMB)).astype(np.float32)
