"""Labelled images in memory, split in two: :func:`load_arrays`.

Implementation notes: splitting does not copy images; each part stores positions and selects its images on access.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfft.data.examples import Splits, divide
from tfft.errors import DataError, join_names
from tfft.modalities.image.examples import ImageArrays


def load_arrays(source: Any, *, validation: float = 0.2, seed: int = 0) -> Splits[ImageArrays]:
    """Split images in memory.

    Use it for arrays from other packages. Each class has at least one image on either side.

    Args:
        source: ``(images, labels)``: images [N, H, W] or [N, H, W, C], and one integer or name for each.
        validation: Share of each class to hold out.
        seed: Seed for the split.

    Raises:
        DataError: If images and labels do not match, or a class has fewer than two images.

    Example:
        >>> digits = sklearn.datasets.load_digits()
        >>> splits = load_arrays((digits.images * (255 / 16), digits.target))
        >>> len(splits.train), len(splits.validation)
        (1438, 359)
    """
    images, labels = (np.asarray(part) for part in source)
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(f"Expected one label per image. Received: images {images.shape} and labels {labels.shape}.")
    if labels.dtype.kind not in "iubUSO":
        raise DataError(f"Expected integers or names as labels. Received: {labels.dtype}.")
    if images.ndim not in (3, 4):
        raise DataError(f"Expected images [N, H, W] or [N, H, W, C]. Received: {images.shape}.")
    values, numbers = np.unique(labels, return_inverse=True)
    counts = np.bincount(numbers)
    if len(values) < 2:
        raise DataError(f"Expected at least two classes. Received: {len(values)}: {join_names(values)}.")
    single = [str(value) for value, count in zip(values, counts, strict=True) if count < 2]
    if single:
        raise DataError(
            f"Expected at least 2 images per class, for training and validation. Too few: {join_names(single)}."
        )
    held = _held_out(numbers, counts, validation, seed)
    names = tuple(str(v.decode() if isinstance(v, bytes) else v) for v in values.tolist())
    whole = ImageArrays(images, np.arange(len(images)), numbers, names)
    return divide(whole, held, f"{validation * 100:g} % of each class, drawn with seed {seed}")


def _held_out(numbers: np.ndarray, counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    held = np.zeros(len(numbers), bool)
    for label, count in enumerate(counts):
        members = random.permutation(np.flatnonzero(numbers == label))
        held[members[: min(count - 1, max(1, round(count * share)))]] = True
    return held
