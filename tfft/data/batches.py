"""Examples to a ``tf.data.Dataset``: decoded in parallel, batched, in an order that can be repeated.

Hides when files are decoded and what is kept in memory. The order is that of :mod:`tfft.data.sampling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from tfft.data.examples import Examples
from tfft.data.sampling import classes_to_balance, rows
from tfft.errors import DataError, PlanError, raise_problems
from tfft.layers.preprocess import check_spec, resize_pixels
from tfft.modalities.image.augment import view_of
from tfft.modalities.image.decode import decode_image, decode_pixels
from tfft.modalities.image.file_info import why_unreadable
from tfft.specs import Augmentation, InputSpec, augmentation, check_kind

CACHE_LIMIT = 512 * 2**20  # bytes of decoded pixels that cache="auto" keeps in memory

Fetch = Callable[[tf.Tensor], tf.Tensor]  # int64 [b] positions -> uint8 [b, H, W, C]


def from_files(
    examples: Examples,
    spec: InputSpec,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    cache: bool | Literal["auto"] = "auto",
    epoch: tf.Variable | None = None,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int | None = None,
    sampling: str | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of pixels and labels of files; everything is as in :func:`tfft.data.to_dataset`.

    Args:
        examples: from :func:`tfft.data.load_images` or :func:`tfft.data.list_images`.
        spec: the backbone's ``input_spec``.
        batch_size: examples per batch.
        shuffle: True gives another order in each pass.
        seed: picks another series of orders.
        cache: whether decoded pixels are kept in memory.
        epoch: tells the epoch at the start of each pass; None counts the passes.
        augment: how pictures vary.
        views: how many views there are.
        sampling: ``"balanced"``, or None.

    Returns:
        Dataset of (uint8 [B, H, W, C], int32 [B]), its length known.

    Raises:
        DataError: when there are no examples, or a file cannot be decoded while the pixels are cached.
        PlanError: when arguments are out of range.
    """
    _check_arguments(batch_size, cache, epoch, views)
    check_spec(spec)
    if not len(examples):
        raise DataError("There are no examples to make a dataset of.")
    classes = classes_to_balance(sampling, examples.labels)
    paths = _on_cpu(np.array([path.encode() for path in examples.paths]))
    if (changes := augmentation(augment)) is not None:
        order = rows(len(examples), shuffle, seed, epoch, views, classes)
        dataset = _varied(order, _decoding(paths), spec, changes, seed, _targets(examples.labels))
        return _finished(dataset.batch(batch_size), len(examples), batch_size)

    def decode(position: tf.Tensor) -> tf.Tensor:
        return decode_image(tf.io.read_file(paths[position]), spec, path=paths[position])

    if _is_cached(cache, len(examples), spec):
        pixels = _decoded(examples, decode)
        return assemble(_gather(pixels), examples.labels, batch_size, shuffle, seed, epoch, sampling=sampling)
    labels = _on_cpu(_targets(examples.labels))
    dataset = rows(len(examples), shuffle, seed, epoch, classes=classes)
    dataset = dataset.map(lambda i: (decode(i), labels[i]), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finished(dataset.batch(batch_size), len(examples), batch_size)


def from_arrays(
    images: np.ndarray | tf.Tensor,
    labels: np.ndarray | tf.Tensor,
    spec: InputSpec | None = None,
    *,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    cache: bool | Literal["auto"] = "auto",
    epoch: tf.Variable | None = None,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int | None = None,
    sampling: str | None = None,
) -> tf.data.Dataset:
    """Makes the same kind of dataset as :func:`tfft.data.to_dataset` from images that are in memory.

    Args:
        images: [N, H, W] grey or [N, H, W, C] with C 1 or 3; uint8, or numbers in 0 to 255, which
            are rounded to whole grey levels.
        labels: whole numbers [N] for one class each, 0 or 1 [N, n] for several labels, float [N] or
            [N, k] for regression.
        spec: brings the images to its size and channels; None leaves them as they are.
        batch_size: examples per batch.
        shuffle: True gives another order in each pass.
        seed: picks another series of orders.
        cache: whether resized images are kept, as in :func:`tfft.data.to_dataset`.
        epoch: as in :func:`tfft.data.to_dataset`.
        augment: as in :func:`tfft.data.to_dataset`.
        views: as in :func:`tfft.data.to_dataset`.
        sampling: as in :func:`tfft.data.to_dataset`; for labels of one class each.

    Returns:
        Dataset of (uint8 [B, H, W, C], int32 [B] or float32 labels).

    Raises:
        DataError: when images and labels cannot belong together or are no pixels; all problems at once.
        PlanError: when arguments are out of range.

    Example:
        >>> digits = sklearn.datasets.load_digits()
        >>> from_arrays(digits.images * (255 / 16), digits.target, backbone.input_spec, shuffle=True)
    """
    _check_arguments(batch_size, cache, epoch, views)
    pixels, targets = checked_arrays(np.asarray(images), np.asarray(labels))
    fetch = _gather(_on_cpu(pixels))
    if spec is not None:
        check_spec(spec)
    if (changes := augmentation(augment)) is not None:
        classes = classes_to_balance(sampling, targets)
        order = rows(len(pixels), shuffle, seed, epoch, views, classes)
        dataset = _varied(order, fetch, spec or _same_size(pixels), changes, seed, targets)
        return _finished(dataset.batch(batch_size), len(pixels), batch_size)
    if spec is not None:
        fetch = _resizing(fetch, spec)
        if _is_cached(cache, len(pixels), spec):
            starts = range(0, len(pixels), 256)
            parts = [fetch(tf.range(s, min(s + 256, len(pixels)), dtype=tf.int64)) for s in starts]
            with tf.device("CPU:0"):
                fetch = _gather(tf.concat(parts, axis=0))
    return assemble(fetch, targets, batch_size, shuffle, seed, epoch, sampling=sampling)


def assemble(
    fetch: Fetch,
    labels: np.ndarray,
    batch_size: int,
    shuffle: bool,
    seed: int,
    epoch: tf.Variable | None,
    views: int = 1,
    sampling: str | None = None,
    lengths: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Makes a dataset of anything that is fetched by position, in the order of :func:`tfft.data.to_dataset`.

    Args:
        fetch: from int64 rows [b] to what the model takes, runs as TensorFlow ops. The row of a view of an
            example is its position plus ``view * len(labels)``.
        labels: of all examples, by position.
        batch_size: as in :func:`tfft.data.to_dataset`, like ``shuffle``, ``seed`` and ``epoch``.
        shuffle: True gives another order in each pass.
        seed: picks another series of orders.
        epoch: None counts the passes.
        views: of each example; one in each pass, in turn.
        sampling: as in :func:`tfft.data.to_dataset`.
        lengths: of the examples, [N], so that batches hold examples of similar length; see
            :func:`tfft.data.sampling.rows`.

    Returns:
        Dataset of (what is fetched, labels), its length known.
    """
    targets = _on_cpu(labels)
    classes = classes_to_balance(sampling, labels)
    order = rows(len(labels), shuffle, seed, epoch, views, classes, lengths, batch_size)
    dataset = order.batch(batch_size).map(
        lambda batch: (fetch(batch), tf.gather(targets, batch % len(labels))),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return _finished(dataset, len(labels), batch_size)


def views_of(
    examples: Examples | tuple[np.ndarray, np.ndarray],
    spec: InputSpec,
    changes: Augmentation,
    views: int,
    *,
    batch_size: int = 32,
    seed: int = 0,
) -> tf.data.Dataset:
    """Makes one pass over all views of all examples: view 0 of each, then view 1 of each, and so on.

    Use it to compute something of every view once; :func:`tfft.data.to_dataset` shows the same ones in turn.

    Args:
        examples: files, or (images, labels) as :func:`checked_arrays` returns them.
        spec: as in :func:`tfft.data.to_dataset`.
        changes: what varies.
        views: how many.
        batch_size: as in :func:`tfft.data.to_dataset`.
        seed: as in :func:`tfft.data.to_dataset`.

    Returns:
        Dataset of (uint8 [B, H, W, C], labels [B]) with ``views * len(examples)`` examples.
    """
    if isinstance(examples, Examples):
        labels, fetch = examples.labels, _decoding(_on_cpu(np.array([path.encode() for path in examples.paths])))
    else:
        labels, fetch = examples[1], _gather(_on_cpu(examples[0]))
    count = views * len(labels)
    dataset = _varied(tf.data.Dataset.range(count), fetch, spec, changes, seed, labels)
    return _finished(dataset.batch(batch_size), count, batch_size)


def check_pixels(images: tf.Tensor | np.ndarray, name: str) -> None:
    """Refuses floating images that are scaled already, where raw pixels are expected.

    Models of tfft take uint8, and Keras casts to it: without this check, pixels from 0 to 1 would
    all be black and nothing would say so.

    Args:
        images: one batch, or all images; integers pass.
        name: what they are, for the message, for example "the training dataset".

    Raises:
        DataError: when floating pixels are not in 0 to 255, or all in 0 to 1 (but not all 0).
    """
    if tf.as_dtype(images.dtype).is_floating:
        pixels = tf.cast(images, tf.float32).numpy()
        raise_problems(DataError, f"The images of {name} cannot be used", _pixel_problems(pixels))


def _check_arguments(batch_size: int, cache: object, epoch: object, views: object) -> None:
    problems = []
    if views is not None and (isinstance(views, bool) or not isinstance(views, (int, np.integer)) or views < 1):
        problems.append(f"views must be a whole number of at least 1 or None, received {views!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        problems.append(f"batch_size must be a whole number of at least 1, received {batch_size!r}")
    if cache not in (True, False, "auto"):
        problems.append(f"cache must be True, False or 'auto', received {cache!r}")
    if epoch is not None and not isinstance(epoch, tf.Variable):
        problems.append(f"epoch must be a tf.Variable of dtype int64 or None, received {type(epoch).__name__}")
    raise_problems(PlanError, "The dataset cannot be made", problems)


def _on_cpu(values: np.ndarray) -> tf.Tensor:
    with tf.device("CPU:0"):  # tf.data runs there; a captured tensor elsewhere would be copied in each call
        return tf.constant(values)


def _is_cached(cache: bool | str, count: int, spec: InputSpec) -> bool:
    if cache == "auto":
        return count * spec.height * spec.width * spec.channels < CACHE_LIMIT
    return bool(cache)


def _decoded(examples: Examples, decode: Fetch) -> tf.Tensor:
    dataset = tf.data.Dataset.range(len(examples)).map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    try:
        with tf.device("CPU:0"):
            return dataset.batch(len(examples)).get_single_element()
    except tf.errors.OpError as error:  # TensorFlow does not say which file it was
        reasons = ((path, why_unreadable(path)) for path in examples.paths)
        problems = [f"{path} {reason}" for path, reason in reasons if reason]
        raise_problems(DataError, "Files that cannot be used (list the folder again to leave them out)", problems)
        raise error


def _gather(pixels: tf.Tensor) -> Fetch:
    return lambda positions: tf.gather(pixels, positions)


def _resizing(fetch: Fetch, spec: InputSpec) -> Fetch:
    return lambda positions: tf.cast(resize_pixels(fetch(positions), spec), tf.uint8)


def _finished(dataset: tf.data.Dataset, count: int, batch_size: int) -> tf.data.Dataset:
    # Behind flat_map the length is lost, and Keras needs it to know where an epoch ends.
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(math.ceil(count / batch_size)))
    return dataset.prefetch(tf.data.AUTOTUNE)


def _decoding(paths: tf.Tensor) -> Fetch:
    return lambda position: decode_pixels(tf.io.read_file(paths[position]), paths[position])


def _varied(
    order: tf.data.Dataset, fetch: Fetch, spec: InputSpec, changes: Augmentation, seed: int, labels: np.ndarray
) -> tf.data.Dataset:
    check_kind(changes, sounds=False)
    targets, count = _on_cpu(labels), len(labels)

    def one(row: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        position, view = row % count, row // count
        own = tf.random.fold_in(tf.constant([seed, count], tf.int64), position)
        return view_of(fetch(position), spec, changes, own, view), targets[position]

    return order.map(one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _targets(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32)


def _same_size(pixels: np.ndarray) -> InputSpec:
    _, height, width, channels = pixels.shape
    return InputSpec(height, width, channels)


def checked_arrays(images: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns images as uint8 [N, H, W, C] and labels as int32 or float32, as :func:`from_arrays` takes them.

    Args:
        images: as in :func:`from_arrays`.
        labels: as in :func:`from_arrays`.

    Raises:
        DataError: when they cannot belong together or are no pixels; all problems at once.
    """
    problems = []
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        problems.append(
            "images must be [N, H, W] or [N, H, W, C] with C 1 or 3 and nothing empty, "
            f"received shape {images.shape}; channels first: transpose"
        )
    elif len(images) != len(labels) if labels.ndim else True:
        problems.append(f"there must be one label for each image, received {len(images)} images, labels {labels.shape}")
    problems += _pixel_problems(images) + _label_problems(labels)
    raise_problems(DataError, "The arrays cannot be used", problems)
    whole = images if images.dtype == np.uint8 else np.rint(images).astype(np.uint8)
    one_class = labels.ndim == 1 and labels.dtype.kind in "iub"
    return whole, labels.astype(np.int32 if one_class else np.float32)


def _pixel_problems(images: np.ndarray) -> list[str]:
    if images.dtype == np.uint8 or images.size == 0:
        return []
    if images.dtype.kind not in "iuf":
        return [f"images must be numbers, received dtype {images.dtype}"]
    if not np.isfinite(images).all():
        return ["images must be finite, received NaN or infinity"]
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 255:
        return [f"pixels must be in 0 to 255, received {low:g} to {high:g}"]
    if images.dtype.kind == "f" and 0 < high <= 1:
        return [f"pixels must be in 0 to 255, received {low:g} to {high:g}: multiply by 255"]
    return []


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
