"""Images to a ``tf.data.Dataset``: files and arrays, as they are or varied, the same pixels whichever way.

Hides when files are decoded and what is kept in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data import batches
from tfft.data.batches import (
    BatchOptions,
    Fetch,
    as_targets,
    assemble,
    assemble_views,
    example_rows,
    gathering,
    on_cpu,
    with_length,
)
from tfft.data.forms import picture_problems, pixel_array
from tfft.errors import DataError, PlanError, raise_problems
from tfft.layers.preprocess import check_spec, resize_pixels
from tfft.modalities.image.augment import view_of
from tfft.modalities.image.decode import decode_image, decode_pixels
from tfft.modalities.image.file_info import why_unreadable
from tfft.modalities.image.transform import PixelTransform
from tfft.specs import Augmentation, InputSpec, augmentation, check_kind

# The label of an example, and what became of its pixels, to the label of the view.
Follow = Callable[[tf.Tensor, PixelTransform], tf.Tensor]


def file_batches(
    paths: Sequence[str],
    labels: np.ndarray,
    spec: InputSpec,
    options: BatchOptions,
    follow: Follow | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of pixels and labels of files; everything is as in :func:`tfft.data.to_dataset`.

    Args:
        paths: of the files.
        labels: of each.
        spec: the backbone's ``input_spec``.
        options: how examples become batches.
        follow: moves the label of an example with its pixels, for labels that are places in a picture; files are then
            decoded in each pass. None for labels that stay.

    Returns:
        Dataset of (uint8 [B, H, W, C], labels), its length known.

    Raises:
        DataError: when there are no examples, or a file cannot be decoded while the pixels are cached.
    """
    check_spec(spec)
    if not len(paths):
        raise DataError("There are no examples to make a dataset of.")
    if (changes := augmentation(options.augment)) is not None or follow is not None:
        options = options if changes else dataclasses.replace(options, views=1)
        make = _view_maker(_decoding(paths), spec, changes or Augmentation(), follow)
        return assemble_views(make, as_targets(labels), options)
    files = on_cpu(np.array([path.encode() for path in paths]))

    def decode(position: tf.Tensor) -> tf.Tensor:
        return decode_image(tf.io.read_file(files[position]), spec, path=files[position])

    if _is_cached(options, len(paths), spec):
        return assemble(gathering(_decoded(paths, decode)), labels, options)
    order = example_rows(labels, options)
    targets = on_cpu(as_targets(labels))
    dataset = order.map(lambda i: (decode(i), targets[i]), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return with_length(dataset.batch(options.batch_size), len(paths), options.batch_size)


def file_views(
    paths: Sequence[str],
    labels: np.ndarray,
    spec: InputSpec,
    changes: Augmentation,
    count: int,
    options: BatchOptions,
) -> tf.data.Dataset:
    """Makes one pass over all views of files: view 0 of each, then view 1 of each, and so on.

    Use it to compute something of every view once; :func:`tfft.data.to_dataset` shows the same ones in turn.

    Args:
        paths: of the files.
        labels: of each.
        spec: as in :func:`tfft.data.to_dataset`.
        changes: what varies.
        count: of views.
        options: size of batches and seed.

    Returns:
        Dataset of (uint8 [B, H, W, C], labels [B]) with ``count * len(paths)`` examples.
    """
    return assemble_views(_view_maker(_decoding(paths), spec, changes), labels, options, every=count)


def array_views(
    images: np.ndarray, labels: np.ndarray, spec: InputSpec, changes: Augmentation, count: int, options: BatchOptions
) -> tf.data.Dataset:
    """Does what :func:`file_views` does, of images in memory."""
    pixels, targets = checked_arrays(images, labels)
    return assemble_views(_view_maker(gathering(on_cpu(pixels)), spec, changes), targets, options, every=count)


def from_arrays(
    images: np.ndarray | tf.Tensor, labels: np.ndarray | tf.Tensor, spec: InputSpec | None = None, **settings: Any
) -> tf.data.Dataset:
    """Makes the same kind of dataset as :func:`tfft.data.to_dataset` from images that are in memory.

    Args:
        images: as :func:`tfft.data.forms.pixel_array` takes them.
        labels: whole numbers [N] for one class each, 0 or 1 [N, n] for several labels, float [N] or
            [N, k] for regression.
        spec: brings the images to its size and channels; None leaves them as they are.
        **settings: of :class:`tfft.data.BatchOptions`: ``batch_size``, ``shuffle``, ``augment``, ...

    Returns:
        Dataset of (uint8 [B, H, W, C], int32 [B] or float32 labels).

    Raises:
        DataError: when images and labels cannot belong together or are no pixels; all problems at once.
        PlanError: when settings are out of range.

    Example:
        >>> digits = sklearn.datasets.load_digits()
        >>> from_arrays(digits.images * (255 / 16), digits.target, backbone.input_spec, shuffle=True)
    """
    return array_batches(np.asarray(images), np.asarray(labels), spec, BatchOptions(**settings))


def array_batches(
    images: np.ndarray, labels: np.ndarray, spec: InputSpec | None, options: BatchOptions
) -> tf.data.Dataset:
    """Does what :func:`from_arrays` does."""
    pixels, targets = checked_arrays(images, labels)
    fetch = gathering(on_cpu(pixels))
    if spec is not None:
        check_spec(spec)
    if (changes := augmentation(options.augment)) is not None:
        return assemble_views(_view_maker(fetch, spec or _same_size(pixels), changes), targets, options)
    if spec is not None:
        fetch = _resizing(fetch, spec)
        if _is_cached(options, len(pixels), spec):
            starts = range(0, len(pixels), 256)
            parts = [fetch(tf.range(s, min(s + 256, len(pixels)), dtype=tf.int64)) for s in starts]
            with tf.device("CPU:0"):
                fetch = gathering(tf.concat(parts, axis=0))
    return assemble(fetch, targets, options)


def checked_arrays(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as uint8 [N, H, W, C] and labels as int32 or float32, as :func:`from_arrays` takes them.

    Args:
        images: as in :func:`from_arrays`.
        labels: as in :func:`from_arrays`.

    Raises:
        DataError: when they cannot belong together or are no pixels; all problems at once.
    """
    problems = picture_problems(images)
    if labels.ndim == 0 or len(images) != len(labels):
        problems.append(f"there must be one label for each image, received {len(images)} images, labels {labels.shape}")
    raise_problems(DataError, "The arrays cannot be used", problems + _label_problems(labels))
    pixels = pixel_array(images)
    one_class = labels.ndim == 1 and labels.dtype.kind in "iub"
    return pixels, labels.astype(np.int32 if one_class else np.float32)


def _view_maker(fetch: Fetch, spec: InputSpec, changes: Augmentation, follow: Follow | None = None) -> batches.MakeView:
    check_kind(changes, sounds=False)
    if follow is not None and changes.rand:
        raise PlanError("augment='rand' moves pixels in ways that labels cannot follow. Fix: use 'flip' and 'crop'.")

    def make(position: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, transform = view_of(fetch(position), spec, changes, seed, view)
        return pixels, label if follow is None else follow(label, transform)

    return make


def _decoding(paths: Sequence[str]) -> Fetch:
    files = on_cpu(np.array([path.encode() for path in paths]))
    return lambda position: decode_pixels(tf.io.read_file(files[position]), files[position])


def _is_cached(options: BatchOptions, count: int, spec: InputSpec) -> bool:
    if options.cache == "auto":
        return count * spec.height * spec.width * spec.channels < batches.CACHE_LIMIT
    return bool(options.cache)


def _decoded(paths: Sequence[str], decode: Fetch) -> tf.Tensor:
    dataset = tf.data.Dataset.range(len(paths)).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    try:
        with tf.device("CPU:0"):
            return dataset.batch(len(paths)).get_single_element()
    except tf.errors.OpError as error:
        raise_unreadable(paths)
        raise error


def raise_unreadable(paths: Sequence[str]) -> None:
    """Raises DataError naming the files that cannot be decoded, which TensorFlow does not; returns where all can."""
    reasons = ((path, why_unreadable(path)) for path in paths)
    problems = [f"{path} {reason}" for path, reason in reasons if reason]
    raise_problems(DataError, "Files that cannot be used (list the folder again to leave them out)", problems)


def _resizing(fetch: Fetch, spec: InputSpec) -> Fetch:
    return lambda positions: tf.cast(resize_pixels(fetch(positions), spec), tf.uint8)


def _same_size(pixels: np.ndarray) -> InputSpec:
    _, height, width, channels = pixels.shape
    return InputSpec(height, width, channels)


def _label_problems(labels: np.ndarray) -> list[str]:
    if labels.dtype.kind not in "iubf":
        return [
            f"labels must be numbers, received dtype {labels.dtype}: np.unique(labels, return_inverse=True) counts them"
        ]
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        return ["labels must be finite, received NaN or infinity"]
    if labels.dtype.kind == "i" and labels.ndim == 1 and labels.size and labels.min() < 0:
        return [f"labels must be counted from 0, received {labels.min()}"]
    return []
