"""CheckpointConfig in a folder that outlive a kill, a full disk and a flipped bit: :class:`CheckpointStore`.

Hides the layout on disk, how a checkpoint gets there whole or not at all, which ones are kept, and every way in which
one can be unusable. Knows nothing of models.
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
    fcntl = None  # type: ignore[assignment]  # asked for before each use

LOCK = ".lock"

_NAME = re.compile(r"(base|checkpoint)-(\d{6,12})")
_ASIDE = re.compile(r"\.(base|checkpoint)-\d{6,12}\.[^/]*\.(tmp|old)")
_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))
_TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_OLD = 86400.0  # seconds after which a writer is given up where the system knows no locks

_claimed: dict[str, int] = {}  # descriptors of the locks that this process holds, by folder


class CheckpointError(TfftError, OSError):
    """A checkpoint could not be written or read; those that were whole are still there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """What was saved.

    Attributes:
        name: of its folder; those written later have higher numbers.
        arrays: by name.
        state: plain values.
        base: the checkpoint that it goes on from, or None.
    """

    name: str
    arrays: Mapping[str, np.ndarray]
    state: Mapping[str, Any]
    base: Checkpoint | None = None

    @property
    def is_base(self) -> bool:
        """True for one that others go on from."""
        return self.name.startswith("base")


class CheckpointStore:
    """Keeps the newest checkpoints in a folder, so that there is a good one at any moment.

    Each is a folder of its own. It is written under a hidden name, synced to the disk with the hash of every byte,
    and renamed; older ones are removed after that. One process at a time writes to a folder: the system lets go of
    its claim when it dies.

    Some things are saved rarely (all weights, at the start of a phase) and others often (those that move). The
    former are *bases*: a checkpoint belongs to the newest base, is loaded with it, and is of no use without it.

    Args:
        folder: made when needed.
        keep: how many checkpoints and how many bases are kept.

    Attributes:
        folder: where they are.
        notes: what was wrong with the checkpoints that the last :meth:`load` passed over, one sentence each.

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
        """Make the folder and take it for this process; remove what killed writers left in it.

        Raises:
            CheckpointError: another process is writing there, or the folder cannot be written.
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
                f"CheckpointConfig cannot be written to {self.folder} ({error.strerror or error}). Choose a "
                "folder that "
                "this user can write to."
            ) from error
        for path in self._folders(_ASIDE):
            if alone or time.time() - path.lstat().st_mtime > _OLD:
                shutil.rmtree(path, ignore_errors=True)

    def save(self, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any], *, base: bool = False) -> Path:
        """Write a checkpoint; when this returns it is on the disk.

        Args:
            arrays: numbers of any NumPy type, and of bfloat16.
            state: values that JSON can hold; NaN and infinity are fine.
            base: True makes it one that the following ones belong to.

        Returns:
            Its folder.

        Raises:
            CheckpointError: it could not be written, for example because the disk is full. Nothing half-written
                is left, and the last good checkpoint is as it was.
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
                shutil.rmtree(aside, ignore_errors=True)  # now: the message tells what is free
            raise CheckpointError(self._refusal(error, arrays)) from error
        finally:
            if aside is not None:
                shutil.rmtree(aside, ignore_errors=True)
        if base:
            self._base = name
        self._forget_old()
        return target

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole, down to the last bit.

        Returns:
            The checkpoint with its base, or None where there is none; :attr:`notes` tells what was passed over.
        """
        self.notes = []
        for name in self._names():
            try:
                found = self._read_with_base(name)
            except UnusableError as why:
                self.notes.append(f"{self.folder / name} was passed over: {why}.")
                self._bad.add(name)
                continue
            self._base = name if found.is_base else None if found.base is None else found.base.name
            return found
        return None

    def clear(self) -> None:
        """Remove all checkpoints and lets other processes write; other files in the folder stay."""
        for path in [*map(self.folder.joinpath, self._names()), *self._folders(_ASIDE)]:
            _remove(path)
        self._base = None
        self._bad.clear()
        self.release()
        with contextlib.suppress(OSError):  # there are other files in it
            self.folder.rmdir()

    def release(self) -> None:
        """Let other processes write to the folder."""
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
        """Name of all checkpoints, newest first."""
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
        last = "There is no earlier one" if good is None else f"The last good one, {good}, is as it was"
        return f"A checkpoint could not be written to {self.folder}: {why}. {last}."


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is not the name of a checkpoint.")
    return int(match[2])


def _lock(folder: Path) -> tuple[int, bool]:
    """Return the descriptor of a folder's lock, and whether the system guarantees that nobody else has it."""
    while True:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o644)
        alone = fcntl is not None
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when we die
        except OSError as error:
            alone = False  # some network folders know no locks
            if error.errno in _TAKEN:
                owner = os.read(descriptor, 32).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise CheckpointError(
                    f"Another process{f' (number {owner})' if owner else ''} is writing checkpoints to {folder}. "
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
    """Remove a checkpoint; killed half-way, what is left does not have the name of one."""
    aside = path
    if not path.name.startswith("."):
        aside = path.with_name(f".{path.name}.{os.getpid()}.old")
        try:
            path.rename(aside)
        except OSError:  # another process was faster, or the folder cannot be written
            return
    shutil.rmtree(aside, ignore_errors=True)
