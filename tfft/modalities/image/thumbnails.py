"""Comparison of small grayscale images: :func:`candidates`, :func:`similarity`.

Implementation notes: most pairs are excluded without a full comparison: by hashes of all eight orientations, which come
from one transform; by the correlation of the low frequencies; and by the correlation without shifting.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import numpy as np

from tfft.modalities.image.file_info import THUMB

EVERY_WAY = tuple(range(8))
UPRIGHT = (0, 1)  # original and mirrored
BACK = (0, 1, 2, 3, 4, 6, 5, 7)  # inverse of each orientation
_CANDIDATES = 18  # maximum number of different bits of the 64-bit hash
EXACT = 0.8  # minimum correlation of low frequencies over small crops for comparing all
_GLANCE = 0.5  # minimum correlation without shifting; true duplicates have more
_ROWS, _COLUMNS = 32, 8192  # hashes compared at a time, to fit into the processor cache
_PAIRS = 2048  # pairs at a time
_HALF, _QUARTER = "rotated by a half turn", "rotated by a quarter turn"
_BOTH = f"mirrored and {_QUARTER}"
_TURNS = ("", "mirrored", f"mirrored and {_HALF}", _HALF, _BOTH, _QUARTER, _QUARTER, _BOTH)


def turn(pictures: np.ndarray, way: int) -> np.ndarray:
    """Transform square images [..., S, S] to one of eight orientations: rotated by quarter turns, and mirrored.

    Args:
        pictures: Images of any type.
        way: 0 unchanged, 1 mirrored, 3 rotated by a half turn, 5 and 6 by a quarter turn; the others are mirrored
            versions of these.
    """
    turned = np.swapaxes(pictures, -1, -2) if way & 4 else pictures
    turned = turned[..., ::-1, :] if way & 2 else turned
    return turned[..., ::-1] if way & 1 else turned


def turned_words(way: int) -> str:
    """Describe an orientation in words that fit both directions of a pair."""
    return _TURNS[way]


def candidates(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of pairs that may be duplicates.

    The hashes of all orientations come from one transform: mirroring flips the sign of every other frequency,
    transposing swaps rows and columns of frequencies.

    Args:
        thumbs: Small images, uint8 [N, 32, 32].

    Returns:
        Two arrays int64 [P], the smaller position in the first.
    """
    strengths, rest = _waves(thumbs)
    hashes = np.stack([_hashes(_turned_waves(strengths, way)) for way in EVERY_WAY])
    slow = strengths.reshape(len(thumbs), 64)
    turned = np.stack([_turned_waves(strengths, way).reshape(len(thumbs), 64) for way in EVERY_WAY])
    plain, found = _hashes(strengths), [np.zeros(0, np.int64)]
    for start in range(0, len(thumbs), _ROWS):
        for first in range(start, len(thumbs), _COLUMNS):
            for own, waves in zip(hashes[:, first : first + _COLUMNS], turned, strict=True):
                differ = np.bitwise_count(plain[start : start + _ROWS, None] ^ own)
                left, right = np.divmod(np.flatnonzero(differ <= _CANDIDATES), differ.shape[1])
                later = right + first > left + start
                left, right = left[later] + start, right[later] + first
                # The omitted high frequencies add at most the product of the remainders to the correlation.
                glance = _overlap(slow[left], waves[right]) + rest[left] * rest[right]
                found.append((left * len(thumbs) + right)[glance > _GLANCE])
    left, right = np.divmod(np.unique(np.concatenate(found)), max(len(thumbs), 1))
    return left, right


def similarity(
    thumbs: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    ways: Sequence[int] = EVERY_WAY,
    exact_from: float = EXACT,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest correlation of pairs of images over small crops of either, in all orientations.

    Orientations with little correlation of the whole images are skipped.

    Args:
        thumbs: Small images, uint8 [N, 32, 32].
        left: Positions [P].
        right: Positions [P].
        ways: Orientations to try.
        exact_from: Correlation of the low frequencies from which all frequencies are compared.

    Returns:
        float32 [P], at most 1, of the low frequencies only where these are less alike;
        and the orientation int64 [P] of the second image at which it occurs.
    """
    best, found_way = np.full(len(left), -1, np.float32), np.zeros(len(left), np.int64)
    for start in range(0, len(left), _PAIRS):
        part = slice(start, start + _PAIRS)
        one, other = (_Seen(thumbs, at[part]) for at in (left, right))
        for way in ways:
            found = _laid_over(one, other, way, exact_from)
            found_way[part] = np.where(found > best[part], way, found_way[part])
            best[part] = np.maximum(best[part], found)
    return best, found_way


def normal(pictures: np.ndarray) -> np.ndarray:
    """Return images [..., S, S] as vectors [..., S * S] of mean 0 and length 1."""
    flat = _flat(pictures).astype(np.float32)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-3)


class _Seen:
    """Images of P pairs with precomputed values for the comparison; an image of many pairs is prepared once.

    Args:
        thumbs: Small images, uint8 [N, 32, 32].
        at: Positions of the images, [P].

    Attributes:
        strengths: Coefficients of their low frequencies, [P, 8, 8].
        rests: Lengths of what these leave out, [P].
    """

    def __init__(self, thumbs: np.ndarray, at: np.ndarray) -> None:
        distinct, self._place = np.unique(at, return_inverse=True)
        self._vectors = normal(thumbs[distinct])
        self._strengths, rests = _waves(thumbs[distinct])
        self.strengths, self.rests = self._strengths[self._place], rests[self._place]

    def vectors(self, some: np.ndarray) -> np.ndarray:
        """Return some images with mean 0 and length 1, [S, 32, 32]."""
        return _square(self._vectors[self._place[some]])

    def slow_crops(self, some: np.ndarray) -> np.ndarray:
        """Return the low frequencies of small crops of some images, with length 1, [S, 28, 64]."""
        return self._slow_crops[self._place[some]]

    def best_crops(self, some: np.ndarray, whole: np.ndarray) -> np.ndarray:
        """Return the largest correlation of small crops of some images with others [S, 32, 32]; see `vectors`."""
        places = self._place[some]
        order = np.argsort(places, kind="stable")
        starts = np.flatnonzero(np.diff(places[order], prepend=-1))
        found = np.empty(len(some), np.float32)
        for pairs in np.split(order, starts[1:]):  # an image of many pairs is cropped once
            crops = normal(_crops(_square(self._vectors[places[pairs[0]]])))
            found[pairs] = (_flat(whole[pairs]) @ crops.T).max(axis=1)
        return found

    @functools.cached_property
    def _slow_crops(self) -> np.ndarray:
        crops = (_flat(self._strengths) @ _wave_crops()).reshape(len(self._strengths), -1, 64)
        crops[:, :, 0] = 0  # the mean
        lengths = np.sqrt(np.einsum("ncd,ncd->nc", crops, crops))
        return crops / np.maximum(lengths, 1e-6)[:, :, None]


def _laid_over(one: _Seen, other: _Seen, way: int, exact_from: float) -> np.ndarray:
    """Return the largest correlation of each pair in one orientation, exact unless it is small."""
    found = _overlap(one.strengths, _turned_waves(other.strengths, way)) + one.rests * other.rests
    near = np.flatnonzero(found > _GLANCE)
    found[near] = _overlap(one.vectors(near), turn(other.vectors(near), way))
    near = near[found[near] > _GLANCE]
    forth = _rough_crop(one.slow_crops(near), _turned_waves(other.strengths[near], way))
    back = _rough_crop(other.slow_crops(near), _turned_waves(one.strengths[near], BACK[way]))
    found[near] = np.maximum(forth, back)
    near = near[found[near] > exact_from]
    if len(near):
        forth = one.best_crops(near, turn(other.vectors(near), way))
        found[near] = np.maximum(forth, other.best_crops(near, turn(one.vectors(near), BACK[way])))
    return found


def _rough_crop(crops: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Approximate :meth:`_Seen.best_crops` from the 64 lowest frequencies only, [P, 28, 64] and [P, 8, 8]."""
    slow = _flat(whole)
    both = np.matmul(crops, slow[:, :, None])[:, :, 0]
    return (both / np.maximum(np.linalg.norm(slow[:, 1:], axis=1), 1e-6)[:, None]).max(axis=1)


def _overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    size = one[:1].size or 1
    return np.einsum("nd,nd->n", one.reshape(-1, size), other.reshape(-1, size))


def _flat(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(*pictures.shape[:-2], pictures.shape[-2] * pictures.shape[-1])


def _square(vectors: np.ndarray) -> np.ndarray:
    return vectors.reshape(*vectors.shape[:-1], THUMB, THUMB)


def _waves(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the coefficients float32 [N, 8, 8] of the low frequencies of normalized images, and the remainder [N]."""
    waves = _cosines()
    strengths = np.empty((len(thumbs), 8, 8), np.float32)
    for start in range(0, len(thumbs), 4096):
        strengths[start : start + 4096] = waves @ _square(normal(thumbs[start : start + 4096])) @ waves.T
    return strengths, np.sqrt(np.maximum(1 - np.square(strengths).sum(axis=(1, 2)), 0))


@functools.cache
def _cosines() -> np.ndarray:
    n = np.arange(THUMB)
    waves = np.cos(np.pi * (2 * n[None] + 1) * n[:8, None] / (2 * THUMB)) * np.sqrt(2 / THUMB)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


def _turned_waves(strengths: np.ndarray, way: int) -> np.ndarray:
    odd = 1 - 2 * (np.arange(8, dtype=np.float32) % 2)  # odd frequencies change their sign when mirrored
    turned = np.swapaxes(strengths, 1, 2) if way & 4 else strengths
    turned = turned * odd[:, None] if way & 2 else turned
    return turned * odd if way & 1 else turned


def _hashes(strengths: np.ndarray) -> np.ndarray:
    """Return DCT hashes, uint64 [N]: which of the 64 lowest frequencies exceed their median."""
    scale = np.where(np.arange(8) == 0, np.sqrt(2), 1).astype(np.float32)  # the hash uses cosines of equal amplitude
    flat = (strengths * scale[:, None] * scale).reshape(len(strengths), 64)
    bits = flat > np.median(flat[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = True  # the mean, which is not in the coefficients
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _crops(picture: np.ndarray) -> np.ndarray:
    """Return an image [32, 32] whole and cropped by up to 10 % of a side at nine places, [28, 32, 32]."""
    down, across = _window_matrices()
    return down @ picture @ across


@functools.cache
def _wave_crops() -> np.ndarray:
    """Return the same crops for frequency coefficients: a matrix [64, 28 * 64]."""
    waves = _cosines()
    small = [(waves @ down @ waves.T, waves @ across @ waves.T) for down, across in _windows()]
    return np.ascontiguousarray(np.concatenate([np.kron(down, across) for down, across in small]).T)


@functools.cache
def _window_matrices() -> tuple[np.ndarray, np.ndarray]:
    """Return the matrices of all windows, to multiply an image with from the left and from the right, [28, 32, 32]."""
    downs, acrosses = zip(*_windows(), strict=True)
    return np.stack(downs), np.stack([across.T for across in acrosses])


@functools.cache
def _windows() -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    found = []
    for share in (1.0, 0.975, 0.95, 0.9):
        for top, left in itertools.product((0.0,) if share == 1.0 else (0.0, 0.5, 1.0), repeat=2):
            found.append((_window(share, top), _window(share, left)))
    return tuple(found)


def _window(share: float, place: float) -> np.ndarray:
    """Return the linear interpolation from 32 pixels to 32 within a part of them."""
    at = np.clip(((np.arange(THUMB) + 0.5) * share + (1 - share) * place * THUMB) - 0.5, 0, THUMB - 1)
    low = np.minimum(np.floor(at).astype(int), THUMB - 2)
    weights = np.zeros((THUMB, THUMB), np.float32)
    weights[np.arange(THUMB), low] = 1 - (at - low)
    weights[np.arange(THUMB), low + 1] = at - low
    return weights
