"""A SavedModel as a backbone: :func:`from_savedmodel`, from a handle to blocks, input contract and tokenizer."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from tfft.backbones.base import Backbone
from tfft.backbones.catalog import find_preset
from tfft.backbones.fetch.digests import split_pin
from tfft.backbones.fetch.resolver import resolve
from tfft.backbones.formats.keras2_file import savedmodel_by_keras2
from tfft.backbones.keras_model import image_spec
from tfft.backbones.load_options import LoadOptions
from tfft.backbones.savedmodel import text
from tfft.backbones.savedmodel.opener import open_savedmodel
from tfft.backbones.savedmodel.pixel_range import PixelRange
from tfft.layers.each_example import EachExample
from tfft.specs import InputSpec, Preset


def preprocessor_of(handle: str, options: LoadOptions) -> str | None:
    """Return the handle of the preprocessor that belongs to an encoder: as asked for, else the catalog's."""
    if options.preprocessor:
        return os.fspath(options.preprocessor)
    preset = find_preset(handle)
    return preset.preprocessor if preset else None


def from_savedmodel(handle: str, options: LoadOptions) -> Backbone:
    """Open a SavedModel as a backbone.

    Args:
        handle: As :func:`tfft.backbones.resolve` takes it, without a pin.
        options: As :func:`tfft.backbones.load_backbone` takes them. A pin implies ``trust=True``.

    Returns:
        The backbone; with a tokenizer if it has a preprocessor.

    Raises:
        HandleError: The handle is unknown or out of reach.
        SavedModelError: It is not a SavedModel, or cannot be opened.
        UnsafeModelError: The SavedModel could reach outside of itself.
        BackboneError: An option does not fit this SavedModel.
    """
    preset, preprocessor = find_preset(handle), preprocessor_of(handle, options)
    path = resolve(handle)
    before = None if preprocessor is None else resolve(preprocessor)
    name = options.name or (preset.name if preset else _short_name(handle))
    opened = open_savedmodel(
        path,
        name=name,
        output=options.output,
        prefer=text.preferred_outputs(options.pooling) if before else (),
        signature=options.signature,
        tags=options.tags,
        batch_norm=options.batch_norm,
        backbone_dropout=options.backbone_dropout,
        constants=options.constants,
        trust=options.trust or options.pinned,
        per_example=options.per_example,
        image_size=options.sides,
    )
    _remember_source(opened.model.layers, options.digest)
    spec, notes = input_contract(opened.model, preset, opened.pixels)
    backbone = Backbone(
        name, opened.model, handle, spec, (*opened.notes, *notes), digest=options.digest, endpoint=opened.endpoint
    )
    if preprocessor is None or before is None:
        return text.with_strings(backbone) if text.takes_strings(backbone) else backbone
    trust = options.trust or split_pin(preprocessor)[1] is not None  # a pin covers only what it pins
    return text.with_preprocessor(backbone, before, max_length=options.max_length, pooling=options.pooling, trust=trust)


def from_keras2_file(path: Path, options: LoadOptions, error: BaseException) -> Backbone:
    """Open a file that only Keras 2 can load, as the SavedModel that ``tf_keras`` makes of it.

    Args:
        path: ``.h5`` or ``.keras`` file.
        options: As :func:`tfft.backbones.load_backbone` takes them.
        error: What Keras 3 raised.

    Returns:
        The backbone, with a note.

    Raises:
        BackboneError: ``tf_keras`` is not installed, or cannot load the file.
        UnsafeModelError: The file names or does something that reaches outside of it.
    """
    with tempfile.TemporaryDirectory(prefix="tfft-keras2-") as place:
        folder = Path(place, "model")
        savedmodel_by_keras2(path, folder, error)
        backbone = from_savedmodel(str(folder), dataclasses.replace(options, name=options.name or path.stem))
    notes = ("Loaded with Keras 2 (tf_keras) and opened as its SavedModel: Keras 3 does not know all of its layers.",)
    return dataclasses.replace(backbone, origin=str(path), notes=(*notes, *backbone.notes))


def _remember_source(layers: Sequence[keras.layers.Layer], digest: str | None) -> None:
    """Let the blocks in a ``.keras`` file tell which SavedModel they came from."""
    for layer in layers:
        if isinstance(layer, EachExample):
            _remember_source(layer.network.layers, digest)
        elif hasattr(layer, "source_digest"):
            layer.source_digest = digest


def input_contract(
    model: keras.Model, preset: Preset | None, pixels: PixelRange | None = None
) -> tuple[InputSpec | None, tuple[str, ...]]:
    """Return what a model expects of pixels, and a note where that is not certain.

    Args:
        model: The opened model.
        preset: Its entry in the catalog, if there is one.
        pixels: Range that its graph shows.
    """
    spec = image_spec(model)
    if spec is None:
        return None, ()
    known = preset.input if preset else None
    if known is not None and spec.flexible:
        return known, ()
    if known is not None:
        # The catalog's contract, with the size that the graph insists on.
        return dataclasses.replace(known, height=spec.height, width=spec.width, flexible=False), ()
    if pixels is None:
        return spec, (f"The pixel range is {spec.source}. input_range= sets another.",)
    spec = dataclasses.replace(spec, value_range=pixels.value_range, source=pixels.source)
    return spec, (pixels.warning or f"The pixel range is {pixels.source}. input_range= sets another.",)


def _short_name(handle: str) -> str:
    """The telling part of a folder's or an address's name: without suffix, version and "feature_vector"."""
    words = [
        word
        for word in re.split(r"[/\\\\]", re.sub(r"(\.tar)?(\.gz)?$|\.tgz$", "", handle))
        if word not in ("", ".", "..")
    ]
    telling = [word for word in words if not word.isdigit() and not re.fullmatch(r"feature[-_]vector", word)]
    return (telling or words or ["backbone"])[-1]
