"""Baselines without a model for pairs of texts: :func:`nearest_targets`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def nearest_targets(train: Sequence[str], targets: Sequence[str], sources: Sequence[str]) -> list[str]:
    """Return for each source the target of the training source with the largest word overlap.

    The overlap is the Dice coefficient of the sets of words, without case; of equal ones the first counts. It shows how
    far a memory of the training pairs goes.

    Args:
        train: Training sources.
        targets: Training targets.
        sources: Sources to answer.

    Example:
        >>> nearest_targets(["a red car", "a dog"], ["ein rotes Auto", "ein Hund"], ["the dog"])
        ['ein Hund']
    """
    words = [set(text.casefold().split()) for text in train]
    sizes = np.array([len(one) for one in words])
    places: dict[str, list[int]] = {}
    for at, one in enumerate(words):
        for word in one:
            places.setdefault(word, []).append(at)
    held = {word: np.array(rows) for word, rows in places.items()}
    found = []
    for text in sources:
        asked = set(text.casefold().split())
        shared = np.zeros(len(train))
        for word in asked & held.keys():
            shared[held[word]] += 1
        found.append(targets[int((2 * shared / np.maximum(sizes + len(asked), 1)).argmax())])
    return found
