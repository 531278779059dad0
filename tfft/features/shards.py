"""Features computed in parts, perhaps on several machines: :func:`extract_shard`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import keras

from tfft.arrays.store import EntryWriter, read_entry, read_manifest, shards_of
from tfft.backbones.base import Backbone
from tfft.errors import PlanError, join_names
from tfft.features.cache import REMEDY, WHAT, cache_folder
from tfft.features.cache_key import NoKey
from tfft.features.engines import EngineName
from tfft.features.job import Job, as_model, check_arguments, open_jobs, views_of
from tfft.features.shard_store import missing_shards, shard_key, shard_rows
from tfft.features.sources import Views
from tfft.specs import Augmentation


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of several parts of the features of a dataset; ``print`` says what is still missing.

    Attributes:
        number: Number of the shard, from 1.
        count: Number of shards.
        rows: Examples of this shard, by position; empty if there are fewer batches than shards.
        seconds: Time for reading and computing; 0 if the shard, or all features, were in the cache.
        missing: Numbers of the shards that are not in the cache yet.
    """

    number: int
    count: int
    rows: range
    seconds: float = 0.0
    missing: tuple[int, ...] = ()

    def __str__(self) -> str:
        shown = f"examples {self.rows.start:,} to {self.rows.stop - 1:,}" if self.rows else "no examples"
        took = f"computed in {self.seconds:.1f} s" if self.seconds else "in the cache" if self.rows else "nothing to do"
        left = "all shards are there" if not self.missing else f"missing: {join_names(map(str, self.missing), limit=8)}"
        return f"shard {self.number} of {self.count}: {shown}, {took}; {left}"


def check_shard(shard: Any) -> tuple[int, int]:
    """Return the number of a shard, from 1, and the number of shards.

    Raises:
        PlanError: If it is not a pair of integers, or the first is larger than the second.
    """
    valid = isinstance(shard, tuple) and len(shard) == 2 and all(type(part) is int for part in shard)
    if not valid or not 1 <= shard[0] <= shard[1]:
        raise PlanError(
            "Expected shard=(NUMBER, COUNT), such as (1, 4) for the first of four shards, with a number from 1 to the "
            f"count. Received: {shard!r}."
        )
    return shard


def extract_shard(
    prefix: keras.Model | Backbone,
    dataset: Any,
    shard: tuple[int, int],
    *,
    cache: str | os.PathLike[str] = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    engine: EngineName = "auto",
    batch_size: int = 32,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int = 4,
    seed: int = 0,
    verbose: bool | int = True,
) -> Shard:
    """Compute one of several parts of the features of a dataset, for example on one of several machines.

    Use it where one machine would take too long: call it once for each shard, in any order, at the same time or one
    after the other, with a cache folder that all of them see. :func:`extract` with the same arguments then joins the
    shards and returns all features, the same numbers as without shards, bit for bit. Those of texts and of a
    ``tf.data.Dataset``, whose batches are other ones, may differ in the last digits. A shard that is in the cache is
    not computed again, so just restart a process that died.

    Every process hashes all examples, to find the key of the features, and then reads and computes only those of its
    shard. A ``tf.data.Dataset`` cannot be read by position, so each shard reads all of it.

    Args:
        prefix: As in :func:`extract`, like all that are not described here.
        dataset: As in :func:`extract`.
        shard: Number of the shard, from 1, and number of shards, such as (1, 4).
        cache: ``"auto"`` for the user's cache folder, or a folder.
        dtype: As in :func:`extract`.
        engine: As in :func:`extract`. Machines of different kinds need the same one.
        batch_size: As in :func:`extract`; the same for all shards, which hold whole batches.
        augment: As in :func:`extract`.
        views: As in :func:`extract`.
        seed: As in :func:`extract`.
        verbose: As in :func:`extract`.

    Returns:
        What was computed, and which shards are missing.

    Raises:
        PlanError: If arguments are out of range, or the features would not be kept on disk.
        TfftError: As in :func:`extract`.

    Example:
        >>> print(tfft.features.extract_shard(prefix, examples, (2, 4), cache="/shared/features"))
        shard 2 of 4: examples 2,496 to 4,991, computed in 31.2 s; missing: 3, 4
    """
    [found] = extract_shards(
        prefix, [dataset], shard, cache=cache, dtype=dtype, engine=engine, batch_size=batch_size, verbose=verbose,
        views=views_of(augment, views, seed),
    )  # fmt: skip
    return found


def extract_shards(
    prefix: keras.Model | Backbone,
    datasets: Sequence[Any],
    shard: tuple[int, int],
    *,
    cache: Any = "auto",
    dtype: Literal["float32", "float16"] = "float32",
    engine: EngineName = "auto",
    batch_size: int = 32,
    verbose: bool | int = True,
    views: Views | None = None,
) -> list[Shard]:
    """Implement :func:`extract_shard` for several datasets; the model is converted once.

    Args:
        prefix: As in :func:`extract_shard`, like all that are not described here.
        datasets: Datasets, such as the training and the validation examples.
        shard: As in :func:`extract_shard`.
        cache: As in :func:`extract_shard`.
        dtype: As in :func:`extract_shard`.
        engine: As in :func:`extract_shard`.
        batch_size: As in :func:`extract_shard`.
        verbose: As in :func:`extract_shard`.
        views: Views of the images in the first dataset.

    Returns:
        The shard of each dataset.

    Raises:
        TfftError: As in :func:`extract_shard`.
    """
    number, count = check_shard(shard)
    check_arguments(cache, dtype, engine, batch_size)
    if cache in (None, False, "memory"):
        raise PlanError(f"Expected cache= to be a folder, where shards are stored. Received: {cache!r}.")
    with open_jobs(as_model(prefix), datasets, cache, dtype, engine, batch_size, verbose, views) as jobs:
        return [_extract_shard(job, cache_folder(cache), number, count) for job in jobs]


def _extract_shard(job: Job, root: Path, number: int, count: int) -> Shard:
    try:
        key = job.key()
    except NoKey as why:
        raise PlanError(f"The features cannot be cached, so they cannot be computed in shards: {why}.") from why
    examples, batch_size = job.source.count or 0, job.source.batch_size
    rows = shard_rows(examples, batch_size, number, count)
    if read_manifest(root / key) is not None:
        return Shard(number, count, rows)
    folder, own, seconds = shards_of(root, key), shard_key(key, number, count), 0.0
    if rows and isinstance(read_entry(folder, own), str):
        with EntryWriter(folder, own, WHAT, REMEDY) as writer:
            about = job.compute(writer, f"in {folder}", rows)
            writer.commit(about | {"shard": [number, count], "rows": [rows.start, rows.stop]})
        seconds = about["seconds"]
    return Shard(number, count, rows, seconds, missing_shards(root, key, examples, batch_size, count))
