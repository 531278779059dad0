"""Pictures that are parts of others: :func:`find_cropped_duplicates`.

Hides which pairs are looked at, out of all: those whose features, of any backbone, are nearest to each other. What
decides is the picture itself, read again at a larger size where a small one says that it may be worth it.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tfft.data.duplicates import Duplicate, Duplicates
from tfft.modalities.image.crop_alignment import LARGE, best_parts, part_similarity
from tfft.modalities.image.duplicates import comparable, drawings, in_doubt, thumb_of, usual_similarity
from tfft.modalities.image.file_info import ImageFileInfo, grey_picture
from tfft.modalities.image.thumbnails import turned_words

SIMILAR_PART = 0.95  # correlation from which on; of many places that are tried one fits better than for whole pictures
_NEAREST = 3  # pictures to which each is compared; measured in benchmarks/copies.py
_ROUGH = 0.7  # correlation at 32 x 32 pixels from which on files are read again; all but a few true copies have more
_TOO_ALIKE = 0.86  # as for near copies, and more: of so many parts one is more alike; 0.73 to 0.80 among photos
_SAMPLE = 200
_BLOCK = 256
_KEPT = 256  # pictures of 96 x 96 pixels in memory

_Decided = tuple[float, int]  # similarity and orientation


def find_cropped_duplicates(facts: Sequence[ImageFileInfo], features: np.ndarray, found: Duplicates) -> Duplicates:
    """Find pictures that are crops of others, of 60 % of a side and more, which features tell are alike.

    Features of a network choose candidates, as for the copies of Douze et al. (The 2021 image similarity dataset and
    challenge, 2021); they do not decide, since different pictures of one thing have features nearly as near.

    Args:
        facts: as :func:`find_duplicates` takes them.
        features: of each, [N, D].
        found: what :func:`find_duplicates` found among them; it is not found again.

    Returns:
        :class:`Duplicates` with the further pairs, of kind ``"part"``. Nothing is looked for where that
        function did not, nor among drawings.
    """
    alone = comparable(facts, found)
    alone = [at for at in alone if not drawings(thumb_of(facts[at])[None])[0]]  # a line is a part of many symbols
    if not found.ways or len(alone) < 2:
        return Duplicates(())
    decide = decider([facts[at] for at in alone], found.ways)

    def similar(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.array([value for value, _ in decide(left, right)])

    usual = usual_similarity(len(alone), similar, _SAMPLE, SIMILAR_PART)
    if usual > _TOO_ALIKE:
        return Duplicates((), in_doubt("parts of pictures", usual, SIMILAR_PART))
    known = set(found.positions)
    pairs = [pair for pair in neighbours(features[alone]) if (alone[pair[0]], alone[pair[1]]) not in known]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    return Duplicates(
        tuple(
            Duplicate(alone[one], alone[other], "part", round(value, 4), turned_words(way))
            for one, other, (value, way) in zip(left, right, decide(left, right), strict=True)
            if value >= SIMILAR_PART
        ),
        ways=found.ways,
    )


def neighbours(features: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of pictures of which one is among the three nearest of the other, by the angle of their features.

    Args:
        features: [N, D].
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
    """Return what tells of pairs how similar one is to the best part of the other, whichever is the larger.

    Args:
        facts: of the pictures.
        ways: orientations to try.
    """
    read = functools.lru_cache(_KEPT)(lambda at: grey_picture(facts[at].path, LARGE))

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
