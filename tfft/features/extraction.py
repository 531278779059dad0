"""Frozen features of a dataset, computed once: :func:`extract`, :class:`Features`.

Implementation notes: reading, computing and writing overlap.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from tfft.arrays.npy_files import Item, item_bytes
from tfft.arrays.ragged import Ragged, Rows
from tfft.arrays.spill import Holder
from tfft.arrays.store import CacheFullError, EntryWriter, megabytes, read_entry, read_manifest
from tfft.backbones.base import Backbone
from tfft.console import profile
from tfft.console.progress import progress_bar
from tfft.errors import DataError, PlanError, installed_version, raise_problems
from tfft.features.batching import compute
from tfft.features.cache import HELD, REMEDY, WHAT, default_folder
from tfft.features.cache_key import NoKey, cache_key
from tfft.features.engines import ENGINES, EngineName, Opener, Staged, choose, stage
from tfft.features.feature_set import Features
from tfft.features.sources import Source, Views, open_source
from tfft.layers.preprocess import Preprocess
from tfft.specs import Augmentation, augmentation

DTYPES = ("float32", "float16")
_FORETOLD, _LONG = 5.0, 60.0  # seconds after which the rate is known, and from which on the rest is worth a line

_log = logging.getLogger(__name__)


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
        engine: ``"auto"`` uses LiteRT on a CPU, and TensorFlow on a GPU or if LiteRT cannot run the model; ``"litert"``
            and ``"tensorflow"`` require one.
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
        views=_views(augment, views, seed),
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
    _check_arguments(cache, dtype, engine, batch_size)
    model = _as_model(prefix)
    staged = stage(model)
    sources = [open_source(d, staged, batch_size, None if i else views) for i, d in enumerate(datasets)]
    with Opener(staged.net, engine, staged.mask is not None, keep=cache in ("auto", True)) as opener:
        work = [_Work(staged, s, opener, model.name, dtype, batch_size, verbose) for s in sources]
        return [_extract(model, each, cache) for each in work]


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
    root = default_folder() if cache in ("auto", True) else Path(os.fspath(cache)).expanduser()  # type: ignore[arg-type]
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


def _views(augment: Augmentation | str | Sequence[str] | None, views: int, seed: int) -> Views | None:
    changes = augmentation(augment)
    if changes is None:
        return None
    if isinstance(views, bool) or not isinstance(views, (int, np.integer)) or views < 1:
        raise PlanError(f"views must be a whole number of at least 1, received {views!r}")
    return Views(changes, int(views), seed)


def _extract(model: keras.Model, work: _Work, cache: Any) -> Features:
    if cache is None or cache is False:
        return work.hold()
    try:
        chosen, _ = choose(work.opener.engine, work.opener.texts)
        key = cache_key(model, work.source.identity(), dtype=work.dtype, engine=chosen)
    except NoKey as why:
        work.note(f"The features cannot be kept in a cache: {why}.")
        return work.hold()
    if cache == "memory":
        return _from_memory(work, key)
    automatic = cache in ("auto", True)
    return _from_disk(work, key, default_folder() if automatic else Path(os.fspath(cache)).expanduser(), automatic)


@dataclasses.dataclass(eq=False)
class _Work:
    """One extraction: inputs, settings and notes."""

    staged: Staged
    source: Source
    opener: Opener
    name: str
    dtype: str
    batch_size: int
    verbose: int
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        _log.warning(text)

    def say(self, text: str) -> None:
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
    def compute(self, target: Any, where: str) -> dict[str, Any]:
        """Run the network over all examples into a target, and return the metadata of the features."""
        start = time.perf_counter()
        done, items, foretold = 0, None, False
        first: tuple[int, float] | None = None
        with progress_bar("features", self.source.count, shown=self.verbose > 0) as progress:
            for arrays in compute(self.staged, self.opener, self.source.batches(self.staged), self.batch_size):
                arrays = [_narrowed(a, self.dtype) for a in arrays]
                if items is None:
                    items = self._begin(target, arrays, where)
                _check_items(items, arrays, done)
                target.append(arrays)
                done += len(arrays[0])
                progress(done)
                now = time.perf_counter()
                if first is None:  # without the conversion of the network, which the first batch waits for
                    first = done, now
                elif not foretold and now - first[1] > _FORETOLD:
                    foretold = True
                    self._foretell((done - first[0]) / (now - first[1]), done)
        seconds = time.perf_counter() - start
        opened, note = self.opener.opened
        self.say(f"Features of {done} examples: {seconds:.1f} s, {done / seconds:,.0f} a second, {opened.name}.")
        notes = [note] if note else []
        return {
            "model": self.name, "engine": opened.name, "version": installed_version("tfft"), "seconds": seconds,
            "notes": notes,
        }  # fmt: skip

    def _foretell(self, rate: float, done: int) -> None:
        """Print how long the features will take at a rate of examples per second, if that is minutes."""
        left = ((self.source.count or 0) - done) / rate
        if left > _LONG and self.verbose:
            print(f"features of {self.name}: about {left / 60:.0f} more minutes", flush=True)

    def features(
        self, arrays: Sequence[Rows], about: dict[str, Any], *, cached: bool = False, folder: Path | None = None
    ) -> Features:
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

    def _begin(self, target: Any, arrays: Sequence[Rows], where: str) -> list[Item]:
        items: list[Item] = [(a.shape[1:], a.dtype) for a in arrays]
        lengths = next((a.lengths for a in arrays if isinstance(a, Ragged)), np.ones(1))
        length = float(lengths.mean())
        each = item_bytes(items, length)
        count, about = self.source.count, "about " if None in (n for shape, _ in items for n in shape) else ""
        size = f"{about}{megabytes(round(1000 * each))} per 1,000 examples"
        if count is not None:
            size = f"{about}{megabytes(round(count * each))} for {count:,} examples"
        words = " and ".join(f"{_words(shape)} {dtype.name}" for shape, dtype in items)
        self.say(f"Features of {self.name}: {words} each, {size}, kept {where}.")
        if isinstance(target, EntryWriter):
            target.start(count or 0, items, length)
        return items


def _from_memory(work: _Work, key: str) -> Features:
    if key in HELD:
        arrays, about = HELD[key]
        return work.features(arrays, about, cached=True)
    made = work.hold()
    about = {"engine": made.engine, "seconds": made.seconds, "notes": list(made.notes)}
    HELD[key] = (made.parts, about)
    return made


def _from_disk(work: _Work, key: str, root: Path, automatic: bool) -> Features:
    found = read_entry(root, key)
    if not isinstance(found, str):
        arrays, about = found
        work.say(f"Features of {work.name}: {len(arrays[0])} examples, read from {root}.")
        return work.features(arrays, dict(about), cached=True, folder=root / key)
    if found:
        work.note(f"The features in {root / key} were not used but made again: {found}.")
    try:
        writer = EntryWriter(root, key, WHAT, REMEDY)
    except OSError as error:
        why = f"{root} cannot be written ({error.strerror or error})"
        if not automatic:
            raise DataError(f"The features cannot be kept: {why}. Choose another folder with cache=.") from error
        work.note(f"The features are not kept on disk: {why}.")
        return work.hold()
    try:
        return _write(work, writer, key, root)
    except CacheFullError as error:
        if not automatic:
            raise
        work.note(f"The features are not kept on disk. {error}")
        return work.hold()


def _write(work: _Work, writer: EntryWriter, key: str, root: Path) -> Features:
    with writer:
        about = work.compute(writer, f"in {root}")
        writer.commit(about)
    made = read_entry(root, key)
    if isinstance(made, str):
        raise DataError(f"The features were written to {root / key}, but {made or 'they are gone'}. Start again.")
    return work.features(made[0], about, folder=root / key)


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
                f"{array.shape[1:]}. Bring the examples to one size: resize images, pad texts."
            )


def _as_model(prefix: Any) -> keras.Model:
    if isinstance(prefix, keras.Model):
        return prefix
    if not isinstance(prefix, Backbone):
        raise DataError(f"Expected a keras.Model or a tfft backbone, received {type(prefix).__name__}.")
    spec = prefix.input_spec
    if spec is None:
        return prefix.model
    inputs = keras.Input((None, None, spec.channels), dtype="uint8", name="image")
    return keras.Model(inputs, prefix.model(Preprocess(spec, name="preprocess")(inputs)), name=prefix.model.name)


def _check_arguments(cache: Any, dtype: str, engine: str, batch_size: Any) -> None:
    problems = []
    if not (cache is None or isinstance(cache, (bool, str, os.PathLike))):
        problems.append(f"cache must be 'auto', 'memory', a folder, or None, received {cache!r}")
    if dtype not in DTYPES:
        problems.append(f"dtype must be one of {', '.join(DTYPES)}, received {dtype!r}")
    if engine not in ENGINES:
        problems.append(f"engine must be one of {', '.join(ENGINES)}, received {engine!r}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        problems.append(f"batch_size must be a whole number of at least 1, received {batch_size!r}")
    raise_problems(PlanError, "Features cannot be extracted", problems)
