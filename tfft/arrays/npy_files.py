"""Arrays in files: written example by example, memory-mapped for reading.

Implementation notes: rows of different lengths are stored one after the other, with the lengths in another file. Pages
of a mapped file are released after reading, because they count as memory of the process.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tfft.arrays.ragged import Ragged, Rows, offsets_of

LENGTHS = "lengths.bin"  # next to the files of rows of different lengths

_HELD = 64 * 2**20  # bytes read from mapped files before their pages are released

Item = tuple[Sequence[int | None], np.dtype]  # shape of one example, None first if it varies, and type


def map_file(file: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Map a file to memory, read-only; the file may be closed or unlinked afterwards."""
    if 0 in shape:
        return np.empty(shape, dtype)  # an empty file cannot be mapped
    return np.memmap(file, dtype, "r", 0, shape)


def release_pages(array: Rows) -> None:
    """Release the pages of a mapped file that this process has read; the disk cache keeps them."""
    mapped = getattr(array.values if isinstance(array, Ragged) else array, "_mmap", None)
    if mapped is not None and hasattr(mapped, "madvise"):  # not on Windows
        mapped.madvise(mmap.MADV_DONTNEED)


def item_bytes(items: Sequence[Item], length: float = 1.0) -> float:
    """Return the size of one example.

    Args:
        items: Shape and type of each of its arrays.
        length: Length of rows that vary.
    """
    sizes = [np.prod([length if n is None else n for n in shape]) * np.dtype(dtype).itemsize for shape, dtype in items]
    return float(sum(sizes))


def by_position(*arrays: Rows) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function that reads some rows of each array with bounded memory.

    Args:
        arrays: Arrays with one row per example, in memory or mapped.
    """
    seen = 0

    def read(at: np.ndarray) -> list[np.ndarray]:
        nonlocal seen
        found = [a.rows(at) if isinstance(a, Ragged) else np.asarray(a[at]) for a in arrays]
        seen += sum(a.nbytes for a in found)
        if seen > _HELD:  # else the whole file would count as memory of the process
            seen = 0
            for array in arrays:
                release_pages(array)
        return found

    return read


class ArrayFile:
    """Array that is written to a file example by example.

    It writes with calls, not through a mapping: on a full disk a call fails, but a mapping kills the process.

    Args:
        descriptor: Descriptor of a file open for writing; it stays open.
        shape: Shape of one example.
        dtype: Type in the file.
    """

    def __init__(self, descriptor: int, shape: Sequence[int], dtype: np.dtype) -> None:
        self._descriptor, self._digest = descriptor, hashlib.sha256()
        self.item, self.dtype, self.count = tuple(shape), np.dtype(dtype), 0

    def append(self, array: np.ndarray) -> None:
        """Add examples."""
        data = np.ascontiguousarray(array, self.dtype).reshape(-1).view(np.uint8).data
        self._digest.update(data)
        while len(data):
            data = data[os.write(self._descriptor, data) :]
        self.count += len(array)

    @property
    def about(self) -> dict[str, Any]:
        """Shape, type and hash of the written array."""
        return {
            "shape": [self.count, *self.item],
            "dtype": self.dtype.name,
            "sha256": self._digest.hexdigest(),
        }


class ArrayFiles:
    """Several arrays of the same examples, each written to its own file.

    Args:
        items: Shapes and types of the arrays.
        make: Function that opens a new file by name and returns its descriptor.
    """

    def __init__(self, items: Sequence[Item], make: Callable[[str], int]) -> None:
        self._files: dict[str, ArrayFile] = {}
        self._fills: dict[str, int | float] = {}
        self._names = [f"features_{number}.bin" for number in range(len(items))]
        for name, (shape, dtype) in zip(self._names, items, strict=True):
            known = [size for size in shape if size is not None]
            self._files[name] = ArrayFile(make(name), known, dtype)
            if len(known) < len(shape):  # the first axis varies between examples
                self._fills[name] = 0
        if self._fills:
            self._files[LENGTHS] = ArrayFile(make(LENGTHS), (), np.dtype(np.int32))

    def append(self, arrays: Sequence[Rows]) -> None:
        """Add examples to each array."""
        for name, array in zip(self._names, arrays, strict=True):
            if isinstance(array, Ragged):
                self._files[name].append(array.values)
                self._fills[name] = array.fill
            else:
                self._files[name].append(array)
        if self._fills:
            self._files[LENGTHS].append(next(a for a in arrays if isinstance(a, Ragged)).lengths)

    @property
    def about(self) -> dict[str, dict[str, Any]]:
        """Shape, type and hash by file name, and the padding of rows of different lengths."""
        return {
            name: file.about | ({"fill": self._fills[name]} if name in self._fills else {})
            for name, file in self._files.items()
        }


def assemble_arrays(files: Mapping[str, np.ndarray], about: Mapping[str, Mapping[str, Any]]) -> tuple[Rows, ...]:
    """Build arrays from the contents of files.

    Args:
        files: Content of each file, by name, in order.
        about: Description from :attr:`ArrayFiles.about`.
    """
    offsets = offsets_of(files[LENGTHS]) if LENGTHS in files else None
    return tuple(
        Ragged(array, offsets, about[name]["fill"]) if "fill" in about[name] and offsets is not None else array
        for name, array in files.items()
        if name != LENGTHS
    )
