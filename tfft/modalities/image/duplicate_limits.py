"""How similar two images must be to count as duplicates: :func:`limits_of`, :func:`detail`.

Implementation notes: the limit follows from the images compared. Near 1, the number of unrelated pairs above a
similarity ``s`` falls as a power of ``1 - s``, whose exponent is the number of independent details that must agree by
chance (the maximum likelihood estimate of Levina and Bickel, Maximum likelihood estimation of intrinsic dimension,
2005, here of a truncated tail and with a prior). It is fitted below the duplicates and extrapolated to where the
expected number of false pairs is as small as wanted, as in a-contrario detection (Desolneux, Moisan and Morel, From
Gestalt theory to image analysis, 2008). Images with little detail have a limit of their own: they would hide in the
many pairs of the others.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from tfft.modalities.image.thumbnails import UPRIGHT, normal

ALLOWED = 0.05  # expected number of false pairs of a check
_SHARES = 5  # upright and rotated, with much and little detail, and parts
_LITTLE = 24.0  # effective number of waves; about a fifth of photos have fewer, half have more than 40
_SURE = 0.97  # almost all duplicates that were laid over each other exactly have more
_HIGHEST = 0.998  # beyond it, grey levels are too coarse
_STRAY = 20  # one of so many duplicates is not laid over exactly
_TAIL = 400  # pairs that suffice for a fit; fewer are nearer to the limit
_LOCAL = 0.94  # highest start of a fit, for a range that tells the exponent
_USUAL, _TRUST = 8.0, 12.0  # exponent among photos, and the number of pairs which that is worth
_LATEST = 0.955  # highest start of a fit at all
_OPEN = 0.5  # open chains for each pair; duplicates of one image are similar to each other as well
_CHAINS = 10  # pairs from which open chains tell that similarity is not a duplicate
_EXPONENTS = np.exp(np.linspace(np.log(0.25), np.log(60), 200))
_FURTHER = np.linspace(0, 8, 801)  # logarithm of how much nearer to 1

Group = tuple[bool, bool]  # rotated, little detail
_GROUPS: tuple[Group, ...] = ((False, False), (True, False), (False, True), (True, True))


@dataclasses.dataclass(frozen=True)
class Limits:
    """Minimum similarities of duplicates.

    Attributes:
        of_group: Limit by (rotated, little detail); infinite if unrelated images are as similar as
            duplicates.
        least: Lowest limit.
        seen: Groups that have pairs which are somewhat similar.
    """

    of_group: dict[Group, float]
    least: float
    seen: frozenset[Group]

    def accepts(self, similar: np.ndarray, rotated: np.ndarray, plain: np.ndarray) -> np.ndarray:
        """Return which pairs are duplicates, bool [P]; arguments as for :func:`limits_of`."""
        known = [self.of_group[bool(a), bool(b)] for a, b in zip(rotated, plain, strict=True)]
        return similar >= np.array(known, float).reshape(-1)

    def hides(self, rotated: bool) -> bool:
        """Return whether no duplicates, or no rotated ones, can be distinguished from unrelated images."""
        seen = {plain for turned, plain in self.seen if rotated or not turned}
        return bool(seen) and all(np.isinf(self.of_group[rotated, plain]) for plain in seen)

    def words(self, what: str, rotated: str) -> str:
        """Return the limits, and what is not searched, as a part of a sentence.

        Args:
            what: Name of all pairs.
            rotated: Name of the rotated ones.
        """
        alike = "unrelated images of this set are as similar as duplicates"
        if self.hides(False):
            return f"{what} are not searched for: {alike}"
        little = " of images with little detail"
        names = dict(zip(_GROUPS, (what, rotated, what + little, rotated + little), strict=True))
        raised = [
            f"{self.of_group[group]:.3f} for {names[group]}"
            for group in _GROUPS
            if group in self.seen and self.least < self.of_group[group] < np.inf
        ]
        limits = f"{self.least:.2f}{' (' if raised else ''}{', '.join(raised)}{')' if raised else ''}"
        lines = [f"{what} have a similarity of at least {limits}, where at most {ALLOWED} false pairs are expected"]
        for plain in (False, True):
            hidden = [turned for turned in (False, True) if np.isinf(self.of_group[turned, plain])]
            if hidden and any((turned, plain) in self.seen for turned in hidden):
                every = rotated if self.hides(True) and hidden == [True] else names[hidden[0], plain]
                lines.append(f"{every} are not searched for: {alike}")
        return "; ".join(dict.fromkeys(lines))


def detail(thumbs: np.ndarray) -> np.ndarray:
    """Return how many waves make up each image: the exponential of the entropy of its power spectrum.

    Args:
        thumbs: Small images, uint8 [N, S, S].

    Returns:
        float [N]: about 1 for a gradient, 40 to 60 for photos, hundreds for noise.
    """
    side = thumbs.shape[-1]
    n = np.arange(side)
    waves = np.cos(np.pi * (2 * n[None] + 1) * n[:, None] / (2 * side)) * np.sqrt(2 / side)
    waves[0] /= np.sqrt(2)
    found = np.empty(len(thumbs))
    for start in range(0, len(thumbs), 4096):
        part = normal(thumbs[start : start + 4096]).reshape(-1, side, side)
        power = np.square(waves @ part @ waves.T).reshape(len(part), -1) + 1e-12
        power /= power.sum(axis=1, keepdims=True)
        found[start : start + 4096] = np.exp(-(power * np.log(power)).sum(axis=1))
    return found


def little_detail(details: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return which pairs have an image of little detail, bool [P], from :func:`detail` [N] and positions [P]."""
    return np.minimum(details[left], details[right]) < _LITTLE


def limits_of(
    left: np.ndarray,
    right: np.ndarray,
    similar: np.ndarray,
    rotated: np.ndarray,
    plain: np.ndarray,
    least: float,
    start: float,
) -> Limits:
    """Return the limits at which at most :data:`ALLOWED` false pairs are expected in a check.

    Args:
        left: Position of one image of each compared pair [P].
        right: Position of the other [P].
        similar: Similarity of each pair [P], complete above ``start``.
        rotated: Whether the orientations of the pair differ by more than mirroring, bool [P].
        plain: Whether one has little detail, bool [P], from :func:`little_detail`.
        least: Lowest limit.
        start: Similarity from which pairs are counted.
    """
    between = (similar >= start) & (similar < least)
    crowded = np.union1d(left[between], right[between])
    # A pair whose images resemble nothing else is a duplicate; among images with little detail it may be chance.
    alone = ~np.isin(left, crowded) & ~np.isin(right, crowded) & ~plain & (similar >= least)
    found: dict[Group, float] = {}
    seen = set()
    for turned, little in sorted(_GROUPS, key=lambda group: (not group[1], group[0])):
        own = (rotated == turned) & (plain == little)
        # Where images with little detail are all alike, others may be alike by chance as well.
        free = alone & np.isfinite(found.get((turned, True), 0.0))
        limit = _limit(similar[own & ~free], int((similar[own] >= _SURE).sum()), least, start)
        duplicates = own & (similar >= limit)
        hidden = limit > _HIGHEST or _chained(left[duplicates], right[duplicates]) or start > _LATEST
        found[turned, little] = np.inf if hidden or np.isinf(found.get((False, little), 0.0)) else limit
        if (similar[own] >= start).any():
            seen.add((turned, little))
    return Limits(found, least, frozenset(seen))


def is_rotated(ways: np.ndarray) -> np.ndarray:
    """Return which orientations differ by more than mirroring, bool [P]."""
    return ~np.isin(ways, UPRIGHT)


def _limit(similar: np.ndarray, sure: int, least: float, start: float) -> float:
    """Return the limit for one group, from the similarities of pairs that may be unrelated."""
    rest = np.sort(similar[(similar < _SURE) & (similar >= start)])[::-1]
    rest = rest[-(-sure // _STRAY) :]  # duplicates that were not laid over exactly
    if not len(rest):
        return least
    nearest = float(np.clip(rest[min(_TAIL, len(rest)) - 1], start, max(_LOCAL, start)))
    # The steeper part near the limit decides, unless the whole tail is flatter.
    return max(least, *(_extrapolated(rest, low) for low in (nearest, max(least, nearest))))


def _extrapolated(similar: np.ndarray, low: float) -> float:
    """Fit the tail from ``low`` to ``_SURE``; return where so few pairs are expected as are allowed."""
    gaps = 1 - similar[(similar >= low) & (similar < _SURE)].astype(float)
    if not len(gaps) or low >= _SURE:
        return 0.0
    bottom, top = 1 - low, 1 - _SURE
    seen = -np.expm1(-_EXPONENTS * np.log(bottom / top))  # share of the tail below _SURE
    depth = np.log(bottom / np.maximum(gaps, top)).sum()
    logs = len(gaps) * (np.log(_EXPONENTS) - np.log(seen)) - _EXPONENTS * depth
    logs += _TRUST * (np.log(_EXPONENTS) - _EXPONENTS / _USUAL)
    weights = np.exp(logs - logs.max())
    expected = len(gaps) * (weights / weights.sum() / seen) @ np.exp(-np.outer(_EXPONENTS, _FURTHER))
    enough = np.flatnonzero(expected <= ALLOWED / _SHARES)
    return 1 - bottom * float(np.exp(-_FURTHER[enough[0] if len(enough) else -1]))


def _chained(left: Sequence[int] | np.ndarray, right: Sequence[int] | np.ndarray) -> bool:
    """Return whether pairs form chains: images similar to one, but not to each other, are not duplicates of it."""
    if len(left) < _CHAINS:
        return False
    partners: dict[int, set[int]] = defaultdict(set)
    pairs = list(zip(np.asarray(left).tolist(), np.asarray(right).tolist(), strict=True))
    for one, other in pairs:
        partners[one].add(other)
        partners[other].add(one)
    open_ends = sum(len((partners[one] ^ partners[other]) - {one, other}) for one, other in pairs) / 2
    return open_ends > _OPEN * len(pairs)
