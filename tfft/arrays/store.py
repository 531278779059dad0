"""Arrays on disk by key: written atomically, verified before use.

Implementation notes: file locks distinguish an active writer from a killed one. Entries are immutable: a process that
has mapped one keeps it when another process removes or replaces it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from tfft.arrays.npy_files import ArrayFile, ArrayFiles, Item, assemble_arrays, item_bytes, map_file
from tfft.arrays.ragged import Rows
from tfft.errors import DataError
from tfft.io.cache_dir import SPARE, move_away

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # checked before each use

WAVES = "waves"  # folder in tfft's cache for waveforms
MANIFEST, LOCK = "manifest.json", "writing"
_KEY = re.compile(r"[0-9a-f]{64}")
_SHARDS = ".shards"  # ending of the folder of an entry that is computed in parts
_ASIDE = re.compile(r"\.[0-9a-f]{64}\..+\.(tmp|old)")
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_YOUNG, _OLD = 60.0, 86400.0  # seconds by which a writer has its lock, and after which it is considered dead


class CacheFullError(DataError):
    """The disk has too little space for the arrays; nothing is left on disk."""


def read_entry(root: Path, key: str) -> tuple[tuple[Rows, ...], Mapping[str, Any]] | str:
    """Open an entry if it is intact.

    Args:
        root: Folder of the cache.
        key: Key of the entry.

    Returns:
        The arrays, memory-mapped read-only, and the metadata of the writer; or the reason why the entry is unusable, an
        empty string if there is none.
    """
    folder = root / key
    if not folder.is_dir():
        return ""
    manifest = read_manifest(folder)
    if manifest is None or manifest["key"] != key:
        return "its manifest is missing, damaged or another entry's"
    files = {}
    for name, about in manifest["arrays"].items():
        shape, dtype = tuple(about["shape"]), np.dtype(about["dtype"])
        try:
            with (folder / name).open("rb") as file:
                if os.fstat(file.fileno()).st_size != int(np.prod(shape)) * dtype.itemsize:
                    return f"{name} has a different size than when written"
                if hashlib.file_digest(file, "sha256").hexdigest() != about["sha256"]:
                    return f"{name} has different content than when written"
                files[name] = map_file(file, shape, dtype)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror}"
    return assemble_arrays(files, manifest["arrays"]), manifest["about"]


class EntryWriter:
    """Writer of one entry, which is put in place when complete. A context manager that removes an uncommitted entry.

    Args:
        root: Folder of the cache; created if needed.
        key: Key of the entry.
        what: Noun for the content, for messages.
        remedy: Advice for a full disk.

    Raises:
        OSError: If the folder is not writable.
    """

    def __init__(self, root: Path, key: str, what: str = "arrays", remedy: str = "Free some.") -> None:
        root.mkdir(parents=True, exist_ok=True)
        sweep(root)
        self._root, self._key, self._words = root, key, (what, remedy)
        self._aside = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".tmp", dir=root))
        self._open = [os.open(self._aside / LOCK, os.O_CREAT | os.O_RDWR)]
        if fcntl is not None:
            with contextlib.suppress(OSError):  # some network folders do not support locks
                fcntl.flock(self._open[0], fcntl.LOCK_EX)  # the system releases it when the process dies
        self._files = ArrayFiles([], self._make)

    def __enter__(self) -> EntryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for descriptor in self._open:
            os.close(descriptor)
        shutil.rmtree(self._aside, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise CacheFullError(no_room(self._root, *self._words)) from error

    def start(self, count: int, items: Sequence[Item], length: float = 1.0) -> None:
        """Open one file for each array.

        Args:
            count: Number of examples.
            items: Shape of one example, with None first if examples vary in length, and type, of each array.
            length: Expected length of those.

        Raises:
            CacheFullError: If the disk has too little space.
        """
        wanted = math.ceil(count * item_bytes(items, length))
        free = shutil.disk_usage(self._root).free
        if wanted + SPARE > free:
            raise CacheFullError(no_room(self._root, *self._words, wanted, free))
        self._files = ArrayFiles(items, self._make)

    def append(self, arrays: Sequence[Rows]) -> None:
        """Add examples to each array."""
        self._files.append(arrays)

    def commit(self, about: Mapping[str, Any]) -> None:
        """Put the entry in place, unless another process has done so already.

        Args:
            about: JSON values to store with it.
        """
        content = {"key": self._key, "written": time.time(), "arrays": self._files.about, "about": dict(about)}
        manifest = {"content": content, "sha256": content_hash(content)}
        for descriptor in self._open[1:]:
            os.fsync(descriptor)
        descriptor = os.open(self._aside / MANIFEST, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        self._open.append(descriptor)
        ArrayFile(descriptor, (), np.dtype(np.uint8)).append(np.frombuffer(json.dumps(manifest).encode(), np.uint8))
        os.fsync(descriptor)
        (self._aside / LOCK).unlink()
        self._aside.chmod(0o755)  # mkdtemp makes it private
        self._put_in_place()

    def _make(self, name: str) -> int:
        self._open.append(os.open(self._aside / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        return self._open[-1]

    def _put_in_place(self) -> None:
        target = self._root / self._key
        for _ in range(3):
            try:
                self._aside.rename(target)
                return
            except OSError:  # it exists already
                if not isinstance(read_entry(self._root, self._key), str):
                    return
                move_away(target, ".old")
        raise DataError(f"{target} cannot be replaced. Delete it and try again.")


def no_room(root: Path, what: str, remedy: str, wanted: int | None = None, free: int | None = None) -> str:
    """Return a message that the disk is full, with advice."""
    numbers = "" if wanted is None else f": they need {megabytes(wanted)}, and {megabytes(free or 0)} are free"
    return f"The disk of {root} has no room for the {what}{numbers}. {remedy}"


def megabytes(count: int) -> str:
    """Format a number of bytes."""
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def sweep(root: Path) -> None:
    """Remove the unfinished entries of killed writers."""
    for path in unfinished(root):
        try:
            if path.suffix == ".old" or (_age(path) > _YOUNG and not is_written(path)):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:  # another process was faster
            continue


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def is_written(path: Path) -> bool:
    """Whether a process is writing an unfinished entry."""
    try:
        if fcntl is None:
            return _age(path) < _OLD
        descriptor = os.open(path / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def entries(root: Path) -> list[Path]:
    """Return the folders of all entries, including damaged ones."""
    return [path for path in _folders(root) if _KEY.fullmatch(path.name)]


def shards_of(root: Path, key: str) -> Path:
    """Return the folder of the parts of an entry, which are entries themselves."""
    return root / f"{key}{_SHARDS}"


def shard_folders(root: Path) -> list[Path]:
    """Return the folders of entries that are computed in parts."""
    return [path for path in _folders(root) if path.suffix == _SHARDS and _KEY.fullmatch(path.stem)]


def unfinished(root: Path) -> list[Path]:
    """Return the folders of unfinished entries."""
    return [path for path in _folders(root) if _ASIDE.fullmatch(path.name)]


def _folders(root: Path) -> list[Path]:
    try:
        return sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def size_of(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def content_hash(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain values, whatever the order of their names."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the metadata of the writer of an entry, or None if it is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        content = manifest["content"]
        return dict(content) if manifest["sha256"] == content_hash(content) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
