"""Pictures that are there more than once: :func:`find_copies`.

Hides how a copy is told from a picture that is merely alike. The same bytes and the same pixels are certain. Beyond
those, small grey copies of the pictures are laid over each other, also mirrored and a little cropped, which finds a
photo again that was compressed, cropped by a few per cent, mirrored, brightened or made smaller.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from tfft.data.facts import THUMB, FileFacts

SIMILAR = 0.90  # correlation at which two pictures are taken for copies; measured in benchmarks/copies.py
_CANDIDATES = 18  # of the 64 bits of the hash that may differ
_GLANCE = 0.5  # correlation without shifting that a candidate needs; true copies have more
_TOO_ALIKE = 0.8  # correlation that 1 of 100 unrelated pictures may have, where copies can still be told
_SAMPLE = 2000
_UNRELATED = 0.8  # share of the pairs that are no copies in any data set of use
_BLOCK, _PAIRS = 512, 128
_MOST = 60_000  # pictures; the comparison of all with all takes about a minute then, and grows with the square
_FLATTEST = 4.0  # grey levels of deviation; what has less has no picture to compare


@dataclasses.dataclass(frozen=True)
class Copy:
    """Two pictures that are one.

    Attributes:
        first: position of one.
        second: position of the other, larger.
        kind: ``"file"`` (the same bytes), ``"pixels"`` (the same pixels, stored in another way) or ``"near"``.
        similarity: correlation of the two, 1 for the same pixels.
    """

    first: int
    second: int
    kind: Literal["file", "pixels", "near"]
    similarity: float = 1.0


@dataclasses.dataclass(frozen=True)
class Copies:
    """What :func:`find_copies` finds.

    Attributes:
        pairs: each picture with an earlier one that it is a copy of; of many copies each is named at least once.
        note: why near copies were not looked for; empty where they were.
    """

    pairs: tuple[Copy, ...]
    note: str = ""

    @property
    def positions(self) -> list[tuple[int, int]]:
        """The two positions of each pair."""
        return [(copy.first, copy.second) for copy in self.pairs]


def find_copies(facts: Sequence[FileFacts], near: bool = True) -> Copies:
    """Finds pictures that are the same, or were made from one another.

    The hash that chooses what is compared is the DCT hash of Zauner (Implementation and benchmarking of perceptual
    image hash functions, 2010) with a wide limit; what decides is the correlation, which a hash of 64 bits cannot: a
    crop of 5 % of the width changes as many of its bits as another photo of the same kind may.

    Args:
        facts: of files that can be decoded, as :func:`tfft.data.facts.examine_all` gives them.
        near: False finds the same bytes and pixels only.

    Returns:
        :class:`Copies`. Near copies are not looked for where unrelated pictures are about as similar as copies are,
        such as drawings of one digit, nor among more than 60,000 pictures.
    """
    pairs = list(_same(facts))
    if not near:
        return Copies(tuple(pairs))
    later = {copy.second for copy in pairs}
    alone = [at for at, f in enumerate(facts) if at not in later and f.thumb is not None and f.thumb.std() > _FLATTEST]
    if len(alone) < 2:
        return Copies(tuple(pairs))
    if len(alone) > _MOST:
        note = f"near copies are not looked for among more than {_MOST:,} pictures, only equal files and pixels"
        return Copies(tuple(pairs), note)
    thumbs = np.stack([facts[at].thumb for at in alone])
    usual = _usual_similarity(thumbs)
    if usual > _TOO_ALIKE:
        note = f"near copies are not looked for: 1 of 100 unrelated pictures is {usual:.2f} similar to another"
        return Copies(tuple(pairs), f"{note}, and copies are {SIMILAR:.2f} and more")
    left, right = candidates(thumbs)
    found = similarity(thumbs, left, right)
    for i in np.flatnonzero(found >= SIMILAR):
        pairs.append(Copy(alone[left[i]], alone[right[i]], "near", round(float(found[i]), 4)))
    return Copies(tuple(sorted(pairs, key=lambda copy: (copy.first, copy.second))))


def candidates(thumbs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the positions of pairs that may be copies, from small grey pictures uint8 [N, 32, 32]."""
    plain, mirrored = _hashes(thumbs), _hashes(thumbs[:, :, ::-1])
    base, turned = _normal(thumbs), _normal(thumbs[:, :, ::-1])
    lefts, rights = [], []
    for start in range(0, len(thumbs), _BLOCK):
        rows = slice(start, start + _BLOCK)
        differ = np.minimum(
            np.bitwise_count(plain[rows, None] ^ plain[None, :]),
            np.bitwise_count(plain[rows, None] ^ mirrored[None, :]),
        )
        left, right = np.nonzero(differ <= _CANDIDATES)
        left = left + start
        later = right > left
        left, right = left[later], right[later]
        for at in range(0, len(left), 65536):
            one, other = left[at : at + 65536], right[at : at + 65536]
            glance = np.maximum(
                np.einsum("nd,nd->n", base[one], base[other]), np.einsum("nd,nd->n", turned[one], base[other])
            )
            lefts.append(one[glance > _GLANCE])
            rights.append(other[glance > _GLANCE])
    empty = np.zeros(0, np.int64)
    return np.concatenate([empty, *lefts]), np.concatenate([empty, *rights])


def similarity(thumbs: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns the largest correlation of pairs of pictures over small crops of either and both ways round.

    Args:
        thumbs: uint8 [N, 32, 32].
        left: positions [P].
        right: positions [P].

    Returns:
        float32 [P], at most 1.
    """
    found = np.zeros(len(left), np.float32)
    for start in range(0, len(left), _PAIRS):
        part = slice(start, start + _PAIRS)
        one, other = (thumbs[at[part]].astype(np.float32) for at in (left, right))
        for cropped, whole in ((one, other), (other, one)):
            crops = _normal(_crops(cropped))
            for turned in (whole, whole[:, :, ::-1]):
                now = np.matmul(crops, _normal(turned)[:, :, None])[:, :, 0].max(axis=1)
                found[part] = np.maximum(found[part], now)
    return found


def _same(facts: Sequence[FileFacts]) -> Iterator[Copy]:
    files: dict[str, int] = {}
    pixels: dict[str, int] = {}
    for at, one in enumerate(facts):
        if not one.pixels:
            continue
        if one.digest in files:
            yield Copy(files[one.digest], at, "file")
        elif one.pixels in pixels:
            yield Copy(pixels[one.pixels], at, "pixels")
        files.setdefault(one.digest, at)
        pixels.setdefault(one.pixels, at)


def _usual_similarity(thumbs: np.ndarray) -> float:
    """What 99 of 100 pairs of pictures stay below, true copies left out; 1 where too many would be copies."""
    random = np.random.default_rng(0)
    left = random.integers(0, len(thumbs), _SAMPLE)
    right = (left + random.integers(1, len(thumbs), _SAMPLE)) % len(thumbs)
    if len(thumbs) < 40:  # few pairs, of which true copies would be a good part
        return 0.0
    found = similarity(thumbs, left, right)
    # Copies are far above other pairs. What is merely alike has all similarities up to that of copies, and beyond.
    unrelated = found[found < SIMILAR]
    return float(np.quantile(unrelated, 0.99)) if len(unrelated) > _UNRELATED * _SAMPLE else 1.0


def _hashes(thumbs: np.ndarray) -> np.ndarray:
    """DCT hashes, uint64 [N]: which of the 64 slowest waves are stronger than the median of them."""
    n = np.arange(THUMB)
    waves = np.cos(np.pi * (2 * n[None] + 1) * n[:8, None] / (2 * THUMB)).astype(np.float32)
    strengths = (waves @ thumbs.astype(np.float32) @ waves.T).reshape(len(thumbs), 64)
    bits = strengths > np.median(strengths[:, 1:], axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _normal(pictures: np.ndarray) -> np.ndarray:
    """Pictures [..., 32, 32] as vectors [..., 1024] of mean 0 and length 1."""
    flat = pictures.reshape(*pictures.shape[:-2], -1).astype(np.float32)
    flat = flat - flat.mean(axis=-1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-3)


def _crops(pictures: np.ndarray) -> np.ndarray:
    """Pictures [N, 32, 32] whole and cropped by up to 10 % of a side at nine places, [N, 28, 32, 32]."""
    return np.stack([down @ pictures @ across.T for down, across in _windows()], axis=1)


def _windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for share in (1.0, 0.975, 0.95, 0.9):
        places = (0.0,) if share == 1.0 else (0.0, 0.5, 1.0)
        for top in places:
            for left in places:
                yield _window(share, top), _window(share, left)


def _window(share: float, place: float) -> np.ndarray:
    """Linear interpolation from 32 pixels to 32 within a part of them."""
    at = np.clip(((np.arange(THUMB) + 0.5) * share + (1 - share) * place * THUMB) - 0.5, 0, THUMB - 1)
    low = np.minimum(np.floor(at).astype(int), THUMB - 2)
    weights = np.zeros((THUMB, THUMB), np.float32)
    weights[np.arange(THUMB), low] = 1 - (at - low)
    weights[np.arange(THUMB), low + 1] = at - low
    return weights
