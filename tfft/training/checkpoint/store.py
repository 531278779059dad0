"""Checkpoints on disk that survive a kill, a full disk and a flipped bit: :class:`CheckpointStore`.

Implementation notes: checkpoints are written atomically and verified. This module does not depend on models.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfft.arrays.store import megabytes
from tfft.errors import TfftError
from tfft.training.checkpoint.files import NotPlainError, UnusableError, read, sync, write

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]  # checked before each use

LOCK = ".lock"

_NAME = re.compile(r"(base|checkpoint)-(\d{6,12})")
_ASIDE = re.compile(r"\.(base|checkpoint)-\d{6,12}\.[^/]*\.(tmp|old)")
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_OLD = 86400.0  # seconds after which a writer counts as dead if the system has no locks

_claimed: dict[str, int] = {}  # descriptors of the locks that this process holds, by folder


class CheckpointError(TfftError, OSError):
    """A checkpoint could not be written or read; complete ones still exist."""


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        name: Name of its folder; later checkpoints have higher numbers.
        arrays: Arrays by name.
        state: Plain values.
        base: Base checkpoint that it depends on, or None.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]
    base: Checkpoint | None = None

    @property
    def is_base(self) -> bool:
        """Whether others can depend on this checkpoint."""
        return self.name.startswith("base")


class CheckpointStore:
    """Folder with the newest checkpoints, at least one of which is intact at any moment.

    Each checkpoint is a folder. It is written under a hidden name, synced to disk with the hash of every byte, and
    renamed; older ones are removed after that. One process at a time writes to a folder: its lock ends with the
    process.

    Some state is saved rarely (all weights, at the start of a phase), other state often (the changing weights). The
    former are *bases*: a checkpoint depends on the newest base and is loaded with it.

    Args:
        folder: Folder; created if needed.
        keep: Number of checkpoints, and of bases, to keep.

    Attributes:
        folder: Folder of the checkpoints.
        notes: Problems of the checkpoints that the last :meth:`load` skipped, one sentence each.

    Example:
        >>> store = CheckpointStore("run/checkpoints")
        >>> store.save({"kernel": kernel}, {"epoch": 3})
        >>> store.load().state["epoch"]
        3
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        self.folder = Path(folder).expanduser()
        self.keep = keep
        self.notes: list[str] = []
        self._bad: set[str] = set()
        self._base: str | None = None

    def claim(self) -> None:
        """Create and lock the folder for this process; remove leftovers of killed writers.

        Raises:
            CheckpointError: If another process is writing there, or the folder is not writable.
        """
        key = os.path.realpath(self.folder)
        if key in _claimed and _is_at(_claimed[key], self.folder / LOCK):
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _claimed[key], alone = _lock(self.folder)
        except OSError as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(
                f"Checkpoints cannot be written to {self.folder} ({error.strerror or error}). Choose a "
                "folder that "
                "this user can write to."
            ) from error
        for path in self._folders(_ASIDE):
            if alone or time.time() - path.lstat().st_mtime > _OLD:
                shutil.rmtree(path, ignore_errors=True)

    def save(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any], *, base: bool = False) -> Path:
        """Write a checkpoint and sync it to disk.

        Args:
            arrays: Arrays of any numeric NumPy type, and of bfloat16.
            state: Values for JSON; NaN and infinity are allowed.
            base: Whether the following checkpoints depend on it.

        Returns:
            Its folder.

        Raises:
            CheckpointError: If it could not be written, for example because the disk is full. Nothing incomplete is
                left, and the last good checkpoint is unchanged.
        """
        self.claim()
        name = f"{'base' if base else 'checkpoint'}-{1 + max(map(_number, self._names()), default=0):06d}"
        target, aside = self.folder / name, None
        try:
            aside = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".tmp", dir=self.folder))
            write(aside, name, None if base else self._base, arrays, state)
            aside.chmod(0o755)  # mkdtemp makes it private
            aside.rename(target)
            sync(self.folder)
        except NotPlainError as error:
            raise CheckpointError(str(error)) from error
        except OSError as error:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)  # now, because the message states the free space
            raise CheckpointError(self._refusal(error, arrays)) from error
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
        if base:
            self._base = name
        self._forget_old()
        return target

    def load(self) -> Checkpoint | None:
        """Load the newest intact checkpoint.

        Returns:
            The checkpoint with its base, or None if there is none; :attr:`notes` lists skipped ones.
        """
        self.notes = []
        for name in self._names():
            try:
                found = self._read_with_base(name)
            except UnusableError as why:
                self.notes.append(f"{self.folder / name} was skipped: {why}.")
                self._bad.add(name)
                continue
            self._base = name if found.is_base else None if found.base is None else found.base.name
            return found
        return None

    def clear(self) -> None:
        """Remove all checkpoints and release the lock; other files in the folder stay."""
        for path in [*map(self.folder.joinpath, self._names()), *self._folders(_ASIDE)]:
            _remove(path)
        self._base = None
        self._bad.clear()
        self.release()
        with contextlib.suppress(OSError):  # there are other files in it
            self.folder.rmdir()

    def release(self) -> None:
        """Release the lock on the folder."""
        descriptor = _claimed.pop(os.path.realpath(self.folder), None)
        if descriptor is not None:
            (self.folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)

    def _read_with_base(self, name: str) -> Checkpoint:
        content, arrays, state = read(self.folder / name)
        base = content["base"]
        if base is None:
            return Checkpoint(name, arrays, state)
        if not isinstance(base, str) or not re.fullmatch(r"base-\d{6,12}", base):
            raise UnusableError("its manifest is not one of tfft's")
        try:
            _, base_arrays, base_state = read(self.folder / base)
        except UnusableError as why:
            raise UnusableError(f"it needs {base}, which cannot be used: {why}") from why
        return Checkpoint(name, arrays, state, Checkpoint(base, base_arrays, base_state))

    def _forget_old(self) -> None:
        good = [name for name in self._names() if name not in self._bad]
        kept = {*good[: self.keep], *[n for n in good if n.startswith("base")][: self.keep], self._base}
        for name in self._names():
            if name not in kept:
                _remove(self.folder / name)

    def _names(self) -> list[str]:
        """Return the names of all checkpoints, newest first."""
        return sorted((path.name for path in self._folders(_NAME)), key=lambda name: -_number(name))

    def _folders(self, pattern: re.Pattern[str]) -> Iterator[Path]:
        try:
            paths = sorted(self.folder.iterdir())
        except OSError:
            return
        for path in paths:
            if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                yield path

    def _refusal(self, error: OSError, arrays: Mapping[str, np.ndarray]) -> str:
        if error.errno in _FULL:
            size = megabytes(sum(np.asarray(a).nbytes for a in arrays.values()))
            with contextlib.suppress(OSError):
                size += f", and {megabytes(shutil.disk_usage(self.folder).free)} are free"
            why = f"the disk is full (it takes {size}). Free some, or choose another folder"
        else:
            why = f"{error.strerror or error}. Choose a folder that this user can write to"
        good = next((name for name in self._names() if name not in self._bad), None)
        last = "There is no earlier one" if good is None else f"The last good one, {good}, is unchanged"
        return f"A checkpoint could not be written to {self.folder}: {why}. {last}."


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a checkpoint.")
    return int(match[2])


def _lock(folder: Path) -> tuple[int, bool]:
    """Return the descriptor of a folder's lock, and whether the system guarantees exclusive access."""
    while True:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o644)
        alone = fcntl is not None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system releases it when the process dies
        except OSError as error:
            alone = False  # some network folders know no locks
            if error.errno in _TAKEN:
                owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise CheckpointError(
                    f"Another process{f' (process ID {owner})' if owner else ''} is writing checkpoints to {folder}. "
                    "Wait for it, stop it, or choose another folder."
                ) from error
        if _is_at(descriptor, folder / LOCK):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, str(os.getpid()).encode())
            return descriptor, alone
        os.close(descriptor)  # its owner removed the file in the meantime


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False


def _remove(path: Path) -> None:
    """Remove a checkpoint; an interrupted removal does not leave a valid name."""
    aside = path
    if not path.name.startswith("."):
        aside = path.with_name(f".{path.name}.{os.getpid()}.old")
        try:
            path.rename(aside)
        except OSError:  # another process was faster, or the folder cannot be written
            return
    shutil.rmtree(aside, ignore_errors=True)
