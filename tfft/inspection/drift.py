"""Detection of drift between the training and validation parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from tfft.inspection.findings import Finding, Item

_LEAST = 20  # examples of a part
_APART = 0.2  # largest difference of two cumulative shares; and of the shares of classes
_CHANCE = 1e-3


def drift_findings(
    measures: Mapping[str, Mapping[str, np.ndarray]], counts: Mapping[str, Mapping[str, int]]
) -> Iterator[Finding]:
    """Yield findings about parts of the data that differ from the first.

    Measures are compared with the Kolmogorov-Smirnov test, class shares by their total variation distance.

    Args:
        measures: Values [N] of the examples by name, such as the brightness of images, by part; the training part comes
            first.
        counts: Number of examples per class, by part.
    """
    (first, ours), *rest = measures.items()
    for part, theirs in rest:
        sizes = [min(map(len, own.values()), default=0) for own in (ours, theirs)]
        if min(sizes) < _LEAST:
            continue
        items = []
        for name in ours:
            distance = ks_distance(ours[name], theirs[name])
            if distance > _APART and ks_chance(distance, sizes[0], sizes[1]) < _CHANCE:
                middle = [float(np.median(values[name])) for values in (ours, theirs)]
                items.append(Item(name, f"has the median {middle[1]:.4g} in {part} and {middle[0]:.4g} in {first}"))
        share = _class_distance(counts[first], counts[part])
        if share > _APART:
            moved = f"{share:.0%} of its examples would have to change class"
            items.append(Item("classes", f"have other proportions in {part}: {moved}"))
        if items:
            remedy = "a score on it is less reliable for other data; draw both from the same source if you can"
            yield Finding("drift", "warning", f"{part} differs from {first}", remedy, tuple(items))


def ks_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    every = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(values), every, side="right") / len(values) for values in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def ks_chance(distance: float, one: int, other: int) -> float:
    """Return the p-value of a Kolmogorov-Smirnov distance (Smirnov, 1948, for large samples)."""
    scaled = distance * math.sqrt(one * other / (one + other))
    if scaled < 0.2:
        return 1.0
    return float(np.clip(2 * sum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101)), 0, 1))


def _class_distance(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    if min(sum(one.values()), sum(other.values())) < _LEAST or set(one) != set(other):
        return 0.0
    shares = [np.array([part[name] for name in one]) / sum(part.values()) for part in (one, other)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)
