"""Weight files of other frameworks, read into plain NumPy arrays without those frameworks.

Hides the two PyTorch containers (the row of pickles of 2020 and before, the zip since) behind
:func:`read_pth`. A pickle is a program; :mod:`tfft.backbones.formats.safe_pickle` can build tensors and containers and
nothing else, so that opening a file from a stranger runs none of its code.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from tfft.backbones.formats.safe_pickle import Call, Name, read_pickle
from tfft.errors import SavedModelError, join_names

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_MOST_COPIED = 8  # times the stored numbers: tensors may share them, as tied weights do, but not without end
_MOST_VISITED = 1_000_000  # entries of nested dicts
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # a training checkpoint keeps the weights under one of these

# bfloat16 has no NumPy type: its two bytes are the upper half of a float32.
_STORAGES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


def read_pth(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read a PyTorch ``.pth`` / ``.pt`` file of weights, without PyTorch.

    Use it to bring published PyTorch weights into a graph built with Keras or TensorFlow. Layouts
    stay PyTorch's: a convolution kernel is ``[out, in, height, width]``.

    Args:
        path: File written by ``torch.save``, in the format of PyTorch 1.6 and later (a zip) or
            the older one. A state dict, or a training checkpoint that holds one.

    Returns:
        Tensors by name, in the order of the file; names of nested dicts are joined by dots.
        Values that are not tensors (an epoch number) are left out. bfloat16 comes as float32.

    Raises:
        UnsafeModelError: The file asks for a function or class other than tensors and containers.
        SavedModelError: The file is cut off, damaged or no PyTorch file.
        FileNotFoundError: There is no such file.

    Example:
        >>> weights = read_pth("efficientnet-lite0.pth")
        >>> weights["_conv_stem.weight"].shape
        (32, 3, 3, 3)
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            found = _read_zip(file, path) if zipfile.is_zipfile(file) else _read_row(file, path)
            return _flatten(found, path)
        except SavedModelError:
            raise
        except Exception as error:  # bytes that are not a pickle can raise anything, from KeyError to MemoryError
            _damaged(path, f"{type(error).__name__}: {str(error)[:500]}", error)


def _damaged(path: Path, reason: str, cause: BaseException | None = None) -> NoReturn:
    raise SavedModelError(
        f"{path} ({path.stat().st_size} bytes) cannot be read as a PyTorch file: {reason}. "
        "It is cut off, damaged or of another format; expected a file written by torch.save. Download it again."
    ) from cause


class _Storage:
    """A flat run of numbers, filled in after the pickle that names it has been read."""

    __slots__ = ("data", "kind", "numel")

    def __init__(self, kind: str, numel: int) -> None:
        self.kind = kind
        self.numel = numel
        self.data: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.kind == "bfloat16" else self.kind).newbyteorder("<")

    def fill(self, raw: bytes) -> None:
        data = np.frombuffer(raw, self.dtype)
        if self.kind == "bfloat16":
            data = (data.astype("<u4") << 16).view("<f4")
        self.data = data.astype(data.dtype.newbyteorder("="), copy=False)


class _Tensor:
    """A window on a storage: where it starts, its shape and the steps between its elements."""

    __slots__ = ("offset", "shape", "storage", "strides")

    def __init__(self, storage: object, offset: object, shape: object, strides: object) -> None:
        numbers = [offset, *_integers(shape), *_integers(strides)]
        whole = all(isinstance(n, int) and 0 <= n < 2**62 for n in numbers)
        if not isinstance(storage, _Storage) or not isinstance(offset, int) or not whole:
            raise pickle.UnpicklingError("a tensor that is not described by a storage and integers")
        self.storage = storage
        self.offset = offset
        self.shape = _integers(shape)
        self.strides = _integers(strides)

    def array(self) -> np.ndarray:
        """The values, copied. Bounds are checked, since strides could point outside of the storage."""
        stored, size = self.storage.data, math.prod(self.shape)
        reach = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if stored is None or (size and (reach >= self.storage.numel or size > self.storage.numel)):
            raise pickle.UnpicklingError("a tensor that is larger than the numbers stored for it")
        if size == 0:
            return np.zeros(self.shape, stored.dtype)
        steps = [step * stored.itemsize for step in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(stored[self.offset :], self.shape, steps), order="C")


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise pickle.UnpicklingError(f"a shape that is a {type(value).__name__}")
    return tuple(value)


class _Reader:
    """Reads pickles of tensors; what they are made of is given by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.storages: dict[str, _Storage] = {}
        self._known: dict[str, Call | None] = {
            "collections.OrderedDict": lambda items=(): {} if not items else dict(_pairs(items)),
            "torch._utils._rebuild_tensor_v2": lambda s, o, n, st, *rest: _Tensor(s, o, n, st),
            "torch._utils._rebuild_parameter": lambda data, *rest: data,
            "torch.Size": lambda values=(): tuple(values) if isinstance(values, (list, tuple)) else (),
        }
        self._known.update({f"torch.{name}": None for name in _STORAGES})  # mentioned, never called

    def read(self, file: BinaryIO) -> Any:
        """Read one pickle."""
        return read_pickle(file, self._known, self._storage, str(self._path))

    def _storage(self, pid: Any) -> _Storage:
        kind = pid[1] if isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" else None
        if not isinstance(kind, Name) or kind.title.removeprefix("torch.") not in _STORAGES:
            raise pickle.UnpicklingError("an unknown kind of storage")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("storages that are views of each other, a format from before PyTorch 0.4")
        key, numel = pid[2], pid[4]
        if not isinstance(key, (str, int)) or not isinstance(numel, int) or not 0 <= numel < 2**48:
            raise pickle.UnpicklingError("a storage without a key or a number of elements")
        wanted = _STORAGES[kind.title.removeprefix("torch.")]
        made = self.storages.setdefault(str(key), _Storage(wanted, numel))
        if (made.kind, made.numel) != (wanted, numel):
            raise pickle.UnpicklingError(f"two descriptions of the storage {str(key)[:50]!r}")
        return made


def _pairs(items: Any) -> list[tuple[str, Any]]:
    if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str) for pair in items):
        raise pickle.UnpicklingError("a dict of something else than pairs with names")
    return [(key, value) for key, value in items]


def _read_row(file: BinaryIO, path: Path) -> Any:
    """The format before PyTorch 1.6: five pickles in a row, then the storages as raw bytes."""
    size = path.stat().st_size
    reader = _Reader(path)
    file.seek(0)
    load = lambda: reader.read(file)  # noqa: E731
    if load() != _MAGIC:
        _damaged(path, "it does not start with PyTorch's magic number")
    version, system = load(), load()
    if version != _VERSION:
        _damaged(path, f"its format version is {version!r}, known is {_VERSION}")
    if isinstance(system, Mapping) and not system.get("little_endian", True):
        _damaged(path, "it was written on a big-endian machine")
    found = load()
    for key in load():
        storage = reader.storages[key]
        if storage.data is not None:
            _damaged(path, f"it brings the storage {key} twice")
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel or storage.nbytes > size - file.tell():
            _damaged(path, f"storage {key} should hold {storage.numel} numbers and the file ends or says {numel}")
        storage.fill(file.read(storage.nbytes))
    return found


def _read_zip(file: BinaryIO, path: Path) -> Any:
    """The format since PyTorch 1.6: an uncompressed zip of one pickle and a file per storage."""
    reader = _Reader(path)
    with zipfile.ZipFile(file) as archive:
        inside = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in inside if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            _damaged(path, f"a zip without one data.pkl (it holds {join_names(inside, limit=5)})")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in inside and _stored(archive, inside[f"{folder}byteorder"], path).strip() == b"big":
            _damaged(path, "it was written on a big-endian machine")
        found = reader.read(io.BytesIO(_stored(archive, inside[pickles[0]], path)))
        wanted = {key: inside[f"{folder}data/{key}"] for key in reader.storages}
        if sum(entry.file_size for entry in wanted.values()) > path.stat().st_size:
            _damaged(path, "its storages overlap")
        for key, entry in wanted.items():
            if entry.file_size != reader.storages[key].nbytes:
                _damaged(path, f"storage {key} is not {reader.storages[key].nbytes} bytes long")
            reader.storages[key].fill(_stored(archive, entry, path))
    return found


def _stored(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> bytes:
    """The bytes of an entry, which are as many as the file has room for."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
        _damaged(path, f"its {entry.filename} is compressed, which torch.save never does")
    if entry.file_size > path.stat().st_size:
        _damaged(path, f"its {entry.filename} should be larger than the file itself")
    return archive.read(entry)


def _flatten(found: Any, path: Path) -> dict[str, np.ndarray]:
    if isinstance(found, Mapping) and not any(isinstance(v, _Tensor) for v in found.values()):
        wrapped = [found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
        found = wrapped[0] if wrapped else found
    tensors: dict[str, np.ndarray] = {}
    left = [_MOST_VISITED, _MOST_COPIED * path.stat().st_size + 2**20]

    def walk(value: Any, name: str) -> None:
        left[0] -= 1
        if isinstance(value, _Tensor):
            left[1] -= math.prod(value.shape) * value.storage.dtype.itemsize
        if min(left) < 0 or len(name) > 10_000:
            _damaged(path, "its tensors have no end: they are used again and again")
        if isinstance(value, _Tensor):
            tensors[name] = value.array()
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(item, f"{name}.{key}" if name else str(key))

    walk(found, "")
    if not tensors or "" in tensors:
        _damaged(path, f"it holds no tensors by name but a {type(found).__name__.lstrip('_')}")
    return tensors
