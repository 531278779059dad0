"""Waveforms of many recordings, read by position: :class:`WaveformArray` and its source, :class:`WaveSource`.

Implementation notes: waveforms are in memory while they are few, otherwise in a memory-mapped file that other runs can
use.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfft.arrays.npy_files import by_position
from tfft.arrays.ragged import Ragged
from tfft.arrays.spill import Holder
from tfft.arrays.store import WAVES, CacheFullError, EntryWriter, no_room, read_entry
from tfft.errors import installed_version
from tfft.io.cache_dir import SPARE, free_space
from tfft.modalities.audio.decode import RecordingFacts, read_waves
from tfft.specs import AudioSpec

LIMIT = 512 * 2**20  # bytes of waveforms to keep in memory

_FORMAT = 1  # version of the stored files; a new number invalidates all of them
_WHAT = "waveforms of the recordings"
_REMEDY = (
    "Free some (tfft.features.clear_caches() removes older ones), choose another disk with the environment variables "
    "TFFT_CACHE_DIR and TMPDIR, or reduce the data: seconds=, sample_rate=."
)

_log = logging.getLogger(__name__)


class WaveformArray:
    """Waveforms that are read from a file on access; ``waves[at]`` returns an array.

    Slices and arrays of positions return float32 [b, samples], a number returns [samples]. ``np.asarray(waves)`` reads
    all.

    Args:
        held: Memory-mapped float32 [M, samples].
        at: Positions of these waveforms in it, int [N].

    Example:
        >>> waves = tfft.data.load("birds/").train.waves
        >>> waves.shape, waves[:8].shape
        ((40000, 160000), (8, 160000))
    """

    ndim = 2
    dtype = np.dtype(np.float32)

    def __init__(self, held: np.ndarray, at: np.ndarray) -> None:
        self._held, self._at, self._read = held, at, by_position(held)
        self.shape = (len(at), held.shape[1])

    def __len__(self) -> int:
        return len(self._at)

    def __repr__(self) -> str:
        return f"WaveformArray{self.shape}"

    def __getitem__(self, at: Any) -> np.ndarray:
        places = self._at[at]
        [found] = self._read(np.atleast_1d(places))
        return found if np.ndim(places) else found[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def take(self, at: np.ndarray) -> WaveformArray:
        """Return the waveforms at some positions, without reading them."""
        return WaveformArray(self._held, self._at[at])

    @property
    def nbytes(self) -> int:
        """Size of all waveforms in bytes."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


class WaveSource:
    """Waveforms of recordings, read once, on first use.

    Args:
        facts: Statistics of the files.
        spec: Target sample rate and length.
        store: A file; waveforms too large for memory are stored in the folder ``waves`` next to it. None stores them in
            an unnamed temporary file.
    """

    def __init__(
        self, facts: Sequence[RecordingFacts], spec: AudioSpec, store: str | os.PathLike[str] | None = None
    ) -> None:
        self._facts, self._spec, self.store = tuple(facts), spec, store
        self._root = None if store is None else Path(store).expanduser().parent / WAVES
        self._progress: Callable[[int, int], None] | None = None

    def part(self, at: np.ndarray) -> np.ndarray | WaveformArray:
        """Return the waveforms of some recordings.

        Args:
            at: Their positions, int [N].

        Returns:
            An array, float32 [N, samples], if all waveforms fit into memory; else a :class:`WaveformArray`.

        Raises:
            DataError: If a file has changed, or the disk is full.
            DependencyError: If a package is missing; the message has the command that installs it.
        """
        if len(self._facts) * self._spec.samples * 4 > LIMIT:
            held, places = self._mapped
            return WaveformArray(held, places[at])
        start, end = (int(at[0]), int(at[-1]) + 1) if len(at) else (0, 0)
        in_a_row = np.array_equal(at, np.arange(start, end))  # then no copy is needed
        return self._in_memory[start:end] if in_a_row else self._in_memory[at]

    def read(self, progress: Callable[[int, int], None] | None) -> None:
        """Read the recordings now.

        Args:
            progress: Function called with (files read, files in total); not called if they are read already.
        """
        self._progress = progress
        try:
            self.part(np.arange(0))
        finally:
            self._progress = None

    @functools.cached_property
    def _in_memory(self) -> np.ndarray:
        held = np.empty((len(self._facts), self._spec.samples), np.float32)
        for row, wave in zip(held, read_waves(self._facts, self._spec, self._progress), strict=True):
            row[:] = wave
        return held

    @functools.cached_property
    def _mapped(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the waveforms of all files by path, independent of the split, so that other splits reuse them."""
        by_path = {one.path: one for one in self._facts}  # a table may name a file in several rows
        rows = {path: row for row, path in enumerate(sorted(by_path))}
        places = np.array([rows[one.path] for one in self._facts], np.int64)
        files = [by_path[path] for path in rows]
        held = None if self._root is None else self._kept(files, self._root)
        return self._unkept(files) if held is None else held, places

    def _kept(self, files: Sequence[RecordingFacts], root: Path) -> np.ndarray | None:
        """Return stored waveforms, writing them unless they are intact; None if the folder is not writable."""
        key = _key(files, self._spec)
        found = read_entry(root, key)
        if isinstance(found, str):
            if found:
                _log.warning("The waveforms in %s were computed again: %s.", root / key, found)
            try:
                writer = EntryWriter(root, key, _WHAT, _REMEDY)
            except OSError as error:
                _log.warning("Waveforms are not stored: cannot write to %s: %s.", root, error.strerror or error)
                return None
            with writer:
                writer.start(len(files), [((self._spec.samples,), np.dtype(np.float32))])
                for wave in read_waves(files, self._spec, self._progress):
                    writer.append([wave[None]])
                writer.commit({"model": _WHAT, "engine": "", "version": installed_version("tfft")})
            found = read_entry(root, key)
        return None if isinstance(found, str) else _whole(found[0][0])

    def _unkept(self, files: Sequence[RecordingFacts]) -> np.ndarray:
        place = Path(tempfile.gettempdir())
        wanted, free = len(files) * self._spec.samples * 4, free_space(place)
        if wanted + SPARE > free:
            raise CacheFullError(no_room(place, _WHAT, _REMEDY, wanted, free))
        holder = Holder()
        try:
            for wave in read_waves(files, self._spec, self._progress):
                holder.append([wave[None]])
            return _whole(holder.finish()[0])
        finally:
            holder.close()


def _whole(values: np.ndarray | Ragged) -> np.ndarray:
    assert isinstance(values, np.ndarray)  # noqa: S101  waveforms have one length
    return values


def _key(files: Sequence[RecordingFacts], spec: AudioSpec) -> str:
    """Return a hash of everything that waveforms depend on, except the file names."""
    resampled = any(one.rate != spec.sample_rate for one in files)
    parts = [_FORMAT, spec.sample_rate, spec.samples, installed_version("soxr") if resampled else None]
    found = hashlib.sha256(json.dumps(parts).encode())
    for one in files:
        found.update(f"{one.samples} {one.channels} {one.rate}\n".encode())
    return found.hexdigest()
