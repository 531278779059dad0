"""Search for duplicate images: :func:`find_duplicates`.

Implementation notes: equal bytes and equal pixels are certain. Near duplicates are found by correlating small grayscale
versions, also mirrored, rotated by quarter turns and slightly cropped, which detects photos that were compressed,
cropped by a few per cent, mirrored, rotated, brightened or reduced. Larger crops are found by
:func:`tfft.modalities.image.crops.find_cropped_duplicates`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfft.data.duplicates import Duplicate, Duplicates
from tfft.modalities.image.file_info import ImageFileInfo
from tfft.modalities.image.thumbnails import EVERY_WAY, UPRIGHT, candidates, similarity, turned_words

SIMILAR = 0.90  # minimum correlation of duplicates; measured in benchmarks/copies.py
_TOO_ALIKE = 0.8  # maximum 99th percentile of the correlation of unrelated images for a reliable search
_SAMPLE = 2000
_UNRELATED = 0.8  # share of pairs that are not duplicates in any useful dataset
_MOST = 60_000  # images; comparing all pairs then takes about a minute, and grows quadratically
_PAPER = 2  # range of grey levels that counts as uniform background
_FLATTEST = 4.0  # standard deviation in grey levels; images with less have no content to compare


def find_duplicates(facts: Sequence[ImageFileInfo], near: bool = True) -> Duplicates:
    """Find images that are equal, or were made from one another.

    Candidates are chosen by the DCT hash of Zauner (Implementation and benchmarking of perceptual image hash functions,
    2010) with a wide limit; the correlation decides, which a 64-bit hash cannot: a crop of 5 % of the width may change
    as many bits as another photo of the same kind.

    Args:
        facts: Statistics of decodable files, from :func:`tfft.modalities.image.file_info.examine_all`.
        near: Whether to find near duplicates, beyond equal bytes and pixels.

    Returns:
        :class:`Duplicates`. Near duplicates are not searched if unrelated images are about as similar as duplicates,
        such as drawings of one digit, nor among more than 60,000 images; rotated ones not if the same holds for rotated
        images, and never among drawings, such as 6 and 9.
    """
    pairs = list(_same(facts))
    if not near:
        return Duplicates(tuple(pairs))
    alone = comparable(facts, Duplicates(tuple(pairs)))
    if len(alone) < 2:
        return Duplicates(tuple(pairs))
    if len(alone) > _MOST:
        note = f"among more than {_MOST:,} images, only equal files and pixels are searched, not near duplicates"
        return Duplicates(tuple(pairs), note)
    thumbs = np.stack([thumb_of(facts[at]) for at in alone])
    ways, note = _ways(thumbs)
    if not ways:
        return Duplicates(tuple(pairs), note)
    left, right = candidates(thumbs, ways)
    found, way = similarity(thumbs, left, right, ways)
    # A rotated symbol may be another one, as for 6, even if no other pair in the dataset is similar.
    drawn = drawings(thumbs)
    symbols = np.flatnonzero((drawn[left] | drawn[right]) & ~np.isin(way, UPRIGHT))
    found[symbols], way[symbols] = similarity(thumbs, left[symbols], right[symbols], UPRIGHT)
    for i in np.flatnonzero(found >= SIMILAR):
        one, other, alike = alone[left[i]], alone[right[i]], round(float(found[i]), 4)
        pairs.append(Duplicate(one, other, "near", alike, turned_words(way[i])))
    return Duplicates(tuple(sorted(pairs, key=lambda copy: (copy.first, copy.second))), note, ways)


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


def usual_similarity(
    count: int,
    similar: Callable[[np.ndarray, np.ndarray], np.ndarray],
    sample: int = _SAMPLE,
    limit: float = SIMILAR,
) -> float:
    """Return the 99th percentile of the similarity of unrelated pairs; 1 if too many would be duplicates.

    Args:
        count: Number of images.
        similar: Function that computes the similarity, from two arrays of positions.
        sample: Number of pairs to compare.
        limit: Minimum similarity of duplicates.
    """
    if count < 40:  # few pairs, of which true duplicates could be a large part
        return 0.0
    random = np.random.default_rng(0)
    left = random.integers(0, count, sample)
    found = similar(left, (left + random.integers(1, count, sample)) % count)
    # Duplicates are far above other pairs. In a dataset of similar images, similarities are continuous up to that of
    # duplicates.
    unrelated = found[found < limit]
    return float(np.quantile(unrelated, 0.99)) if len(unrelated) > _UNRELATED * sample else 1.0


def in_doubt(what: str, usual: float, limit: float = SIMILAR) -> str:
    """Return a note why a search is skipped."""
    alike = f"1 % of unrelated pairs have a similarity above {usual:.2f}, and the limit for duplicates is {limit:.2f}"
    return f"{what} are not searched: {alike}"


def _ways(thumbs: np.ndarray) -> tuple[tuple[int, ...], str]:
    """Return the orientations in which duplicates can be detected, and a note if some are excluded."""
    for ways, rest, what in ((UPRIGHT, (), "near copies"), (EVERY_WAY, UPRIGHT, "rotated copies")):
        usual = usual_similarity(len(thumbs), functools.partial(_similarity, thumbs, ways))
        if usual > _TOO_ALIKE:
            return rest, in_doubt(what, usual)
    return EVERY_WAY, ""


def _similarity(thumbs: np.ndarray, ways: tuple[int, ...], one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return similarity(thumbs, one, other, ways)[0]


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
