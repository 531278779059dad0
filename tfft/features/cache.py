"""Management of cached features: :func:`list_caches` and :func:`clear_caches`; see :mod:`tfft.arrays`.

Implementation notes: one folder holds features, another one waveforms. This module does not import TensorFlow.
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
from tfft.arrays.store import WAVES, entries, is_written, read_manifest, shard_folders, size_of, unfinished
from tfft.io.cache_dir import cache_dir

HELD: dict[str, tuple[tuple[Rows, ...], dict[str, Any]]] = {}  # entries of cache="memory" by key

CONVERTED = "converted"  # folder of networks in LiteRT's format, in the cache folder
WHAT = "features"
REMEDY = (
    "Free some (tfft.features.clear_caches() removes older features), choose another folder with cache=, halve them "
    "with dtype='float16', or pass cache=None."
)


@dataclasses.dataclass(frozen=True)
class CacheEntry:
    """One entry of the feature cache on disk.

    Attributes:
        key: Hash of everything that the features depend on.
        folder: Folder of the entry.
        bytes: Size on disk.
        examples: Number of examples.
        shapes: Shapes of the arrays, the examples first; or, for variable lengths, the items of all examples.
        dtypes: Types of the arrays.
        model: Name of the model.
        engine: Engine that computed them.
        version: Version of tfft that wrote it.
        written: Seconds since 1970.
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
    """Return the default folder for features: ``features`` in :func:`tfft.io.cache_dir.cache_dir`."""
    return cache_dir() / "features"


def cache_folder(cache: Any) -> Path:
    """Return the folder that ``cache=`` names: ``"auto"`` or True for the default one."""
    return default_folder() if cache in ("auto", True) else Path(os.fspath(cache)).expanduser()


def list_caches(folder: str | os.PathLike[str] | None = None) -> list[CacheEntry]:
    """List the features on disk, newest first, without checking their content.

    Args:
        folder: Folder given as ``cache=``. Defaults to tfft's own, which also holds waveforms of recordings.

    Returns:
        One :class:`CacheEntry` per entry; entries with a damaged manifest are left out.

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
    """Remove all features on disk, including damaged and abandoned entries; other files in the folder stay.

    Without a folder, cached waveforms and converted networks are removed too, as are the features of
    ``cache="memory"`` in this process. Other processes can continue to read or write.

    Args:
        folder: Folder given as ``cache=``. Defaults to tfft's own.

    Returns:
        Number of bytes freed.

    Example:
        >>> tfft.features.clear_caches()
        51200000
    """
    freed = 0
    if folder is None:
        HELD.clear()
        networks = cache_dir() / CONVERTED
        freed += size_of(networks)
        shutil.rmtree(networks, ignore_errors=True)
    for root in _roots(folder):
        for path in [*entries(root), *(p for p in unfinished(root) if not is_written(p))]:
            freed += size_of(path)
            shutil.rmtree(path, ignore_errors=True)
        if root in shard_folders(root.parent) and not any(root.iterdir()):
            root.rmdir()
    return freed


def _roots(folder: str | os.PathLike[str] | None) -> list[Path]:
    """Return the folders with entries, also those of features that are computed in shards."""
    roots = [default_folder(), cache_dir() / WAVES] if folder is None else [Path(folder).expanduser()]
    return [*roots, *(shards for root in roots for shards in shard_folders(root))]


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
