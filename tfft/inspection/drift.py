"""Findings about a validation part that is not like the training part."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfft.inspection.findings import Finding, Item

if TYPE_CHECKING:
    from tfft.modalities.image.file_info import FileFacts

_LEAST = 20  # examples of a part
_APART = 0.2  # largest difference of two cumulative shares; and of the shares of classes
_CHANCE = 1e-3


def drift_findings(
    facts: Mapping[str, Sequence[FileFacts]], counts: Mapping[str, Mapping[str, int]]
) -> Iterator[Finding]:
    """Yields findings about parts of the data that differ from the first.

    Brightness, contrast, size and shape are compared by the test of Kolmogorov and Smirnov, the shares of the classes
    by half the sum of their differences.

    Args:
        facts: of the files by part; the part that is learned from comes first.
        counts: number of examples of each class by part.
    """
    (first, train), *rest = facts.items()
    for part, own in rest:
        if min(len(train), len(own)) < _LEAST:
            continue
        items = []
        ours, theirs = _measures(train), _measures(own)
        for name in ours:
            distance = ks_distance(ours[name], theirs[name])
            if distance > _APART and ks_chance(distance, len(train), len(own)) < _CHANCE:
                middle = [float(np.median(values[name])) for values in (ours, theirs)]
                items.append(Item(name, f"is {middle[1]:.4g} in the middle of {part} and {middle[0]:.4g} in {first}"))
        share = _class_distance(counts[first], counts[part])
        if share > _APART:
            items.append(Item("classes", f"have other shares in {part}: {share:.0%} of it would have to move"))
        if items:
            remedy = "a score on it tells less of other data; draw both parts from the same pictures if you can"
            yield Finding("drift", "warning", f"{part} is not like {first}", remedy, tuple(items))


def ks_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the largest difference of the cumulative shares of two samples."""
    every = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(values), every, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_chance(distance: float, one: int, other: int) -> float:
    """Returns how often two samples of one distribution are that far apart (Smirnov, 1948, for large samples)."""
    scaled = distance * math.sqrt(one * other / (one + other))
    if scaled < 0.2:
        return 1.0
    return float(np.clip(2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)), 0, 1))


def _measures(facts: Sequence[FileFacts]) -> dict[str, np.ndarray]:
    thumbs = np.stack([one.thumb for one in facts]).astype(np.float32)
    return {
        "brightness": thumbs.mean(axis=(1, 2)),
        "contrast": thumbs.std(axis=(1, 2)),
        "shorter side": np.array([min(one.height, one.width) for one in facts], float),
        "width to height": np.array([one.width / one.height for one in facts]),
    }


def _class_distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    if min(sum(one.values()), sum(other.values())) < _LEAST or set(one) != set(other):
        return 0.0
    shares = [np.array([part[name] for name in one]) / sum(part.values()) for part in (one, other)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
