"""Images that are crops of others: :func:`find_cropped_duplicates`.

Implementation notes: features of a backbone choose the candidate pairs; the pixels decide, read again at a larger size
if a small version is promising.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfft.data.duplicates import Duplicate, Duplicates
from tfft.modalities.image.crop_alignment import LARGE, best_parts, part_similarity
from tfft.modalities.image.duplicate_limits import detail, is_rotated, limits_of, little_detail
from tfft.modalities.image.duplicates import comparable, drawings, thumb_of
from tfft.modalities.image.file_info import ImageFileInfo, grey_image
from tfft.modalities.image.thumbnails import turned_words

SIMILAR_PART = 0.95  # least limit of the correlation; higher than for whole images, since many places are tried
_NEAREST = 3  # images to which each is compared; measured in benchmarks/copies.py
_ROUGH = 0.7  # minimum correlation at 32 x 32 pixels for reading files again; almost all true crops exceed it
_COUNTED = 0.88  # minimum correlation of the pairs from which the limit follows
_BLOCK = 256
_KEPT = 256  # images of 96 x 96 pixels in memory

_Decided = tuple[float, int]  # similarity and orientation


def find_cropped_duplicates(facts: Sequence[ImageFileInfo], features: np.ndarray, found: Duplicates) -> Duplicates:
    """Find images that are crops of others, of at least 60 % of a side, with the help of features.

    Features of a network choose candidates, as for the copies of Douze et al. (The 2021 image similarity dataset and
    challenge, 2021); they do not decide, since different images of one object have features nearly as close.

    Args:
        facts: Statistics of the files, as for :func:`find_duplicates`.
        features: Features of each image, [N, D].
        found: Result of :func:`find_duplicates`; its pairs are not reported again.

    Returns:
        :class:`Duplicates` with the additional pairs, of kind ``"part"``. The search is skipped under the same
        conditions as in that function, and among drawings.
    """
    alone = comparable(facts, found)
    alone = [at for at in alone if not drawings(thumb_of(facts[at])[None])[0]]  # a line is part of many symbols
    if not found.ways or len(alone) < 2:
        return Duplicates(())
    known = set(found.positions)
    pairs = [pair for pair in neighbours(features[alone]) if (alone[pair[0]], alone[pair[1]]) not in known]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    decided = list(decider([facts[at] for at in alone], found.ways)(left, right))
    similar, way = np.array(decided, float).reshape(-1, 2).T
    rotated = is_rotated(way)
    plain = little_detail(detail(np.stack([thumb_of(facts[at]) for at in alone])), left, right)
    limits = limits_of(left, right, similar, rotated, plain, SIMILAR_PART, _COUNTED)
    return Duplicates(
        tuple(
            Duplicate(alone[left[i]], alone[right[i]], "part", round(similar[i], 4), turned_words(int(way[i])))
            for i in np.flatnonzero(limits.accepts(similar, rotated, plain))
        ),
        limits.words("parts of images", "rotated parts"),
        found.ways,
    )


def neighbours(features: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of images in which one is among the three nearest of the other, by cosine of their features.

    Args:
        features: Features [N, D].
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(lengths, 1e-6)).astype(np.float32)
    count = min(_NEAREST, len(unit) - 1)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(unit), _BLOCK):
        close = unit[start : start + _BLOCK] @ unit.T
        rows = np.arange(len(close))
        close[rows, start + rows] = -np.inf
        for one, nearest in enumerate(np.argpartition(close, -count, axis=1)[:, -count:], start):
            pairs.update((min(one, int(other)), max(one, int(other))) for other in nearest)
    return sorted(pairs)


def decider(
    facts: Sequence[ImageFileInfo], ways: Sequence[int]
) -> Callable[[np.ndarray, np.ndarray], Iterator[_Decided]]:
    """Return a function that computes the similarity of pairs: of one image and the best part of the other.

    Args:
        facts: Statistics of the images.
        ways: Orientations to try.
    """
    read = functools.lru_cache(_KEPT)(lambda at: grey_image(facts[at].path, LARGE))

    def decide(left: np.ndarray, right: np.ndarray) -> Iterator[_Decided]:
        partners = defaultdict(set)
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            partners[one].add(other)
            partners[other].add(one)
        rough = {}
        for whole, others in partners.items():
            own = sorted(others)
            best, where = best_parts(thumb_of(facts[whole]), np.stack([thumb_of(facts[at]) for at in own]), ways)
            rough.update({(whole, part): (float(best[i]), where[i]) for i, part in enumerate(own)})
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            whole, part = max(((one, other), (other, one)), key=lambda pair: rough[pair][0])
            value, where = rough[whole, part]
            if value >= _ROUGH:
                large, small = read(whole), read(part)
                value = 0.0 if large is None or small is None else part_similarity(large, small, where)
            yield value, int(where[0])

    return decide
