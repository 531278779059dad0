"""Pretrained backbones that need no download: :func:`available_backbones`."""

from __future__ import annotations

import importlib.metadata
import os
import re
from pathlib import Path

from tfft.backbones.catalog import APPLICATIONS, PRESETS, plain
from tfft.backbones.fetch.remote import hub_cache_entry
from tfft.specs import Preset

_PACKAGE = "pip:"


def available_backbones(kind: str) -> list[str]:
    """Return the handles of a kind whose weights are on this machine, the default first.

    These are catalog entries whose package is installed or whose SavedModel is in the cache of TensorFlow Hub, and
    networks of ``keras.applications`` with weights in ``~/.keras/models`` (``KERAS_HOME``). Nothing is opened or
    downloaded.

    Args:
        kind: Name of a modality, such as ``"image"`` or ``"text"``.

    Example:
        >>> available_backbones("image")
        ['efficientnet-lite0']
    """
    found = [preset.name for preset in PRESETS if preset.kind == kind and _is_here(preset)]
    folder = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser() / "models"
    files = [plain(path.name).removeprefix("weights") for path in sorted(folder.glob("*.h5"))]
    networks = [app.name for app in APPLICATIONS if app.kind == kind]
    return found + [f"keras:{name}" for name in networks if any(_is_of(file, name) for file in files)]


def _is_here(preset: Preset) -> bool:
    if not preset.handle.startswith(_PACKAGE):
        place = hub_cache_entry(preset.handle)
        return place.is_dir() and any(place.iterdir())
    try:
        importlib.metadata.version(preset.handle.removeprefix(_PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _is_of(file: str, name: str) -> bool:
    """Whether a file, named without underscores, holds the weights of a network without its classifier."""
    return "notop" in file and re.match(rf"{re.escape(plain(name))}(weights|notop|1\.?0|224)", file) is not None
