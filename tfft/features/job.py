"""One extraction of features: :class:`Job` reads, computes and writes at the same time."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfft.arrays.npy_files import Item, item_bytes
from tfft.arrays.ragged import Ragged, Rows
from tfft.arrays.spill import Holder
from tfft.arrays.store import EntryWriter, megabytes
from tfft.backbones.base import Backbone
from tfft.console import profile
from tfft.console.progress import progress_bar
from tfft.errors import DataError, PlanError, installed_version, raise_problems
from tfft.features.batching import compute
from tfft.features.cache_key import cache_key
from tfft.features.engines import ENGINES, EngineName, Opener, Staged, choose, stage
from tfft.features.feature_set import Features
from tfft.features.sources import Source, Views, open_source
from tfft.layers.preprocess import Preprocess
from tfft.settings import is_count
from tfft.specs import Augmentation, augmentation

DTYPES = ("float32", "float16")
_FORETOLD, _LONG = 5.0, 60.0  # seconds after which the rate is known, and from which on the rest is worth a line

_log = logging.getLogger(__name__)


@dataclasses.dataclass(eq=False)
class Job:
    """One extraction of features.

    Attributes:
        model: Model whose features are computed.
        staged: The same, divided into what enters the network and the network.
        source: Examples.
        opener: Opener of the engine.
        dtype: Type of the stored features.
        batch_size: Examples per batch.
        verbose: As in :func:`tfft.features.extract`.
        notes: Decisions and their reasons so far.
    """

    model: keras.Model
    staged: Staged
    source: Source
    opener: Opener
    dtype: str
    batch_size: int
    verbose: int
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the model, for messages."""
        return str(self.model.name)

    def key(self) -> str:
        """Return the key of the features in a cache.

        Raises:
            NoKey: If a layer does not expose its settings.
        """
        engine, _ = choose(self.opener.engine, self.opener.texts)
        return cache_key(self.model, self.source.identity(), dtype=self.dtype, engine=engine)

    def note(self, text: str) -> None:
        """Keep a decision with its reason, and log it."""
        self.notes.append(text)
        _log.warning(text)

    def say(self, text: str) -> None:
        """Print a detail."""
        _log.info(text)
        if self.verbose > 1:
            print(text, flush=True)

    def hold(self) -> Features:
        """Compute features without a cache."""
        holder = Holder()
        try:
            about = self.compute(holder, "in memory")
            return self.features(holder.finish(), about)
        finally:
            holder.close()

    @profile.stage("read, decode and run the frozen part")
    def compute(self, target: Any, where: str, rows: range | None = None) -> dict[str, Any]:
        """Run the network over all examples, or some, into a target, and return the metadata of the features."""
        start = time.perf_counter()
        done, items, foretold = 0, None, False
        first: tuple[int, float] | None = None
        total = self.source.count if rows is None else len(rows)
        batches = self.source.batches(self.staged, rows)
        with progress_bar("features", total, shown=self.verbose > 0) as progress:
            for arrays in compute(self.staged, self.opener, batches, self.batch_size):
                arrays = [_narrowed(a, self.dtype) for a in arrays]
                if items is None:
                    items = self._begin(target, arrays, where, total)
                _check_items(items, arrays, done)
                target.append(arrays)
                done += len(arrays[0])
                progress(done)
                now = time.perf_counter()
                if first is None:  # without the conversion of the network, which the first batch waits for
                    first = done, now
                elif not foretold and now - first[1] > _FORETOLD:
                    foretold = True
                    self._foretell((done - first[0]) / (now - first[1]), (total or 0) - done)
        seconds = time.perf_counter() - start
        opened, note = self.opener.opened
        self.say(f"Features of {done} examples: {seconds:.1f} s, {done / seconds:,.0f} per second, {opened.name}.")
        notes = [note] if note else []
        return {
            "model": self.name, "engine": opened.name, "version": installed_version("tfft"), "seconds": seconds,
            "notes": notes,
        }  # fmt: skip

    def _foretell(self, rate: float, left: int) -> None:
        """Print how long the remaining features take at a rate of examples per second, if that is minutes."""
        if left / rate > _LONG and self.verbose:
            print(f"features of {self.name}: about {left / rate / 60:.0f} more minutes", flush=True)

    def features(
        self, arrays: Sequence[Rows], about: dict[str, Any], *, cached: bool = False, folder: Path | None = None
    ) -> Features:
        """Return arrays as the result.

        Args:
            arrays: Features.
            about: What :meth:`compute` returned.
            cached: Whether they were in the cache.
            folder: Their folder on disk.
        """
        return Features(
            arrays=arrays[0] if len(arrays) == 1 else tuple(arrays),
            labels=self.source.labels,
            engine=about["engine"],
            seconds=0.0 if cached else about["seconds"],
            notes=(*self.notes, *about["notes"]),
            cached=cached,
            folder=folder,
            views=self.source.views,
            weights=self.source.weights,
        )

    def _begin(self, target: Any, arrays: Sequence[Rows], where: str, count: int | None) -> list[Item]:
        items: list[Item] = [(a.shape[1:], a.dtype) for a in arrays]
        lengths = next((a.lengths for a in arrays if isinstance(a, Ragged)), np.ones(1))
        length = float(lengths.mean())
        each = item_bytes(items, length)
        about = "about " if None in (n for shape, _ in items for n in shape) else ""
        size = f"{about}{megabytes(round(1000 * each))} per 1,000 examples"
        if count is not None:
            size = f"{about}{megabytes(round(count * each))} for {count:,} examples"
        words = " and ".join(f"{_words(shape)} {dtype.name}" for shape, dtype in items)
        self.say(f"Features of {self.name}: {words} each, {size}, stored {where}.")
        if isinstance(target, EntryWriter):
            target.start(count or 0, items, length)
        return items


@contextlib.contextmanager
def open_jobs(
    model: keras.Model,
    datasets: Sequence[Any],
    cache: Any,
    dtype: str,
    engine: EngineName,
    batch_size: int,
    verbose: int,
    views: Views | None,
) -> Iterator[list[Job]]:
    """Open a job for each dataset; the model is converted once. A context manager.

    Args:
        model: Model whose features are computed.
        datasets: Datasets, as in :func:`tfft.features.extract`.
        cache: As in :func:`tfft.features.extract`; the user's cache folder also keeps the converted network.
        dtype: As in :func:`tfft.features.extract`.
        engine: As in :func:`tfft.features.extract`.
        batch_size: As in :func:`tfft.features.extract`.
        verbose: As in :func:`tfft.features.extract`.
        views: Views of the images in the first dataset.

    Yields:
        The jobs, in order.
    """
    staged = stage(model)
    sources = [open_source(d, staged, batch_size, None if i else views) for i, d in enumerate(datasets)]

    def examples() -> int | None:  # a dataset may know its number only after it was read once
        counts = [source.count for source in sources]
        return None if None in counts else sum(filter(None, counts))

    keep = cache in ("auto", True)
    with Opener(staged.net, engine, staged.mask is not None, keep=keep, examples=examples) as opener:
        yield [Job(model, staged, source, opener, dtype, batch_size, verbose) for source in sources]


def views_of(augment: Augmentation | str | Sequence[str] | None, views: int, seed: int) -> Views | None:
    """Return views for augmentation, as the arguments of :func:`tfft.features.extract` describe it; None for none."""
    changes = augmentation(augment)
    if changes is None:
        return None
    if not is_count(views):
        raise PlanError(f"views must be an integer of at least 1, received {views!r}")
    return Views(changes, int(views), seed)


def _words(shape: Sequence[int | None]) -> str:
    return " x ".join("length" if n is None else str(n) for n in shape) or "1"


def _narrowed(array: Rows, dtype: str) -> Rows:
    if isinstance(array, Ragged):
        return array.map(_narrowed_array(array.values, dtype))
    return _narrowed_array(array, dtype)


def _narrowed_array(array: np.ndarray, dtype: str) -> np.ndarray:
    if array.dtype != np.float32 or dtype == "float32":
        return array
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float16)
    if not np.array_equal(np.isfinite(narrow), np.isfinite(array)):
        raise DataError(
            f"Features reach up to {np.nanmax(np.abs(array)):.3g}, beyond what float16 can hold (65,504). "
            "Use dtype='float32'."
        )
    return narrow


def _check_items(items: Sequence[Item], arrays: Sequence[Rows], done: int) -> None:
    for (shape, _), array in zip(items, arrays, strict=True):
        if array.shape[1:] != shape:
            raise DataError(
                f"All examples must have features of one shape. The first ones have {shape}, example {done} has "
                f"{array.shape[1:]}. Resize images or pad texts to one size."
            )


def as_model(prefix: Any) -> keras.Model:
    """Return a model; for a backbone one that takes raw pixels, if it takes images."""
    if isinstance(prefix, keras.Model):
        return prefix
    if not isinstance(prefix, Backbone):
        raise DataError(f"Expected a keras.Model or a tfft backbone, received {type(prefix).__name__}.")
    spec = prefix.input_spec
    if spec is None:
        return prefix.model
    inputs = keras.Input((None, None, spec.channels), dtype="uint8", name="image")
    return keras.Model(inputs, prefix.model(Preprocess(spec, name="preprocess")(inputs)), name=prefix.model.name)


def check_arguments(cache: Any, dtype: str, engine: str, batch_size: Any) -> None:
    """Raise PlanError if arguments of :func:`tfft.features.extract` are out of range."""
    problems = []
    if not (cache is None or isinstance(cache, (bool, str, os.PathLike))):
        problems.append(f"cache must be 'auto', 'memory', a folder, or None, received {cache!r}")
    if dtype not in DTYPES:
        problems.append(f"dtype must be one of {', '.join(DTYPES)}, received {dtype!r}")
    if engine not in ENGINES:
        problems.append(f"engine must be one of {', '.join(ENGINES)}, received {engine!r}")
    if not is_count(batch_size):
        problems.append(f"batch_size must be an integer of at least 1, received {batch_size!r}")
    raise_problems(PlanError, "Features cannot be extracted", problems)
