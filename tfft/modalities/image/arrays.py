"""Labelled images in memory, split in two: :func:`load_arrays`.

Implementation notes: splitting does not copy images; each part stores positions and selects its images on access.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.data.dataset_forms import regular, with_pixels
from tfft.data.examples import Splits
from tfft.data.forms import pixel_array
from tfft.data.labelled_arrays import are_pairs, check_lengths, divide_arrays
from tfft.errors import DataError
from tfft.modalities.image.examples import ImageArrays

_LARGEST = 4 * 2**30  # bytes of a dataset that is read into memory


def load_arrays(
    source: Any, *, validation: float = 0.2, seed: int = 0, task: str = registry.AUTO
) -> Splits[ImageArrays]:
    """Splits images in memory into training and validation examples.

    Use it for arrays from other packages. Each class has at least one image on either side.

    Args:
        source: ``(images, labels)``, as :func:`tfft.data.forms.pixel_array` and
            :func:`tfft.data.forms.label_column` take them; ``((images, labels), (images, labels))``, to learn from and
            to hold out, as ``keras.datasets`` gives them; or a ``tf.data.Dataset`` of images and labels, which is read
            into memory.
        validation: Share of each class to hold out; of no effect where the source is two pairs.
        seed: Seed for the draw.
        task: What the labels are; ``"auto"`` looks at them.

    Raises:
        DataError: If images and labels do not match, or a class has fewer than two images.

    Example:
        >>> digits = sklearn.datasets.load_digits()
        >>> splits = load_arrays((digits.images * (255 / 16), digits.target))
        >>> len(splits.train), len(splits.validation)
        (1438, 359)
    """
    pairs = source if are_pairs(source) else [_in_memory(source) if isinstance(source, tf.data.Dataset) else source]
    images = [pixel_array(images) for images, _ in pairs]
    for pixels, (_, labels) in zip(images, pairs, strict=True):
        check_lengths(pixels, labels, "images")
    whole = images[0] if len(images) == 1 else np.concatenate(images)

    def make(labels: np.ndarray, class_names: tuple[str, ...]) -> ImageArrays:
        return ImageArrays(whole, np.arange(len(whole)), labels, class_names)

    return divide_arrays(
        [labels for _, labels in pairs], make, items="images", validation=validation, seed=seed, task=task
    )


def refuse_arrays(source: Any, expected: str) -> None:
    """Raise DataError for arrays and datasets whose labels are boxes or masks: nothing says what their classes are.

    Args:
        source: Any source of examples.
        expected: What is read instead, such as ``"a folder of images and masks"``.
    """
    in_memory = isinstance(source, (tuple, list)) and any(hasattr(part, "shape") for part in source)
    if in_memory or isinstance(source, tf.data.Dataset):
        raise DataError(
            f"Expected {expected}, or two datasets with class names. Received: arrays or a dataset. Give (train, "
            "validation, class_names) to tfft.finetune, each tf.data.Dataset.from_tensor_slices((images, "
            "labels)).batch(8)."
        )


def _in_memory(dataset: tf.data.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Read a dataset of images and labels."""
    batches = with_pixels(regular(dataset, "the dataset"), "the dataset")
    if len(batches.element_spec) > 2:
        raise DataError(
            "Expected (images, labels). Received: a dataset with sample weights, which has to be split by you: give "
            "(train, validation, class_names) with two datasets."
        )
    size = 0
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for images, labels in batches.as_numpy_iterator():
        size += images.nbytes
        if size > _LARGEST or (found and images.shape[1:] != found[0][0].shape[1:]):
            raise DataError(
                "Expected a dataset of images of one size that fits in memory, to divide it in two. Received: one of "
                f"several sizes, or of more than {_LARGEST / 2**30:g} GB. Divide it: (train, validation, class_names)."
            )
        found.append((images, labels))
    if not found:
        raise DataError("Expected at least one batch. Received: the dataset holds no examples.")
    return np.concatenate([images for images, _ in found]), np.concatenate([labels for _, labels in found])
