"""Files of one checkpoint, with a hash of every byte that is verified on reading.

Implementation notes: a checkpoint is the values of all arrays, a state in JSON, and a manifest with names, types,
shapes, sizes and hashes. Nothing is ever unpickled, and a manifest names no files: there are three, with fixed names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # both Keras and TensorFlow depend on it
import numpy as np

MANIFEST, ARRAYS, STATE = "manifest.json", "arrays.bin", "state.json"
FORMAT = 1

_LARGEST_TEXT = 256 * 2**20  # bytes of a manifest or a state; larger files are not from tfft
_KINDS = "biufc"  # of numpy's types: numbers
_NAMED = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int4", "uint4")  # types that NumPy alone does not have


class UnusableError(Exception):
    """A checkpoint that cannot be used; the message has the reason."""


class NotPlainError(Exception):
    """A value that cannot be written to a checkpoint; the message names it."""


def write(
    folder: Path, name: str, base: str | None, arrays: Mapping[str, np.ndarray], state: Mapping[str, Any]
) -> None:
    """Write the files of a checkpoint into an empty folder, synced to disk.

    Args:
        folder: Folder, which will be renamed to ``name``.
        name: Name of the checkpoint.
        base: Name of the base checkpoint, or None.
        arrays: Numeric arrays.
        state: Values for JSON.

    Raises:
        NotPlainError: If other values are among them.
        OSError: If the system cannot write.
    """
    table, files = [], {}
    with _Hashed(folder / ARRAYS) as file:
        for key, value in arrays.items():
            array = np.asarray(value)
            if not _is_number(array.dtype):
                raise NotPlainError(f"Array {key!r} holds {array.dtype}, and a checkpoint only holds numbers.")
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
            table.append({"name": key, "dtype": array.dtype.name, "shape": list(array.shape), "offset": file.size})
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    files[ARRAYS] = file.about
    try:
        text = _text(state)
    except (TypeError, ValueError) as error:
        raise NotPlainError(f"The state of a checkpoint must be plain values: {error}.") from error
    with _Hashed(folder / STATE) as file:
        file.write(text)
    files[STATE] = file.about
    content = {"format": FORMAT, "name": name, "base": base, "written": time.time(), "files": files, "arrays": table}
    with _Hashed(folder / MANIFEST) as file:
        file.write(_text({"content": content, "sha256": hashlib.sha256(_text(content)).hexdigest()}))
    sync(folder)


class _Hashed:
    """New file that is synced when closed, with a hash of its content."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> _Hashed:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError) if kind is not None else contextlib.nullcontext():
                self._file.close()  # flushes, which fails again on a full disk

    def write(self, data: bytes | memoryview) -> None:
        """Add bytes."""
        self._digest.update(data)
        self._file.write(data)
        self.size += len(data)

    @property
    def about(self) -> dict[str, Any]:
        """Size and hash."""
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}


def _text(content: Any) -> bytes:
    """Encode canonical JSON, in which every byte is significant."""
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode("ascii")


def _parsed(data: bytes | bytearray, what: str) -> Any:
    try:
        found = json.loads(data)
        if _text(found) == data:
            return found
    except (ValueError, RecursionError):
        pass
    raise UnusableError(f"its {what} is damaged")


def read(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, Any]]:
    """Return manifest, arrays and state of a checkpoint; the returned bytes are the verified ones.

    Raises:
        UnusableError: If something is missing, damaged, or was not written by tfft.
    """
    manifest = _parsed(_bytes(folder / MANIFEST, _LARGEST_TEXT), "manifest")
    try:
        content = manifest["content"]
        if manifest["sha256"] != hashlib.sha256(_text(content)).hexdigest():
            raise UnusableError("its manifest is damaged")
        if content["format"] != FORMAT:
            raise UnusableError(f"it has format {content['format']!r}, and this version of tfft reads {FORMAT}")
        if content["name"] != folder.name:
            raise UnusableError(f"it was written as {content['name']!r} and has been renamed")
        data = _checked(folder, ARRAYS, content["files"])
        state = _parsed(bytes(_checked(folder, STATE, content["files"], _LARGEST_TEXT)), "state")
        return content, _cut(data, content["arrays"]), state
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UnusableError("its manifest is not one of tfft's") from error


def _checked(folder: Path, name: str, files: Mapping[str, Any], largest: int | None = None) -> bytearray:
    wanted = files[name]
    data = _bytes(folder / name, largest)
    if len(data) != wanted["bytes"]:
        raise UnusableError(f"{name} has {len(data):,} bytes, expected {int(wanted['bytes']):,}")
    if hashlib.sha256(data).hexdigest() != wanted["sha256"]:
        raise UnusableError(f"{name} is damaged: its content does not match its recorded hash")
    return data


def _bytes(path: Path, largest: int | None = None) -> bytearray:
    """Read a plain file; not a link, which could lead anywhere, nor a pipe, which could block forever."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode) or (largest is not None and about.st_size > largest):
                raise UnusableError(f"{path.name} is not a file that tfft wrote")
            data = bytearray(about.st_size)
            size = file.readinto(data) if about.st_size else 0
    except FileNotFoundError as error:
        raise UnusableError(f"{path.name} is missing") from error
    except OSError as error:
        raise UnusableError(f"{path.name} cannot be read ({error.strerror or error})") from error
    return data[:size] if size != len(data) else data


def _cut(data: bytearray, table: list[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return the arrays, which must fill the file one after the other."""
    arrays, at = {}, 0
    for row in table:
        dtype, shape = _dtype(row["dtype"]), tuple(row["shape"])
        if row["offset"] != at or any(type(n) is not int or n < 0 for n in shape) or row["name"] in arrays:
            raise UnusableError("its manifest is not one of tfft's")
        count = math.prod(shape)
        if at + count * dtype.itemsize > len(data):
            raise UnusableError("its manifest is not one of tfft's")
        part = np.frombuffer(data, np.uint8, count * dtype.itemsize, at)
        arrays[row["name"]] = part.copy().view(dtype).reshape(shape)
        at += part.size
    if at != len(data):
        raise UnusableError("its manifest is not one of tfft's")
    return arrays


def _is_number(dtype: np.dtype) -> bool:
    return dtype.name in _NAMED or dtype.kind in _KINDS


def _dtype(name: str) -> np.dtype:
    dtype = np.dtype(getattr(ml_dtypes, name)) if name in _NAMED else np.dtype(name)
    if not _is_number(dtype) or dtype.name != name:
        raise UnusableError("its manifest is not one of tfft's")
    return dtype


def sync(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    if os.name == "nt":  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
