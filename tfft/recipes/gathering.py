"""Data in any of the forms that a recipe takes, made into one: :func:`gather`.

Hides the differences between a folder, arrays and ready datasets from the recipe.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.data import (
    Examples,
    RecordingSplits,
    Splits,
    from_arrays,
    from_waves,
    load,
    load_image_table,
    load_recording_table,
    to_dataset,
)
from tfft.data.augmenting import augmentation, check_kind
from tfft.data.headers import read_header
from tfft.data.pipeline import check_pixels, checked_arrays
from tfft.data.recordings import holds_recordings, load_recordings
from tfft.data.tfds_sources import is_tfds, local_copy
from tfft.errors import DataError, listed
from tfft.inspection import check_recordings, check_splits
from tfft.plans import Wishes
from tfft.recipes.gathered import Gathered, by_class, classes
from tfft.recipes.texts import gather_tagged, gather_texts, is_text_data
from tfft.recipes.watching import ReadingProgress
from tfft.specs import InputSpec, Plan
from tfft.storage import cache_dir

_SIZES_READ = 64


def gather(data: Any, wishes: Wishes, progress: ReadingProgress | None = None) -> Gathered:
    """Reads data in any accepted form.

    Args:
        data: a folder of images or texts; a table of texts or image files; ``"tfds:NAME"``; :class:`tfft.data.Splits`;
            ``(images, labels)`` or ``(texts, labels)``; or ``(train, validation, class_names)`` with two datasets of
            batches.
        wishes: share held out where the data is not split yet, seed of the split, columns of a table.
        progress: called with (files read, files in all) while files of images or recordings are read.

    Returns:
        What the recipe needs to know, and the datasets on demand.

    Raises:
        DataError: when the form is unknown or the data cannot be used.
    """
    if isinstance(data, RecordingSplits):
        return _heard(data, "recordings given in memory", wishes)
    if isinstance(data, Splits):
        return _files(data, data.root)
    if is_tfds(data):
        return _of_tfds(data, wishes, progress)
    if wishes.image is not None:
        return _image_table(data, wishes, progress)
    if wishes.audio is not None:
        return _recording_table(data, wishes, progress)
    of_texts = wishes.task != "tokens" and is_text_data(data, wishes)
    if of_texts or wishes.task == "tokens" or not isinstance(data, (str, os.PathLike)):
        if isinstance(wishes.validation, str):
            raise DataError(f"validation={wishes.validation!r} is for files of images, which have names.")
        if wishes.group is not None and not of_texts:
            raise DataError(f"group={wishes.group!r} is for folders of files, which have names, and for tables.")
    if wishes.task == "tokens":
        return gather_tagged(data, wishes)
    if of_texts:
        return gather_texts(data, wishes)
    if wishes.task not in ("auto", "classification"):
        raise DataError(
            f"task={wishes.task!r} is for tables; folders and arrays are read for classification. Give a table with a "
            "column of files (image= or audio=), or build the model with tfft.build(backbone, tfft.heads....)."
        )
    validation, seed = wishes.validation, wishes.seed
    if isinstance(data, (str, os.PathLike)):
        return (_recordings if os.path.isdir(data) and holds_recordings(data) else _folder)(data, wishes, progress)
    if isinstance(data, (tuple, list)) and len(data) == 3 and isinstance(data[0], tf.data.Dataset):
        return _ready(*data)
    if isinstance(data, (tuple, list)) and len(data) == 2 and not isinstance(data[0], (str, tf.data.Dataset)):
        return _arrays(np.asarray(data[0]), np.asarray(data[1]), validation, seed)
    got = f"a {type(data).__name__}" + (f" of {len(data)}" if isinstance(data, (tuple, list)) else "")
    raise DataError(
        "Data must be a folder with one folder per class, a table of texts or of files (.csv, .tsv, .jsonl, or a "
        "DataFrame; image= or audio= names the column of files), "
        "(images, labels) or (texts, labels), or (train, validation, class_names) with two tf.data.Dataset of batches; "
        f"got {got}."
    )


def _of_tfds(source: str | os.PathLike[str], wishes: Wishes, progress: ReadingProgress | None) -> Gathered:
    asked = {name: getattr(wishes, name) for name in ("image", "audio", "text", "label", "task", "sample_rate")}
    copy = local_copy(source, **asked, progress=progress)
    found = gather(copy.source, dataclasses.replace(wishes, **copy.settings), progress)
    return dataclasses.replace(found, name=copy.name, skipped=(*found.skipped, *copy.skipped))


def _folder(folder: str | os.PathLike[str], wishes: Wishes, progress: ReadingProgress | None) -> Gathered:
    settings = {"validation": wishes.validation, "seed": wishes.seed, "strict": wishes.strict, "group": wishes.group}
    splits = load(folder, **settings, store=cache_dir() / "files.sqlite", progress=progress)
    return _files(splits, os.fspath(folder))


def _image_table(source: Any, wishes: Wishes, progress: ReadingProgress | None) -> Gathered:
    store = cache_dir() / "files.sqlite"
    splits = load_image_table(source, **_table_settings(wishes, "image"), store=store, progress=progress)
    return _files(splits, _table_name(source))


def _recording_table(source: Any, wishes: Wishes, progress: ReadingProgress | None) -> Gathered:
    heard = {"sample_rate": wishes.sample_rate, "seconds": wishes.seconds}
    splits = load_recording_table(source, **_table_settings(wishes, "audio"), **heard, progress=progress)
    return _heard(splits, _table_name(source), wishes)


def _table_settings(wishes: Wishes, files: str) -> dict[str, Any]:
    """What is wished of a table whose paths are named by the setting ``files``."""
    named = {name: getattr(wishes, name) for name in (files, "label") if getattr(wishes, name) is not None}
    always = ("validation", "seed", "strict", "group", "task", "separator")
    return named | {name: getattr(wishes, name) for name in always}


def _table_name(source: Any) -> str:
    return os.fspath(source) if isinstance(source, (str, os.PathLike)) else "a table in memory"


def _recordings(folder: str | os.PathLike[str], wishes: Wishes, progress: ReadingProgress | None) -> Gathered:
    splits = load_recordings(
        folder, sample_rate=wishes.sample_rate, seconds=wishes.seconds, validation=wishes.validation, seed=wishes.seed,
        group=wishes.group, strict=wishes.strict, progress=progress,
    )  # fmt: skip
    return _heard(splits, os.fspath(folder), wishes)


def _heard(splits: RecordingSplits, name: str, wishes: Wishes) -> Gathered:
    report = check_recordings(splits)
    pairs = tuple(zip(splits.waves, (splits.train.labels, splits.validation.labels), strict=True))
    names, spec = splits.train.class_names, splits.spec

    if (changes := augmentation(wishes.augment)) is not None:
        check_kind(changes, sounds=True)

    def training(_: InputSpec | None, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        return from_waves(*pairs[0], spec, **_settings(plan, epoch))

    counted: dict[str, Any] = {"counts": (), "unseen": ()}
    if splits.task == "classification":
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
        validation=lambda _, batch_size: from_waves(*pairs[1], spec, batch_size=batch_size),
        ordered=lambda _: pairs,
        probe=(),  # files may have any format; the export is checked with their waves
        name=name,
        fingerprint=lambda: _fingerprint(splits.train, splits.validation),
        task=splits.task,
        audio=spec,
        report="\n".join([heard, *findings]),
        checked=report,
        items=splits.items,
        apart=True,
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
    if splits.task == "classification":
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


def _arrays(images: np.ndarray, labels: np.ndarray, validation: float, seed: int) -> Gathered:
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

    def training(spec: InputSpec | None, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        return from_arrays(images[~held], numbers[~held], spec, **_settings(plan, epoch))

    def ordered(spec: InputSpec | None) -> tuple[Any, Any]:
        if spec is None:
            return plain(spec, ~held), plain(spec, held)
        pairs = [checked_arrays(images[part], numbers[part]) for part in (~held, held)]
        return tuple((np.repeat(x, 3, -1) if x.shape[-1] < spec.channels else x, y) for x, y in pairs)

    def plain(spec: InputSpec | None, which: np.ndarray, batch_size: int = 32) -> tf.data.Dataset:
        return from_arrays(images[which], numbers[which], spec, batch_size=batch_size)

    names = tuple(str(v.decode() if isinstance(v, bytes) else v) for v in values.tolist())
    return Gathered(
        class_names=names,
        examples=int((~held).sum()),
        held_out=int(held.sum()),
        **by_class(names, numbers[~held], numbers[held]),
        origin=f"{validation * 100:g} % of each class, drawn with seed {seed}",
        skipped=(),
        image_side=float(min(images.shape[1:3])),
        training=training,
        validation=lambda spec, batch_size: plain(spec, held, batch_size),
        ordered=ordered,
        probe=(),
        name=f"arrays {images.shape}",
        fingerprint=lambda: _fingerprint_of(names, images, numbers),
    )


def _held_out(numbers: np.ndarray, counts: np.ndarray, share: float, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    held = np.zeros(len(numbers), bool)
    for label, count in enumerate(counts):
        members = random.permutation(np.flatnonzero(numbers == label))
        held[members[: min(count - 1, max(1, round(count * share)))]] = True
    return held


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
