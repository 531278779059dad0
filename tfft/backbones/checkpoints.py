"""Weight files of other frameworks, read into plain NumPy arrays without those frameworks.

Hides the two PyTorch containers (the row of pickles of 2020 and before, the zip since) behind
:func:`read_pth`. A pickle is a program; the reader here can build tensors and containers and
nothing else, so that opening a file from a stranger runs none of its code.
"""

from __future__ import annotations

import collections
import math
import os
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from tfft.errors import SavedModelError, UnsafeModelError, listed, missing_package

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
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
    """Reads a PyTorch ``.pth`` / ``.pt`` file of weights, without PyTorch.

    Use it to bring published PyTorch weights into a graph built with Keras or TensorFlow. Layouts
    stay PyTorch's: a convolution kernel is ``[out, in, height, width]``.

    Args:
        path: file written by ``torch.save``, in the format of PyTorch 1.6 and later (a zip) or
            the older one. A state dict, or a training checkpoint that holds one.

    Returns:
        Tensors by name, in the order of the file; names of nested dicts are joined by dots.
        Values that are not tensors (an epoch number) are left out. bfloat16 comes as float32.

    Raises:
        UnsafeModelError: the file asks for a function or class other than tensors and containers.
        SavedModelError: the file is cut off, damaged or no PyTorch file.
        FileNotFoundError: there is no such file.

    Example:
        >>> weights = read_pth("efficientnet-lite0.pth")
        >>> weights["_conv_stem.weight"].shape
        (32, 3, 3, 3)
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            found = _read_zip(file, path) if zipfile.is_zipfile(file) else _read_row(file, path)
            tensors = _flatten(found, path)
    except (SavedModelError, OSError):
        raise
    except Exception as error:  # bytes that are no pickle can raise anything, from KeyError to MemoryError
        _damaged(path, f"{type(error).__name__}: {error}", error)
    return tensors


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a ``.safetensors`` file into NumPy arrays.

    Args:
        path: the file.

    Returns:
        Arrays by name.

    Raises:
        DependencyError: the package ``safetensors`` is missing.
        SavedModelError: the file is damaged or of another format.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        missing_package("safetensors", f"Reading {path.name}", 'pip install "tfft[checkpoints]"')
    try:
        return dict(safetensors.numpy.load_file(path))
    except safetensors.SafetensorError as error:
        raise SavedModelError(f"{path} is no whole .safetensors file ({error}). Download it again.") from error


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
        if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise pickle.UnpicklingError("a tensor that is not described by a storage and whole numbers")
        self.storage = storage
        self.offset: int = offset  # type: ignore[assignment]
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
        raise pickle.UnpicklingError(f"a shape that is {value!r}")
    return tuple(value)


class _Unpickler(pickle.Unpickler):
    """Builds tensors and containers; refuses every other global by name."""

    def __init__(self, file: BinaryIO, path: Path, storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="utf-8")
        self._path = path
        self._storages = storages
        # Made anew for each file: a pickle can set attributes on what it is given.
        self._allowed: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): _plain_ordered_dict(),
            ("torch._utils", "_rebuild_tensor_v2"): lambda s, o, n, st, *rest: _Tensor(s, o, n, st),
            ("torch._utils", "_rebuild_parameter"): lambda data, *rest: data,
            ("torch", "Size"): lambda values=(): tuple(values),
        }
        self._allowed.update({("torch", name): name for name in _STORAGES})  # a text cannot be called

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise UnsafeModelError(
                f"{self._path} asks for {module}.{name}, which is neither a tensor nor a container. A pickle that "
                "names other things can run any program when it is opened, so it was not read. If you trust where "
                "it comes from, open it with PyTorch and save its state dict alone: "
                "torch.save(model.state_dict(), path), or as .safetensors."
            )
        return self._allowed[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or pid[1] not in _STORAGES:
            raise pickle.UnpicklingError(f"an unknown kind of storage {pid!r}")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("storages that are views of each other, a format from before PyTorch 0.4")
        key, numel = str(pid[2]), pid[4]
        if not isinstance(numel, int) or numel < 0:
            raise pickle.UnpicklingError(f"a storage of {numel!r} elements")
        return self._storages.setdefault(key, _Storage(_STORAGES[pid[1]], numel))


def _plain_ordered_dict() -> type:
    return type("OrderedDict", (collections.OrderedDict,), {})


def _read_row(file: BinaryIO, path: Path) -> Any:
    """The format before PyTorch 1.6: five pickles in a row, then the storages as raw bytes."""
    size = path.stat().st_size
    storages: dict[str, _Storage] = {}
    file.seek(0)

    def load() -> Any:
        return _Unpickler(file, path, storages).load()

    if load() != _MAGIC:
        _damaged(path, "it does not start with PyTorch's magic number")
    version, system = load(), load()
    if version != _VERSION:
        _damaged(path, f"its format version is {version!r}, known is {_VERSION}")
    if isinstance(system, Mapping) and not system.get("little_endian", True):
        _damaged(path, "it was written on a big-endian machine")
    found = load()
    for key in load():
        storage = storages[key]
        (numel,) = struct.unpack("<q", file.read(8))
        if numel != storage.numel or storage.nbytes > size - file.tell():
            _damaged(path, f"storage {key} should hold {storage.numel} numbers and the file ends or says {numel}")
        storage.fill(file.read(storage.nbytes))
    return found


def _read_zip(file: BinaryIO, path: Path) -> Any:
    """The format since PyTorch 1.6: an uncompressed zip of one pickle and a file per storage."""
    storages: dict[str, _Storage] = {}
    with zipfile.ZipFile(file) as archive:
        inside = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in inside if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            _damaged(path, f"a zip without one data.pkl (it holds {listed(inside, limit=5)})")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in inside and archive.read(f"{folder}byteorder").strip() == b"big":
            _damaged(path, "it was written on a big-endian machine")
        if inside[pickles[0]].compress_type != zipfile.ZIP_STORED:
            _damaged(path, "its data.pkl is compressed, which torch.save never does")
        with archive.open(pickles[0]) as stream:
            found = _Unpickler(stream, path, storages).load()  # type: ignore[arg-type]
        for key, storage in storages.items():
            entry = inside[f"{folder}data/{key}"]
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != storage.nbytes:
                _damaged(path, f"storage {key} is compressed or not {storage.nbytes} bytes long")
            storage.fill(archive.read(entry))
    return found


def _flatten(found: Any, path: Path) -> dict[str, np.ndarray]:
    if isinstance(found, Mapping) and not any(isinstance(v, _Tensor) for v in dict(found).values()):
        wrapped = [found[name] for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
        found = wrapped[0] if wrapped else found
    tensors: dict[str, np.ndarray] = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, _Tensor):
            tensors[name] = value.array()
        elif isinstance(value, Mapping):
            for key, item in value.items():
                walk(item, f"{name}.{key}" if name else str(key))

    walk(found, "")
    if not tensors or "" in tensors:
        _damaged(path, f"it holds no tensors by name but a {type(found).__name__.lstrip('_')}")
    return tensors
