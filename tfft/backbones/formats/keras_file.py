"""``.keras`` files from elsewhere: loaded with Keras' safe mode on, by :func:`load_keras_file`.

Keras checks most of what such a file could do. Hidden here: what it leaves open (vocabularies of KerasHub that are
paths of this machine, odd entries of the zip), and how the reason is found below what Keras says.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from tfft.backbones.formats.keras2_file import mappings_in, refuse_changed, refuse_lambda
from tfft.errors import BackboneError, TfftError, UnsafeModelError, join_names

_CONFIG = "config.json"
_MOST_CONFIG = 2**30  # bytes; tfft's own blocks carry their graphs in it
_MOST_RATIO, _SMALL = 200, 2**28
_PATHS = ("vocabulary", "merges", "proto")  # KerasHub stores their contents beside, never in the config


def load_keras_file(path: str | os.PathLike[str], *, compile: bool = False) -> keras.Model:
    """Load a ``.keras`` file with safe mode on.

    Args:
        path: The file.
        compile: True restores the optimizer too.

    Returns:
        The model.

    Raises:
        UnsafeModelError: The file holds a graph that may reach outside of it, or reads files of this machine.
        BackboneError: Keras cannot load it, for instance since its custom classes are not imported.
    """
    path = Path(path)
    try:
        _check(path)
        return keras.saving.load_model(path, compile=compile, safe_mode=True)
    except TfftError:
        raise
    except Exception as error:  # Keras raises a dozen classes for a damaged or a foreign file
        inner = _below(error)
        if inner is not None:
            raise inner from error
        reason = str(error).strip().splitlines()[0][:500] if str(error).strip() else type(error).__name__
        raise BackboneError(
            f"Keras cannot load {path}: {reason}. A model with custom classes needs the module that registers them "
            "to be imported first."
        ) from error


def _below(error: BaseException) -> TfftError | None:
    """What a layer of tfft said before Keras wrapped it."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        if isinstance(current, TfftError):
            return current
        seen.add(id(current))
        current = current.__cause__ or current.__context__
    return None


def _check(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        outside = [name for name in names if name.startswith("/") or ".." in name.replace("\\", "/").split("/")]
        if outside or len(set(names)) < len(names):
            raise UnsafeModelError(
                f"{path} was not loaded: it holds entries that lead outside of it, or several of one name "
                f"({join_names(outside or names, limit=5)})."
            )
        most = max(_SMALL, _MOST_RATIO * path.stat().st_size)
        if sum(entry.file_size for entry in entries) > most:
            raise UnsafeModelError(f"{path} was not loaded: it unpacks to more than {most:,} bytes.")
        if _CONFIG not in names or archive.getinfo(_CONFIG).file_size > _MOST_CONFIG:
            return  # Keras says what is missing
        config = json.loads(archive.read(_CONFIG))
    refuse_lambda(path, config)
    refuse_changed(path, config)
    found = sorted(set(_local_paths(config)))
    if found:
        raise UnsafeModelError(
            f"{path} was not loaded: it would read files of this machine as a vocabulary "
            f"({join_names(found, limit=5)}). "
            "KerasHub itself stores vocabularies inside of the file."
        )


def _local_paths(config: Any) -> Iterator[str]:
    for value in mappings_in(config):
        owner = f"{value.get('module')} {value.get('registered_name')}"
        inner = value.get("config")
        if "keras_hub" in owner and isinstance(inner, Mapping):
            yield from (f"{value.get('class_name')}.{k} = {inner[k]!r}" for k in _PATHS if inner.get(k) is not None)
