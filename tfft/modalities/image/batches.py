"""``tf.data`` pipelines of images, from files and arrays, with or without augmentation.

Implementation notes: files and arrays give the same pixels; decoded images may be cached in memory.
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
from tfft.data.forms import image_problems, pixel_array
from tfft.errors import DataError, PlanError, raise_problems
from tfft.layers.preprocess import check_spec, resize_pixels
from tfft.modalities.image.augment import draw_transform, view_of
from tfft.modalities.image.composites import Combination, PixelLook, PlaceLook, check_combined, compose
from tfft.modalities.image.decode import decode_image, decode_pixels
from tfft.modalities.image.file_info import why_unreadable
from tfft.modalities.image.headers import picture_size
from tfft.modalities.image.transform import PixelTransform
from tfft.specs import OF_SEVERAL, Augmentation, InputSpec, augmentation, check_kind

# From the label of an example and the transform of its pixels to the label of the view.
Follow = Callable[[tf.Tensor, PixelTransform], tf.Tensor]


def file_batches(
    paths: Sequence[str],
    labels: np.ndarray,
    spec: InputSpec,
    options: BatchOptions,
    follow: Follow | None = None,
    combination: Combination | None = None,
) -> tf.data.Dataset:
    """Build a dataset of pixels and labels from files, as :func:`tfft.data.to_dataset` does.

    Args:
        paths: Paths of the files.
        labels: Labels of the files.
        spec: Input spec of the backbone.
        options: Options for batching.
        follow: Function that moves the label of an example with its pixels, for labels that are places in an image;
            files are then decoded in each pass. None for other labels.
        combination: How labels are joined where a view shows several images; None if they cannot be.

    Returns:
        Dataset of (uint8 [B, H, W, C], labels) with a known length.

    Raises:
        DataError: If there are no examples, or a file cannot be decoded while the pixels are cached.
        PlanError: If the augmentation combines images whose labels cannot be joined.
    """
    check_spec(spec)
    if not len(paths):
        raise DataError("Expected at least one example. Received: none.")
    if (changes := augmentation(options.augment)) is not None or follow is not None:
        options = options if changes else dataclasses.replace(options, views=1)
        check_combined(changes, combination)
        targets = as_targets(labels)
        make = _view_maker(
            _decoding(paths, spec), spec, changes or Augmentation(), follow, on_cpu(targets), combination
        )
        return assemble_views(make, targets, options)
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
    """Build a dataset of all views of files: view 0 of each, then view 1 of each, and so on.

    Use it to compute something once per view; :func:`tfft.data.to_dataset` uses the same views in turn.

    Args:
        paths: Paths of the files.
        labels: Labels of the files.
        spec: As in :func:`tfft.data.to_dataset`.
        changes: Augmentation.
        count: Number of views.
        options: Batch size and seed.

    Returns:
        Dataset of (uint8 [B, H, W, C], labels [B]) with ``count * len(paths)`` examples. The labels are those given.
    """
    make = _view_maker(_decoding(paths, spec), spec, changes, targets=on_cpu(np.asarray(labels)))
    return assemble_views(make, labels, options, every=count)


def view_labels(
    paths: Sequence[str],
    labels: np.ndarray,
    spec: InputSpec,
    changes: Augmentation,
    count: int,
    options: BatchOptions,
    follow: Follow,
    combination: Combination | None = None,
) -> np.ndarray:
    """Return the labels of all views of files, in the order of :func:`file_views`, without decoding the images.

    Args:
        paths: Paths of the files.
        labels: Labels of the files, places in an image.
        spec: As in :func:`file_views`, like all that are not described here.
        changes: Augmentation.
        count: Number of views.
        options: Batch size and seed.
        follow: Function that moves the label of an example with its pixels.
        combination: How labels are joined where a view shows several images.

    Returns:
        ``count * len(paths)`` labels, of the type and shape that ``follow`` returns.
    """
    files, targets = on_cpu(np.array([path.encode() for path in paths])), as_targets(labels)

    def size_of(position: tf.Tensor) -> tf.Tensor:
        return picture_size(tf.io.read_file(files[position]))

    def alone(position: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return position, follow(label, draw_transform(size_of(position), spec, changes, seed, view))

    make = alone
    if combines(changes):
        make = compose(PlaceLook(size_of, spec, changes), combination, on_cpu(targets), changes, spec)
    dataset = assemble_views(make, targets, options, every=count)
    return np.concatenate([np.asarray(moved) for _, moved in dataset])


def array_views(
    images: np.ndarray, labels: np.ndarray, spec: InputSpec, changes: Augmentation, count: int, options: BatchOptions
) -> tf.data.Dataset:
    """Implement :func:`file_views` for images in memory."""
    check_combined(changes, None)
    pixels, targets = checked_arrays(images, labels)
    return assemble_views(_view_maker(gathering(on_cpu(pixels)), spec, changes), targets, options, every=count)


def from_arrays(
    images: np.ndarray | tf.Tensor, labels: np.ndarray | tf.Tensor, spec: InputSpec | None = None, **settings: Any
) -> tf.data.Dataset:
    """Build a dataset as :func:`tfft.data.to_dataset` does, from images in memory.

    Args:
        images: As :func:`tfft.data.forms.pixel_array` takes them.
        labels: Integers [N] for one class each, 0 or 1 [N, n] for several labels, float [N] or
            [N, k] for regression.
        spec: Brings the images to its size and channels; None leaves them as they are.
        **settings: Settings of :class:`tfft.data.BatchOptions`: ``batch_size``, ``shuffle``, ``augment``, ...

    Returns:
        Dataset of (uint8 [B, H, W, C], int32 [B] or float32 labels).

    Raises:
        DataError: If images and labels do not match or are not pixels; all problems at once.
        PlanError: If settings are out of range.

    Example:
        >>> digits = sklearn.datasets.load_digits()
        >>> from_arrays(digits.images * (255 / 16), digits.target, backbone.input_spec, shuffle=True)
    """
    return array_batches(np.asarray(images), np.asarray(labels), spec, BatchOptions(**settings))


def array_batches(
    images: np.ndarray, labels: np.ndarray, spec: InputSpec | None, options: BatchOptions
) -> tf.data.Dataset:
    """Implement :func:`from_arrays`."""
    pixels, targets = checked_arrays(images, labels)
    fetch = gathering(on_cpu(pixels))
    if spec is not None:
        check_spec(spec)
    if (changes := augmentation(options.augment)) is not None:
        check_combined(changes, None)
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
    """Return images as uint8 [N, H, W, C] and labels as int32 or float32, for :func:`from_arrays`.

    Args:
        images: As in :func:`from_arrays`.
        labels: As in :func:`from_arrays`.

    Raises:
        DataError: If they do not match or are not pixels; all problems at once.
    """
    problems = image_problems(images)
    if labels.ndim == 0 or len(images) != len(labels):
        problems.append(f"there must be one label for each image, received {len(images)} images, labels {labels.shape}")
    raise_problems(DataError, "The arrays cannot be used", problems + _label_problems(labels))
    pixels = pixel_array(images)
    one_class = labels.ndim == 1 and labels.dtype.kind in "iub"
    return pixels, labels.astype(np.int32 if one_class else np.float32)


def _view_maker(
    fetch: Fetch,
    spec: InputSpec,
    changes: Augmentation,
    follow: Follow | None = None,
    targets: tf.Tensor | None = None,
    combination: Combination | None = None,
) -> batches.MakeView:
    check_kind(changes, sounds=False)
    if follow is not None and changes.rand:
        raise PlanError("augment='rand' cannot move labels that are places. Fix: use 'flip', 'crop' and 'colour'.")
    if combines(changes):
        return compose(PixelLook(fetch, spec, changes), combination, targets, changes, spec)

    def make(position: tf.Tensor, label: tf.Tensor, seed: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        pixels, transform = view_of(fetch(position), spec, changes, seed, view)
        return pixels, label if follow is None else follow(label, transform)

    return make


def combines(changes: Augmentation) -> bool:
    """Whether some views show several images."""
    return any(getattr(changes, name) for name in OF_SEVERAL)


def _decoding(paths: Sequence[str], spec: InputSpec) -> Fetch:
    files = on_cpu(np.array([path.encode() for path in paths]))
    return lambda position: decode_pixels(tf.io.read_file(files[position]), files[position], spec)


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
    """Raise DataError naming the files that cannot be decoded; return if all can."""
    reasons = ((path, why_unreadable(path)) for path in paths)
    problems = [f"{path} {reason}" for path, reason in reasons if reason]
    raise_problems(DataError, "Unusable files (list the folder again to leave them out)", problems)


def _resizing(fetch: Fetch, spec: InputSpec) -> Fetch:
    return lambda positions: tf.cast(resize_pixels(fetch(positions), spec), tf.uint8)


def _same_size(pixels: np.ndarray) -> InputSpec:
    _, height, width, channels = pixels.shape
    return InputSpec(height, width, channels)


def _label_problems(labels: np.ndarray) -> list[str]:
    if labels.dtype.kind not in "iubf":
        return [f"labels must be numbers, received {labels.dtype}: np.unique(labels, return_inverse=True) numbers them"]
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        return ["labels must be finite, received NaN or infinity"]
    if labels.dtype.kind == "i" and labels.ndim == 1 and labels.size and labels.min() < 0:
        return [f"labels must start at 0. Received: {labels.min()}"]
    return []
