"""Frozen features of a dataset, computed once: :func:`extract`, :class:`Features`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from tfft.arrays.ragged import Rows
from tfft.arrays.store import CacheFullError, EntryWriter, read_entry, read_manifest
from tfft.backbones.base import Backbone
from tfft.errors import DataError
from tfft.features.cache import HELD, REMEDY, WHAT, cache_folder
from tfft.features.cache_key import NoKey, cache_key
from tfft.features.engines import EngineName, choose, stage
from tfft.features.feature_set import Features
from tfft.features.job import Job, as_model, check_arguments, open_jobs, views_of
from tfft.features.shard_store import join_shards
from tfft.features.sources import Views, open_source
from tfft.specs import Augmentation


def extract(
    prefix: keras.Model | Backbone,
    dataset: Any,
    *,
    cache: str | os.PathLike[str] | bool | None = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    engine: EngineName = "auto",
    batch_size: int = 32,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int = 4,
    seed: int = 0,
    verbose: bool | int = True,
) -> Features:
    """Run a frozen model over a dataset once, and cache its outputs.

    Use it with the prefix from :func:`tfft.features.split_frozen`, and train the suffix on the result; or with a
    backbone, to use its features elsewhere. The model runs in inference mode.

    Args:
        prefix: Functional model, or a backbone, which then takes raw pixels.
        dataset: ``tf.data.Dataset`` of (inputs, labels) batches, or of inputs alone, in the same order each time;
            :class:`tfft.data.Examples`, decoded for the Preprocess layer of the prefix; an array; or a pair (array,
            labels). Images are uint8 if the prefix begins with Preprocess; texts are arrays or lists of strings, pairs
            of texts a dict of two.
        cache: ``"auto"`` stores features in the user's cache folder, or in memory with a note if that is impossible; a
            path stores them there; ``"memory"`` until the process ends; None or False does not store them. A cached
            entry was computed with the same weights, graph, preprocessing, examples, order, type, engine and versions,
            and its hash is verified.
        dtype: ``"float16"`` halves the size and rounds features to 11 significant bits, an error of up to 0.05 %.
        engine: ``"auto"`` uses LiteRT on a CPU, and TensorFlow on a GPU, for so few examples that a conversion takes
            longer than it saves, or if LiteRT cannot run the model; ``"litert"`` and ``"tensorflow"`` require one.
        batch_size: Examples per batch, for files and arrays. Texts are batched by length, with more short than long
            ones per batch.
        augment: Augmentation of images, as in :func:`tfft.data.to_dataset`: features are computed for ``views`` views
            of each. Training on them equals training on ``to_dataset(..., augment=, views=, seed=)``.
        views: Number of views, the image itself included. With more epochs than views, views repeat.
        seed: Seed for the views.
        verbose: True shows a progress bar, 2 also prints the size before computing and the time after, False nothing.

    Returns:
        :class:`Features`.

    Raises:
        DataError: If the examples do not fit or cannot be read, or the disk is full.
        PlanError: If arguments are out of range.
        BackboneError: If the model is not functional, or LiteRT was requested and cannot run it.
        DependencyError: If LiteRT was requested and is not installed.

    Example:
        >>> prefix, suffix = tfft.features.split_frozen(model)
        >>> features = tfft.features.extract(prefix, tfft.data.load("photos/").train)
        >>> features.arrays.shape, features.engine
        ((184, 1280), 'litert')
    """
    [found] = extract_each(
        prefix, [dataset], cache=cache, dtype=dtype, engine=engine, batch_size=batch_size, verbose=verbose,
        views=views_of(augment, views, seed),
    )  # fmt: skip
    return found


def extract_each(
    prefix: keras.Model | Backbone,
    datasets: Sequence[Any],
    *,
    cache: str | os.PathLike[str] | bool | None = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    engine: EngineName = "auto",
    batch_size: int = 32,
    verbose: bool | int = True,
    views: Views | None = None,
) -> list[Features]:
    """Implement :func:`extract` for several datasets; the model is converted once.

    Args:
        prefix: As in :func:`extract`, like all that are not described here.
        datasets: Datasets, such as the training and the validation examples.
        cache: As in :func:`extract`.
        dtype: As in :func:`extract`.
        engine: As in :func:`extract`.
        batch_size: As in :func:`extract`.
        verbose: As in :func:`extract`.
        views: Views of the images in the first dataset.

    Returns:
        :class:`Features` of each dataset.

    Raises:
        TfftError: As in :func:`extract`.

    Example:
        >>> train, validation = extract_each(prefix, [splits.train, splits.validation])
    """
    check_arguments(cache, dtype, engine, batch_size)
    with open_jobs(as_model(prefix), datasets, cache, dtype, engine, batch_size, verbose, views) as jobs:
        return [_extract(job, cache) for job in jobs]


def kept_seconds(
    prefix: keras.Model,
    datasets: Sequence[Any],
    *,
    cache: str | os.PathLike[str] | bool | None,
    dtype: str = "float32",
    batch_size: int = 32,
    views: Views | None = None,
) -> float | None:
    """Return the seconds that cached features took when they were computed; None if they are not in the cache.

    Args:
        prefix: As in :func:`extract_each`, like all arguments.
        datasets: Datasets, such as the training and the validation examples.
        cache: Place for features.
        dtype: Type of the stored features.
        batch_size: Examples per batch.
        views: Views of the images in the first dataset.
    """
    if cache is None or cache is False:
        return None
    staged = stage(prefix)
    root = cache_folder(cache)
    total = 0.0
    for i, dataset in enumerate(datasets):
        source = open_source(dataset, staged, batch_size, None if i else views)
        try:
            engine, _ = choose("auto", staged.mask is not None)
            key = cache_key(prefix, source.identity(), dtype=dtype, engine=engine)
        except NoKey:
            return None
        if cache == "memory":
            about: Any = HELD[key][1] if key in HELD else None
        else:
            manifest = read_manifest(root / key)
            about = None if manifest is None else manifest["about"]
        if about is None:
            return None
        total += float(about["seconds"])
    return total


def _extract(job: Job, cache: Any) -> Features:
    if cache is None or cache is False:
        return job.hold()
    try:
        key = job.key()
    except NoKey as why:
        job.note(f"The features cannot be cached: {why}.")
        return job.hold()
    if cache == "memory":
        return _from_memory(job, key)
    return _from_disk(job, key, cache_folder(cache), cache in ("auto", True))


def _from_memory(job: Job, key: str) -> Features:
    if key in HELD:
        arrays, about = HELD[key]
        return job.features(arrays, about, cached=True)
    made = job.hold()
    about = {"engine": made.engine, "seconds": made.seconds, "notes": list(made.notes)}
    HELD[key] = (made.parts, about)
    return made


def _from_disk(job: Job, key: str, root: Path, automatic: bool) -> Features:
    found = read_entry(root, key)
    if found == "":
        found = _from_shards(job, key, root)
    if not isinstance(found, str):
        arrays, about = found
        job.say(f"Features of {job.name}: {len(arrays[0])} examples, read from {root}.")
        return job.features(arrays, dict(about), cached=True, folder=root / key)
    if found:
        job.note(f"The features in {root / key} were not used but computed again: {found}.")
    try:
        writer = EntryWriter(root, key, WHAT, REMEDY)
    except OSError as error:
        why = f"{root} cannot be written ({error.strerror or error})"
        if not automatic:
            raise DataError(f"The features cannot be cached: {why}. Choose another folder with cache=.") from error
        job.note(f"The features are not cached on disk: {why}.")
        return job.hold()
    try:
        return _write(job, writer, key, root)
    except CacheFullError as error:
        if not automatic:
            raise
        job.note(f"The features are not cached on disk. {error}")
        return job.hold()


def _from_shards(job: Job, key: str, root: Path) -> tuple[tuple[Rows, ...], Mapping[str, Any]] | str:
    """Return the features if they were computed in shards; else an empty string, and a note why not all are there."""
    try:
        why = join_shards(root, key, job.source.count or 0)
    except (OSError, CacheFullError) as error:
        why = f"They could not be joined: {error}"
    if why:
        job.note(f"Shards of the features were found but not used: {why}")
        return ""
    return read_entry(root, key)


def _write(job: Job, writer: EntryWriter, key: str, root: Path) -> Features:
    with writer:
        about = job.compute(writer, f"in {root}")
        writer.commit(about)
    made = read_entry(root, key)
    if isinstance(made, str):
        raise DataError(f"The features were written to {root / key}, but {made or 'they are gone'}. Start again.")
    return job.features(made[0], about, folder=root / key)
