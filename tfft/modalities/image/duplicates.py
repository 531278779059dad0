"""Pictures that are there more than once: :func:`find_duplicates`.

Hides how a copy is told from a picture that is merely alike. The same bytes and the same pixels are certain. Beyond
those, small grey copies of the pictures are laid over each other, also mirrored, rotated by quarter turns and a little
cropped, which finds a photo again that was compressed, cropped by a few per cent, mirrored, rotated, brightened or made
smaller. Larger crops are found by :func:`tfft.modalities.image.crops.find_cropped_duplicates`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfft.data.duplicates import Duplicate, Duplicates
from tfft.modalities.image.file_info import ImageFileInfo
from tfft.modalities.image.thumbnails import EVERY_WAY, UPRIGHT, candidates, similarity, turned_words

SIMILAR = 0.90  # correlation at which two pictures are taken for copies; measured in benchmarks/copies.py
_TOO_ALIKE = 0.8  # correlation that 1 of 100 unrelated pictures may have, where copies can still be told
_SAMPLE = 2000
_UNRELATED = 0.8  # share of the pairs that are no copies in any data set of use
_MOST = 60_000  # pictures; the comparison of all with all takes about a minute then, and grows with the square
_PAPER = 2  # grey levels between which paper is one grey
_FLATTEST = 4.0  # grey levels of deviation; what has less has no picture to compare


def find_duplicates(facts: Sequence[ImageFileInfo], near: bool = True) -> Duplicates:
    """Find pictures that are the same, or were made from one another.

    The hash that chooses what is compared is the DCT hash of Zauner (Implementation and benchmarking of perceptual
    image hash functions, 2010) with a wide limit; what decides is the correlation, which a hash of 64 bits cannot: a
    crop of 5 % of the width changes as many of its bits as another photo of the same kind may.

    Args:
        facts: of files that can be decoded, as :func:`tfft.modalities.image.file_info.examine_all` gives them.
        near: False finds the same bytes and pixels only.

    Returns:
        :class:`Duplicates`. Near copies are not looked for where unrelated pictures are about as similar as copies are,
        such as drawings of one digit, nor among more than 60,000 pictures; rotated ones not where that is so of
        rotated pictures, and never among drawings, such as 6 and 9.
    """
    pairs = list(_same(facts))
    if not near:
        return Duplicates(tuple(pairs))
    alone = comparable(facts, Duplicates(tuple(pairs)))
    if len(alone) < 2:
        return Duplicates(tuple(pairs))
    if len(alone) > _MOST:
        note = f"near copies are not looked for among more than {_MOST:,} pictures, only equal files and pixels"
        return Duplicates(tuple(pairs), note)
    thumbs = np.stack([thumb_of(facts[at]) for at in alone])
    ways, note = _ways(thumbs)
    if not ways:
        return Duplicates(tuple(pairs), note)
    left, right = candidates(thumbs, ways)
    found, way = similarity(thumbs, left, right, ways)
    # A symbol may be another one when it is rotated, as 6 is, even where no other pair of a data set is alike.
    drawn = drawings(thumbs)
    symbols = np.flatnonzero((drawn[left] | drawn[right]) & ~np.isin(way, UPRIGHT))
    found[symbols], way[symbols] = similarity(thumbs, left[symbols], right[symbols], UPRIGHT)
    for i in np.flatnonzero(found >= SIMILAR):
        one, other, alike = alone[left[i]], alone[right[i]], round(float(found[i]), 4)
        pairs.append(Duplicate(one, other, "near", alike, turned_words(way[i])))
    return Duplicates(tuple(sorted(pairs, key=lambda copy: (copy.first, copy.second))), note, ways)


def comparable(facts: Sequence[ImageFileInfo], found: Duplicates) -> list[int]:
    """Positions of the pictures that can be laid over others; of equal ones the first only."""
    later = {copy.second for copy in found.pairs if copy.kind in ("file", "pixels")}
    return [at for at, f in enumerate(facts) if at not in later and f.thumb is not None and f.thumb.std() > _FLATTEST]


def thumb_of(facts: ImageFileInfo) -> np.ndarray:
    """Return the small copy of a picture that could be decoded."""
    assert facts.thumb is not None  # noqa: S101
    return facts.thumb


def drawings(thumbs: np.ndarray) -> np.ndarray:
    """Tells which pictures are mostly of one grey, as symbols on paper are and photos seldom.

    Args:
        thumbs: uint8 [N, 32, 32].

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
    """What 99 of 100 pairs of pictures stay below, true copies left out; 1 where too many would be copies.

    Args:
        count: of the pictures.
        similar: the search that decides what is a copy, from two arrays of positions.
        sample: pairs to look at.
        limit: similarity of copies.
    """
    if count < 40:  # few pairs, of which true copies would be a good part
        return 0.0
    random = np.random.default_rng(0)
    left = random.integers(0, count, sample)
    found = similar(left, (left + random.integers(1, count, sample)) % count)
    # Duplicates are far above other pairs. What is merely alike has all similarities up to that of copies, and beyond.
    unrelated = found[found < limit]
    return float(np.quantile(unrelated, 0.99)) if len(unrelated) > _UNRELATED * sample else 1.0


def in_doubt(what: str, usual: float, limit: float = SIMILAR) -> str:
    """Says why something is not looked for."""
    alike = f"1 of 100 unrelated pictures is {usual:.2f} similar to another, and copies are {limit:.2f} and more"
    return f"{what} are not looked for: {alike}"


def _ways(thumbs: np.ndarray) -> tuple[tuple[int, ...], str]:
    """In which orientations copies can be told from other pictures, and a note where not in all."""
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
