"""Statistics of images with boxes: :class:`BoxReport`, :func:`small_objects`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tfft.errors import in_number
from tfft.tasks.object_detection import DETECTIONS

if TYPE_CHECKING:
    from tfft.data.examples import Splits
    from tfft.tasks.object_detection.data import BoxedImages

FINEST = 8  # pixels: stride of the finest features of the detector
_FEW = 0.05  # share of the objects that may be smaller than a cell
_MULTIPLE = 32  # pixels: the coarsest stride divides the size of an image


@dataclasses.dataclass(frozen=True)
class BoxReport:
    """Statistics of loaded images; ``print`` it.

    Attributes:
        form: Format of the annotations.
        pictures: Number of images by part.
        objects: Number of objects by class, by part.
        empty: Number of images without objects.
        most: Most objects of an image.
        median_size: Median height and width of the objects, in pixels of their images.
        notes: Remarks, one sentence each.
    """

    form: str
    pictures: Mapping[str, int]
    objects: Mapping[str, Mapping[str, int]]
    empty: int
    most: int
    median_size: tuple[float, float]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, splits: Splits[BoxedImages], form: str, notes: tuple[str, ...] = ()) -> BoxReport:
        """Return the statistics of splits."""
        parts = splits.parts
        per_picture = np.concatenate([(part.labels[..., 0] >= 0).sum(axis=1) for part in parts.values()])
        sizes = np.concatenate([_sizes(part.labels) * _pictures(part.labels) for part in parts.values()])
        height, width = np.median(sizes, axis=0).tolist()
        return cls(
            form,
            {name: len(part) for name, part in parts.items()},
            {name: part.counts for name, part in parts.items()},
            int((per_picture == 0).sum()),
            int(per_picture.max()),
            (height, width),
            notes,
        )

    def __str__(self) -> str:
        counts = _total(self.objects)
        pictures = ", ".join(f"{name} {count:,}" for name, count in self.pictures.items())
        objects = ", ".join(f"{name} {count:,}" for name, count in counts.items())
        total = sum(self.pictures.values())
        return "\n".join(
            (
                f"images: {total:,} in {self.form} ({pictures}), {self.empty:,} without objects",
                f"objects: {sum(counts.values()):,} ({objects}), at most {self.most:,} in an image, "
                f"median size {self.median_size[0]:.0f} x {self.median_size[1]:.0f} pixels (height x width)",
                *self.notes,
            )
        )


def _total(objects: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Return the number of objects by class in all parts."""
    total: dict[str, int] = {}
    for part in objects.values():
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def small_objects(labels: np.ndarray, class_names: Any, image_size: tuple[int, int]) -> str | None:
    """Return a warning if many objects are smaller than a cell of the finest features.

    An object's size is the square root of its area, after its image was stretched to the size of the model.

    Args:
        labels: float32 [N, M, 7], labels of images.
        class_names: Class names in the order of the labels.
        image_size: Height and width of the model's images, in pixels.

    Returns:
        A sentence with the share of such objects, the classes that most of them have, and the size of images at which
        95 % of the objects are at least a cell; None if at most 5 % are smaller.

    Example:
        >>> small_objects(splits.train.labels, splits.class_names, (224, 224))
        '21 % of the objects (platelet 80 %) are smaller than a cell of 8 pixels at 224 x 224. ...'
    """
    sides = np.sqrt((_sizes(labels) * image_size).prod(axis=1))
    classes = labels[..., 0][labels[..., 0] >= 0].astype(int)
    if not len(sides) or (sides < FINEST).mean() <= _FEW:
        return None
    shares = {
        name: float((sides[classes == at] < FINEST).mean()) for at, name in enumerate(class_names) if at in classes
    }
    most = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share > _FEW)
    factor = FINEST / max(float(np.quantile(sides, _FEW)), 1e-6)
    height, width = (math.ceil(side * factor / _MULTIPLE - 1e-6) * _MULTIPLE for side in image_size)
    own = np.median(labels[:, 0, 5:], axis=0)
    if height > own[0] * 1.5 or width > own[1] * 1.5:
        fix = f"the images have {own[0]:.0f} x {own[1]:.0f}, so cut them into tiles, or photograph objects from closer"
    else:
        fix = f"image_size=({height}, {width}) makes 95 % of them as large as a cell"
    return (
        f"{(sides < FINEST).mean():.0%} of the objects ({most}) are smaller than a cell of {FINEST} pixels at "
        f"{image_size[0]} x {image_size[1]}, and will be hard to find: {fix}."
    )


def crowded_images(labels: np.ndarray) -> str | None:
    """Return a warning if images have more objects than a detector returns.

    Args:
        labels: float32 [N, M, 7], labels of images.

    Example:
        >>> crowded_images(splits.train.labels)
        '3 images have more than 100 objects, at most 150, and a detector finds at most 100 in one: ...'
    """
    counts = (labels[..., 0] >= 0).sum(axis=1)
    if not (more := int((counts > DETECTIONS).sum())):
        return None
    return in_number(
        f"{more} images have more than {DETECTIONS} objects, at most {counts.max()}, and a detector finds at most "
        f"{DETECTIONS} in one: cut them into tiles."
    )


def _sizes(labels: np.ndarray) -> np.ndarray:
    """Return height and width of all objects in shares of their images, [n, 2]."""
    rows = labels[labels[..., 0] >= 0]
    return rows[:, 3:5] - rows[:, 1:3]


def _pictures(labels: np.ndarray) -> np.ndarray:
    """Return height and width of the image of each object, [n, 2]."""
    return labels[labels[..., 0] >= 0][:, 5:7]
