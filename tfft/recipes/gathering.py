"""Data in any of the forms that a recipe takes, made into one: :func:`gather`.

Hides the differences between a folder, arrays and ready datasets from the recipe.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.config import Plan, SharedSettings
from tfft.console.progress import ReadingProgress
from tfft.data import (
    ArraySplits,
    Examples,
    RecordingSplits,
    Splits,
    TaggedSplits,
    TextSplits,
    from_waves,
    load,
    to_dataset,
)
from tfft.data.batches import check_pixels, checked_arrays
from tfft.data.loader import READY, AnySplits, check_settings, load_copy
from tfft.data.tfds.source import is_tfds, local_copy
from tfft.errors import DataError
from tfft.inspection import check_splits
from tfft.io.cache_dir import cache_dir
from tfft.modalities.audio.waveform_store import Waves
from tfft.modalities.image.headers import read_header
from tfft.recipes.gathered import Gathered, by_class, classes
from tfft.recipes.texts import check_supported, gather_tagged, gather_texts
from tfft.specs import InputSpec, augmentation, check_kind

_SIZES_READ = 64


def gather(data: Any, wishes: SharedSettings, progress: ReadingProgress | None = None) -> Gathered:
    """Reads data in any accepted form.

    Args:
        data: as :func:`tfft.data.load` takes it, or what it gives; or ``(train, validation, class_names)`` with two
            datasets of batches.
        wishes: share held out where the data is not split yet, seed of the split, columns of a table.
        progress: called with (files read, files in all) while files of images or recordings are read.

    Returns:
        What the recipe needs to know, and the datasets on demand.

    Raises:
        DataError: when the form is unknown or the data cannot be used.
    """
    if isinstance(data, (Splits, TextSplits, TaggedSplits, ArraySplits)):
        return _of_splits(data, "", wishes)
    if isinstance(data, (tuple, list)) and len(data) == 3 and isinstance(data[0], tf.data.Dataset):
        check_settings(READY, wishes.given("reading"))
        return _ready(*data)
    reading: dict[str, Any] = {"store": cache_dir() / "files.sqlite", "progress": progress}
    if is_tfds(data):
        asked = {name: getattr(wishes, name) for name in ("image", "audio", "text", "label", "task", "sample_rate")}
        copy = local_copy(data, **asked, progress=progress)
        return _of_splits(load_copy(copy, **wishes.given("reading"), **reading), copy.name, wishes)
    check_supported(wishes)
    splits = load(data, **wishes.given("reading"), **reading)
    name = "" if wishes.image is None and wishes.audio is None else "a table in memory"
    return _of_splits(splits, os.fspath(data) if isinstance(data, (str, os.PathLike)) else name, wishes)


def _of_splits(splits: AnySplits, name: str, wishes: SharedSettings) -> Gathered:
    """Makes one form of all kinds of splits; ``name`` is empty where they were not read from a place."""
    if isinstance(splits, RecordingSplits):
        return _heard(splits, name or "recordings given in memory", wishes)
    if isinstance(splits, Splits):
        return _files(splits, name or splits.root)
    if isinstance(splits, TextSplits):
        return gather_texts(splits, name or "texts given in memory", wishes)
    if isinstance(splits, TaggedSplits):
        return gather_tagged(splits, name or "texts given in memory")
    return _arrays(splits)


def _heard(splits: RecordingSplits, name: str, wishes: SharedSettings) -> Gathered:
    report = check_splits(splits)
    names, spec, parts = splits.train.class_names, splits.spec, (splits.train, splits.validation)

    if (changes := augmentation(wishes.augment)) is not None:
        check_kind(changes, sounds=True)

    def pair(number: int) -> tuple[np.ndarray | Waves, np.ndarray]:
        return splits.waves[number], parts[number].labels

    def training(_: InputSpec | None, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        return from_waves(*pair(0), spec, **_settings(plan, epoch))

    counted: dict[str, Any] = {"counts": (), "unseen": ()}
    if registry.task(splits.task).exclusive_classes:
        counted = by_class(names, splits.train.labels, splits.validation.labels)
    heard = f"recordings: {spec.sample_rate} samples a second, {spec.seconds:g} s of each are heard"
    findings = [str(finding) for finding in report.findings if finding.level != "note"]
    return Gathered(
        class_names=names,
        examples=len(splits.train),
        held_out=len(splits.validation),
        **counted,
        origin=splits.split_from,
        skipped=splits.skipped,
        image_side=None,
        training=training,
        validation=lambda _, batch_size: from_waves(*pair(1), spec, batch_size=batch_size),
        ordered=lambda _: (pair(0), pair(1)),
        probe=(),  # files may have any format; the export is checked with their waves
        name=name,
        fingerprint=lambda: _fingerprint(splits.train, splits.validation),
        task=splits.task,
        audio=spec,
        report="\n".join([heard, *findings]),
        checked=report,
        items=splits.items,
        apart=True,
        listen=splits.source.read,
    )


def _files(splits: Splits, name: str) -> Gathered:
    report, clean = check_splits(splits, name), np.setdiff1d(np.arange(len(splits.validation)), splits.leaked)

    def checked(spec: InputSpec | None) -> InputSpec:
        if spec is None:
            raise DataError("Files of images need a backbone that takes images, and this one takes something else.")
        return spec

    def training(spec: InputSpec | None, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        return to_dataset(splits.train, checked(spec), **_settings(plan, epoch))

    def unleaked(spec: InputSpec | None, batch_size: int) -> tf.data.Dataset:
        return to_dataset(splits.validation.take(clean), checked(spec), batch_size=batch_size)

    counted: dict[str, Any] = {"counts": (), "unseen": ()}
    if registry.task(splits.task).exclusive_classes:
        counted = by_class(splits.class_names, splits.train.labels, splits.validation.labels)
    return Gathered(
        class_names=tuple(splits.class_names),
        examples=len(splits.train),
        held_out=len(splits.validation),
        **counted,
        origin=splits.split_from,
        skipped=tuple(splits.skipped),
        image_side=_median_side(splits.train),
        training=training,
        validation=lambda spec, batch_size: to_dataset(splits.validation, checked(spec), batch_size=batch_size),
        ordered=lambda spec: (splits.train, splits.validation),
        probe=tuple(splits.validation.paths[:4]),
        name=name,
        fingerprint=lambda: _fingerprint(splits.train, splits.validation),
        task=splits.task,
        report="\n".join(str(finding) for finding in report.findings if finding.level != "note"),
        checked=report,
        items=splits.items,
        apart=splits.groups is not None,
        unleaked=unleaked if 0 < len(clean) < len(splits.validation) else None,
    )


def _settings(plan: Plan, epoch: tf.Variable) -> dict[str, Any]:
    varied = {"augment": plan.augment, "views": plan.views, "sampling": plan.sampling}
    return {"batch_size": plan.batch_size, "shuffle": True, "seed": plan.seed, "epoch": epoch, **varied}


def _fingerprint(*parts: Examples) -> str:
    """Names, sizes and labels: reading every byte would take as long as training on few of them."""
    found = hashlib.sha256()
    for part in parts:
        for path, label in zip(part.paths, part.labels, strict=True):
            found.update(
                f"{path}\0{os.path.getsize(path)}\0{np.asarray(label).tolist()}\n".encode("utf-8", "surrogateescape")
            )
    return found.hexdigest()


def _fingerprint_of(names: Sequence[str], *arrays: np.ndarray) -> str:
    found = hashlib.sha256(repr(names).encode())
    for array in arrays:
        found.update(f"{array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array))  # read in place: the images may fill half of the memory
    return found.hexdigest()


def _median_side(examples: Examples) -> float | None:
    step = max(1, len(examples) // _SIZES_READ)
    sides = []
    for path in examples.paths[::step]:
        header = read_header(tf.io.read_file(path))
        sides.append(min(int(header.height), int(header.width)))
    sides = [side for side in sides if side]
    return float(np.median(sides)) if sides else None


def _arrays(splits: ArraySplits) -> Gathered:
    parts = splits.train, splits.validation
    images = splits.train.source

    def training(spec: InputSpec | None, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        return to_dataset(splits.train, spec, **_settings(plan, epoch))

    def ordered(spec: InputSpec | None) -> tuple[Any, Any]:
        if spec is None:
            return tuple(to_dataset(part) for part in parts)
        pairs = [checked_arrays(part.images, part.labels) for part in parts]
        return tuple((np.repeat(x, 3, -1) if x.shape[-1] < spec.channels else x, y) for x, y in pairs)

    return Gathered(
        class_names=splits.class_names,
        examples=len(splits.train),
        held_out=len(splits.validation),
        **by_class(splits.class_names, splits.train.labels, splits.validation.labels),
        origin=splits.split_from,
        skipped=(),
        image_side=float(min(images.shape[1:3])),
        training=training,
        validation=lambda spec, batch_size: to_dataset(splits.validation, spec, batch_size=batch_size),
        ordered=ordered,
        probe=(),
        name=f"arrays {images.shape}",
        fingerprint=lambda: _fingerprint_of(splits.class_names, images, splits.labels),
    )


def _ready(train: tf.data.Dataset, validation: tf.data.Dataset, class_names: Sequence[str]) -> Gathered:
    if not isinstance(validation, tf.data.Dataset):
        raise DataError(
            f"The second of (train, validation, class_names) must be a dataset, got {type(validation).__name__}."
        )
    parts = ((train, "training"), (validation, "validation"))
    names = tuple(str(name) for name in class_names)
    counts = [_count(part, name, len(names)) for part, name in parts]

    def checked(spec: InputSpec | None, number: int) -> tf.data.Dataset:
        if spec is not None:
            _check_images(*parts[number])
        return parts[number][0]

    inputs = train.element_spec[0]
    shape = inputs.shape if isinstance(inputs, tf.TensorSpec) and inputs.shape.rank == 4 else None
    known = shape is not None and None not in tuple(shape[1:3])
    return Gathered(
        class_names=names,
        examples=int(counts[0].sum()),
        held_out=int(counts[1].sum()),
        **classes(names, *counts),
        origin="the two datasets given",
        skipped=(),
        image_side=float(min(shape[1:3])) if known else None,
        training=lambda spec, *_: checked(spec, 0),
        validation=lambda spec, _: checked(spec, 1),
        ordered=lambda spec: (checked(spec, 0), checked(spec, 1)),
        probe=(),
        name="datasets given in memory",
        fingerprint=lambda: f"{[count.tolist() for count in counts]}",  # what more they hold would take a pass to see
        batch_size=int(tf.shape(next(iter(train))[1])[0]),
    )


def _count(dataset: tf.data.Dataset, name: str, classes: int) -> np.ndarray:
    """Counts the examples of each class of a ready dataset, and checks on the way that no label is of another."""
    spec = dataset.element_spec
    if not isinstance(spec, tuple) or len(spec) < 2:
        raise DataError(f"The {name} dataset must give batches of (inputs, labels), got {spec}.")
    labels = spec[1]
    if not isinstance(labels, tf.TensorSpec) or labels.shape.rank not in (1, None) or not labels.dtype.is_integer:
        hint = " Is it batched? dataset.batch(32)" if getattr(labels, "shape", None) == () else ""
        raise DataError(f"The labels of the {name} dataset must be batches of whole numbers [B], got {labels}.{hint}")
    if int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise DataError(f"The {name} dataset never ends (it repeats); an epoch needs an end.")

    def add(state: tuple[tf.Tensor, ...], batch: Any) -> tuple[tf.Tensor, ...]:
        numbers = tf.cast(batch[1], tf.int64)
        low, high = tf.reduce_min(numbers), tf.reduce_max(numbers)
        inside = tf.boolean_mask(numbers, (numbers >= 0) & (numbers < classes))
        counted = tf.math.bincount(tf.cast(inside, tf.int32), minlength=classes, maxlength=classes, dtype=tf.int64)
        counted = tf.ensure_shape(counted, [classes])
        return state[0] + counted, tf.minimum(state[1], low), tf.maximum(state[2], high)

    start = (np.zeros(classes, np.int64), np.int64(tf.int64.max), np.int64(tf.int64.min))
    counts, low, high = dataset.reduce(start, add)
    if int(high) < int(low):
        raise DataError(f"The {name} dataset holds no examples, expected at least one batch.")
    if low < 0 or high >= classes:
        raise DataError(
            f"The labels of the {name} dataset must be 0 to {classes - 1}, one for each of the {classes} class names, "
            f"got {int(low)} to {int(high)}."
        )
    return np.asarray(counts)


def _check_images(dataset: tf.data.Dataset, name: str) -> None:
    given = tf.nest.flatten(dataset.element_spec[0])
    shape = given[0].shape
    known = shape.rank is not None and (shape.rank == 0 or shape[-1] is not None)
    if len(given) == 1 and (given[0].dtype.is_floating or not known):
        [first] = tf.nest.flatten(next(iter(dataset))[0])
        shape = first.shape
        check_pixels(first, f"the {name} dataset")
    if len(given) != 1 or shape.rank != 4 or shape[-1] not in (1, 3):
        got = shape if len(given) == 1 else f"{len(given)} inputs"
        raise DataError(
            f"The {name} dataset must give images [B, rows, columns, channels] with 1 or 3 channels last, got {got}."
        )
