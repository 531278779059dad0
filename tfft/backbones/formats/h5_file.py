"""HDF5 files of Keras: checked by :func:`opened_h5`, and their weights read by :func:`read_layers`.

A file from a stranger is hostile input. HDF5 can link to other files of this machine and declare arrays of any size;
weights need neither, so a file with such things is refused before anything of it is used.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tfft.errors import BackboneError, UnsafeModelError

_MOST_OBJECTS = 200_000
_MOST_DEPTH = 64
_MOST_RATIO, _SMALL = 200, 2**28  # of all arrays, to the size of the file
_KINDS = "fiub"


@contextlib.contextmanager
def opened_h5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a file for reading, after checking everything in it.

    Args:
        path: The file.

    Raises:
        UnsafeModelError: It leads outside of itself, or declares far more than it holds.
        BackboneError: It is not an HDF5 file, or it is cut off.
    """
    path = Path(path)
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        try:
            _check(file, path)
        except (OSError, RuntimeError, KeyError, OverflowError) as error:  # what h5py raises for damaged bytes
            raise _unreadable(path, error) from error
        yield file


def _unreadable(path: Path, error: Exception) -> BackboneError:
    return BackboneError(
        f"{path} ({path.stat().st_size:,} bytes) cannot be read as an HDF5 file: {str(error)[:200]}. It is cut off, "
        "damaged or of another format; copy or download it again."
    )


def _check(file: h5py.File, path: Path) -> None:
    seen: set[int] = set()
    size, todo = 0, [(file["/"], 0)]
    while todo:
        group, depth = todo.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                _refuse(path, f"{group.name}/{name} is a link, which may lead to another file")
            found = group[name]
            if isinstance(found, h5py.Group):
                todo.append((found, depth + 1))
            elif isinstance(found, h5py.Dataset):
                if found.external or found.is_virtual:
                    _refuse(path, f"the array {found.name} is stored in another file")
                size += found.size * found.dtype.itemsize if found.shape is not None else 0
            if len(seen) + len(todo) > _MOST_OBJECTS or depth > _MOST_DEPTH:
                _refuse(path, "it holds more groups than any model has")
    most = max(_SMALL, _MOST_RATIO * path.stat().st_size)
    if size > most:
        _refuse(path, f"its arrays unpack to {size:,} bytes, more than {most:,}")


def _refuse(path: Path, why: str) -> None:
    raise UnsafeModelError(f"{path} was not loaded: {why}. A file that Keras wrote has nothing of the kind.")


def read_config(file: h5py.File) -> dict[str, Any] | None:
    """Return the config of a whole model, or None for a file of weights.

    Raises:
        BackboneError: The config is damaged.
    """
    text = file.attrs.get("model_config")
    if text is None:
        return None
    try:
        config = json.loads(text)
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__} instead of a config")
    except (ValueError, TypeError, RecursionError) as error:
        raise BackboneError(f"The model in {file.filename} is damaged: {str(error)[:200]}.") from error
    return config


def read_layers(file: h5py.File) -> list[tuple[str, dict[str, np.ndarray]]] | None:
    """Return the weights by name, layer by layer in the order of the network; layers without weights are left out.

    Args:
        file: Path of ``model.save("x.h5")`` or ``model.save_weights("x.h5")`` of Keras 2.

    Returns:
        The layers; None where it is a ``.weights.h5`` of Keras 3, which knows no layers by name.

    Raises:
        BackboneError: The file names arrays that it does not hold, or that are not numbers.
    """
    root = file["model_weights"] if "model_weights" in file else file
    if "layer_names" not in root.attrs and "layer_names0" not in root.attrs:
        return None
    layers = []
    for layer in _texts(root, "layer_names"):
        group = root.get(layer)
        names = _texts(group, "weight_names") if isinstance(group, h5py.Group) else []
        found = {name: _array(group, name) for name in names}
        if found:
            layers.append((layer, found))
    return layers


def _array(group: h5py.Group, name: str) -> np.ndarray:
    data = group.get(name)
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in _KINDS:
        raise BackboneError(f"{group.file.filename} lacks the array {group.name}/{name} that it names; it is damaged.")
    return data[()]


def _texts(group: h5py.Group, name: str) -> list[str]:
    """A list of texts in attributes; Keras divides long ones (``weight_names0``, ``weight_names1``)."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while name not in group.attrs and f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for part in parts for t in np.ravel(part)]
