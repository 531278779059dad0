"""What is kept in tfft's folders of arrays: :func:`list_caches` and :func:`clear_caches`; see :mod:`tfft.arrays`.

Hides which folders there are: one for features, one for waves of recordings. Knows nothing of TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfft.arrays.npy_files import LENGTHS
from tfft.arrays.ragged import Rows
from tfft.arrays.store import WAVES, entries, is_written, read_manifest, size_of, unfinished
from tfft.io.cache_dir import cache_dir

HELD: dict[str, tuple[tuple[Rows, ...], dict[str, Any]]] = {}  # what cache="memory" keeps, by key

WHAT = "features"
REMEDY = (
    "Free some (tfft.features.clear_caches() removes older features), choose another folder with cache=, halve them "
    "with dtype='float16', or pass cache=None."
)


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One set of features on disk.

    Attributes:
        key: hash of everything that the features depend on.
        folder: where it is.
        bytes: size on disk.
        examples: number of examples.
        shapes: of the arrays, the examples first; or, where they differ in length, the items of all examples.
        dtypes: of the arrays.
        model: name of the model that gave them.
        engine: what computed them.
        version: of tfft that wrote it.
        written: seconds since 1970.
    """

    key: str
    folder: Path
    bytes: int
    examples: int
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    model: str
    engine: str
    version: str
    written: float


def default_folder() -> Path:
    """Return where features are kept unless told otherwise: ``features`` in :func:`tfft.io.cache_dir.cache_dir`."""
    return cache_dir() / "features"


def list_caches(folder: str | os.PathLike[str] | None = None) -> list[CacheEntry]:
    """List the features on disk, newest first, without checking their content.

    Args:
        folder: that was given as ``cache=``; by default tfft's own, in which waves of recordings are kept as well.

    Returns:
        One :class:`CacheEntry` for each; entries with a damaged manifest are left out.

    Example:
        >>> sum(entry.bytes for entry in tfft.features.list_caches())
        51200000
    """
    found = []
    for path in (path for root in _roots(folder) for path in entries(root)):
        manifest = read_manifest(path)
        if manifest is not None:
            found.append(_entry(path, manifest))
    return sorted(found, key=lambda entry: -entry.written)


def clear_caches(folder: str | os.PathLike[str] | None = None) -> int:
    """Remove all features on disk, damaged and abandoned ones too; nothing else in the folder is touched.

    Without a folder, kept waves of recordings are removed as well, and those features that ``cache="memory"`` keeps in
    this process are forgotten. Processes that are reading or writing some go on unharmed.

    Args:
        folder: that was given as ``cache=``; tfft's own by default.

    Returns:
        How many bytes were freed.

    Example:
        >>> tfft.features.clear_caches()
        51200000
    """
    if folder is None:
        HELD.clear()
    freed = 0
    for root in _roots(folder):
        for path in [*entries(root), *(p for p in unfinished(root) if not is_written(p))]:
            freed += size_of(path)
            shutil.rmtree(path, ignore_errors=True)
    return freed


def _roots(folder: str | os.PathLike[str] | None) -> list[Path]:
    return [default_folder(), cache_dir() / WAVES] if folder is None else [Path(folder).expanduser()]


def _entry(folder: Path, manifest: Mapping[str, Any]) -> CacheEntry:
    named, about = manifest["arrays"], manifest["about"]
    arrays = [a for name, a in named.items() if name != LENGTHS]
    shapes = tuple(tuple(a["shape"]) for a in arrays)
    return CacheEntry(
        key=str(manifest["key"]),
        folder=folder,
        bytes=size_of(folder),
        examples=named.get(LENGTHS, arrays[0])["shape"][0],
        shapes=shapes,
        dtypes=tuple(a["dtype"] for a in arrays),
        model=str(about.get("model", "")),
        engine=str(about.get("engine", "")),
        version=str(about.get("version", "")),
        written=float(manifest["written"]),
    )
