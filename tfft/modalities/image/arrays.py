"""Images in memory with their labels, divided in two: :func:`load_arrays`.

Hides that no image is copied to divide them: each part knows its positions, and takes its images when they are asked
for.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np

from tfft.data.examples import Skipped
from tfft.errors import DataError, listed


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Some of the images of an array.

    Attributes:
        source: all images, [M, H, W] or [M, H, W, C].
        positions: which of them these are, int [N].
        labels: int64 [N], index into ``class_names``.
        class_names: of the labels, sorted.
    """

    source: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def images(self) -> np.ndarray:
        """The images, a new array at each call."""
        return self.source[self.positions]

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class."""
        totals = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, totals.tolist(), strict=True))

    def take(self, positions: np.ndarray) -> ArrayExamples:
        """Returns the examples at some positions."""
        return dataclasses.replace(self, positions=self.positions[positions], labels=self.labels[positions])


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySplits:
    """Images to learn from and images to judge by.

    Attributes:
        train: to learn from.
        validation: held out.
        class_names: the same for both.
        labels: of all images in their order, int64 [M].
        split_from: in words, how the two came about.
        skipped: nothing; arrays hold no broken files.
    """

    modality: ClassVar[str] = "image"

    train: ArrayExamples
    validation: ArrayExamples
    class_names: tuple[str, ...]
    labels: np.ndarray
    split_from: str
    skipped: tuple[Skipped, ...] = ()


def load_arrays(source: Any, *, validation: float = 0.2, seed: int = 0) -> ArraySplits:
    """Divides images in memory.

    Use it for data that other packages give as arrays. At least one image of each class is on either side.

    Args:
        source: ``(images, labels)``: images [N, H, W] or [N, H, W, C], and one whole number or name for each.
        validation: share of each class to hold out.
        seed: of the draw.

    Returns:
        :class:`ArraySplits`.

    Raises:
        DataError: when they cannot belong together, or a class has fewer than two images.

    Example:
        >>> digits = sklearn.datasets.load_digits()
        >>> splits = load_arrays((digits.images * (255 / 16), digits.target))
        >>> len(splits.train), len(splits.validation)
        (1438, 359)
    """
    images, labels = (np.asarray(part) for part in source)
    if labels.ndim != 1 or len(labels) != len(images):
        raise DataError(f"Expected one label per image, got images {images.shape} and labels {labels.shape}.")
    if labels.dtype.kind not in "iubUSO":
        raise DataError(f"Labels must be whole numbers or names, one class each; got {labels.dtype}.")
    if images.ndim not in (3, 4):
        raise DataError(f"Expected images [N, H, W] or [N, H, W, C], got {images.shape}.")
    values, numbers = np.unique(labels, return_inverse=True)
    counts = np.bincount(numbers)
    if len(values) < 2:
        raise DataError(f"Expected at least two classes, got {len(values)}: {listed(values)}.")
    single = [str(value) for value, count in zip(values, counts, strict=True) if count < 2]
    if single:
        raise DataError(
            f"Each class needs at least 2 images, one to learn from and one to hold out; too few: {listed(single)}."
        )
    held = _held_out(numbers, counts, validation, seed)
    names = tuple(str(v.decode() if isinstance(v, bytes) else v) for v in values.tolist())
    parts = [
        ArrayExamples(images, positions, numbers[positions], names)
        for positions in (np.flatnonzero(~held), np.flatnonzero(held))
    ]
    words = f"{validation * 100:g} % of each class, drawn with seed {seed}"
    return ArraySplits(*parts, names, numbers, words)


def _held_out(numbers: np.ndarray, counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    held = np.zeros(len(numbers), bool)
    for label, count in enumerate(counts):
        members = random.permutation(np.flatnonzero(numbers == label))
        held[members[: min(count - 1, max(1, round(count * share)))]] = True
    return held
