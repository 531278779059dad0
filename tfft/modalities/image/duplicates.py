"""Search for duplicate images: :func:`find_duplicates`.

Implementation notes: equal bytes and equal pixels are certain. Near duplicates are found by correlating small grayscale
versions, also mirrored, rotated by quarter turns and slightly cropped; promising pairs are read again and laid over
each other exactly at a larger size. This detects photos that were compressed, cropped by a few per cent, mirrored,
rotated, brightened or reduced. The limit follows from the images (:mod:`tfft.modalities.image.duplicate_limits`).
:func:`tfft.modalities.image.crops.find_cropped_duplicates` finds larger crops.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import numpy as np

from tfft.data.duplicates import Duplicate, Duplicates
from tfft.modalities.image.crop_alignment import LARGE, part_similarity
from tfft.modalities.image.duplicate_limits import Limits, detail, is_rotated, limits_of, little_detail
from tfft.modalities.image.file_info import THUMB, ImageFileInfo, grey_image
from tfft.modalities.image.thumbnails import BACK, EVERY_WAY, EXACT, UPRIGHT, candidates, similarity, turned_words

SIMILAR = 0.90  # least limit of the correlation of duplicates; measured in benchmarks/copies.py
_PROMISING = 0.85  # correlation of small versions from which both files are read again
_CLEAR = 0.98  # correlation of small versions that needs no second look
_LOOKS, _MOST_LOOKS = 300, 2000  # pairs that are read again: at least so many, or half as many as images; at most
_SAMPLE = 1000  # images to estimate the number of pairs to compare
_MOST_PAIRS = 500_000  # comparing them then takes about a minute
_MOST_EXACT = 5000  # pairs compared at all frequencies; more are alike only in sets whose limit is higher
_MOST = 60_000  # images; comparing all pairs then takes about a minute, and grows quadratically
_PAPER = 2  # range of grey levels that counts as uniform background
_FLATTEST = 4.0  # standard deviation in grey levels; images with less have no content to compare
_KEPT = 256  # images of 96 x 96 pixels in memory


def find_duplicates(facts: Sequence[ImageFileInfo], near: bool = True) -> Duplicates:
    """Find images that are equal, or were made from one another.

    Candidates are chosen by the DCT hash of Zauner (Implementation and benchmarking of perceptual image hash functions,
    2010) with a wide limit; the correlation decides, which a 64-bit hash cannot: a crop of 5 % of the width may change
    as many bits as another photo of the same kind.

    Args:
        facts: Statistics of decodable files, from :func:`tfft.modalities.image.file_info.examine_all`.
        near: Whether to find near duplicates, beyond equal bytes and pixels.

    Returns:
        :class:`Duplicates`. The note states the minimum similarity, which is higher the more alike unrelated images of
        the set are, and which duplicates cannot be distinguished at all: those of drawings of one digit, or rotated
        ones. Near duplicates are not searched among more than 60,000 images; rotated ones never among drawings, such
        as 6 and 9.
    """
    pairs = list(_same(facts))
    if not near:
        return Duplicates(tuple(pairs))
    alone = comparable(facts, Duplicates(tuple(pairs)))
    if len(alone) < 2:
        return Duplicates(tuple(pairs))
    if len(alone) > _MOST:
        note = f"among more than {_MOST:,} images, only identical files and pixels are searched for"
        return Duplicates(tuple(pairs), note)
    thumbs = np.stack([thumb_of(facts[at]) for at in alone])
    if (count := _expected_pairs(thumbs)) > _MOST_PAIRS:
        note = f"near duplicates are not searched for: the images are so similar that {count:,} pairs would be compared"
        return Duplicates(tuple(pairs), note)
    left, right, found, way, start = _compared(thumbs, [facts[at].path for at in alone])
    rotated, plain = is_rotated(way), little_detail(detail(thumbs), left, right)
    limits = limits_of(left, right, found, rotated, plain, SIMILAR, start)
    for i in np.flatnonzero(limits.accepts(found, rotated, plain)):
        one, other, alike = alone[left[i]], alone[right[i]], round(float(found[i]), 4)
        pairs.append(Duplicate(one, other, "near", alike, turned_words(way[i])))
    pairs.sort(key=lambda copy: (copy.first, copy.second))
    return Duplicates(tuple(pairs), limits.words("near duplicates", "rotated duplicates"), _ways(limits))


def _expected_pairs(thumbs: np.ndarray) -> int:
    """Return about how many pairs the hashes leave to compare."""
    if len(thumbs) <= _SAMPLE:
        return 0
    some = np.random.default_rng(0).choice(len(thumbs), _SAMPLE, replace=False)
    return int(len(candidates(thumbs[some])[0]) * (len(thumbs) / _SAMPLE) ** 2)


def _compared(thumbs: np.ndarray, paths: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Return the pairs that are somewhat similar.

    Returns:
        Two arrays of positions, their similarity and orientation, all [P]; and the similarity from which on none is
        missing.
    """
    left, right = candidates(thumbs)
    rough, _ = similarity(thumbs, left, right, exact_from=np.inf)
    some = np.flatnonzero(rough > EXACT)
    some = some[np.argsort(-rough[some], kind="stable")]
    start = EXACT if len(some) <= _MOST_EXACT else float(rough[some[_MOST_EXACT]])
    some = np.sort(some[:_MOST_EXACT])
    left, right = left[some], right[some]
    found, way = np.empty(len(left), np.float32), np.empty(len(left), np.int64)
    drawn = drawings(thumbs)
    symbols = drawn[left] | drawn[right]
    # A rotated symbol may be another one, as for 6, even if no other pair in the dataset is similar.
    for of, ways in ((symbols, UPRIGHT), (~symbols, EVERY_WAY)):
        found[of], way[of] = similarity(thumbs, left[of], right[of], ways)
    _look_again(paths, left, right, found, way)
    return left, right, found, way, start


def _look_again(paths: Sequence[str], left: np.ndarray, right: np.ndarray, found: np.ndarray, way: np.ndarray) -> None:
    """Lay promising pairs over each other at a larger size, where duplicates are more similar."""
    read = functools.lru_cache(_KEPT)(lambda at: grey_image(paths[at], LARGE))
    again = np.flatnonzero((found >= _PROMISING) & (found < _CLEAR))
    most = min(max(_LOOKS, len(paths) // 2), _MOST_LOOKS)
    again = np.sort(again[np.argsort(-found[again], kind="stable")[:most]])
    everything = (0, 0, THUMB, THUMB)
    for i in again:
        one, other = read(int(left[i])), read(int(right[i]))
        if one is not None and other is not None:
            forth = part_similarity(one, other, (int(way[i]), *everything))
            back = part_similarity(other, one, (BACK[way[i]], *everything))
            found[i] = max(found[i], forth, back)


def _ways(limits: Limits) -> tuple[int, ...]:
    """Return the orientations in which duplicates of any images can be distinguished from others."""
    return () if limits.hides(False) else UPRIGHT if limits.hides(True) else EVERY_WAY


def comparable(facts: Sequence[ImageFileInfo], found: Duplicates) -> list[int]:
    """Return the positions of the images to compare; of equal ones the first only."""
    later = {copy.second for copy in found.pairs if copy.kind in ("file", "pixels")}
    return [at for at, f in enumerate(facts) if at not in later and f.thumb is not None and f.thumb.std() > _FLATTEST]


def thumb_of(facts: ImageFileInfo) -> np.ndarray:
    """Return the small version of a decoded image."""
    assert facts.thumb is not None  # noqa: S101
    return facts.thumb


def drawings(thumbs: np.ndarray) -> np.ndarray:
    """Return which images are mostly of one grey level, as symbols on paper usually are and photos rarely.

    Args:
        thumbs: Small images, uint8 [N, 32, 32].

    Returns:
        bool [N].
    """
    flat = thumbs.reshape(len(thumbs), -1).astype(np.int16)
    paper = np.median(flat, axis=1, keepdims=True)
    return (np.abs(flat - paper) <= _PAPER).mean(axis=1) > 0.5


def _same(facts: Sequence[ImageFileInfo]) -> Iterator[Duplicate]:
    files: dict[str, int] = {}
    pixels: dict[str, int] = {}
    for at, one in enumerate(facts):
        if not one.pixels:
            continue
        if one.digest in files:
            yield Duplicate(files[one.digest], at, "file")
        elif one.pixels in pixels:
            yield Duplicate(pixels[one.pixels], at, "pixels")
        files.setdefault(one.digest, at)
        pixels.setdefault(one.pixels, at)
