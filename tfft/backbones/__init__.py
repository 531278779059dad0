"""Pretrained networks without a task: from a handle to a Keras model made of named blocks.

What is offered here resolves names, downloads, opens and describes; where a model came from and in
which format is hidden behind :class:`~tfft.backbones.base.Backbone`. Importing this package does not
import TensorFlow: :func:`resolve` and :func:`list_backbones` work without it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tfft.backbones.catalog import PRESETS, find_application, find_preset, plain
from tfft.backbones.fetch.digests import check_pin, digest, pinned, split_pin
from tfft.backbones.fetch.resolver import KERAS_HUB_PREFIX, KERAS_PREFIX, digest_of, resolve
from tfft.errors import BackboneError, HandleError, did_you_mean, raise_problems, require_platform
from tfft.specs import InputSpec, Preset

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone, Block, blocks_of

__all__ = ["Backbone", "Block", "blocks_of", "digest", "list_backbones", "load_backbone", "resolve"]


def load_backbone(
    handle: str | os.PathLike[str] | keras.Model,
    *,
    output: str | None = None,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_norm: Literal["fixed", "train"] = "fixed",
    backbone_dropout: bool = False,
    max_length: int | None = None,
    pooling: Literal["cls", "mean", "last", "pooled_output"] | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
    trust: bool = False,
    name: str | None = None,
) -> Backbone:
    """Opens a pretrained model as a backbone: a Keras model of named blocks, with its input contract.

    The start of every transfer: the backbone goes into :func:`tfft.build` with a head, and its
    blocks can be frozen and trained one by one.

    Args:
        handle: a short name of :func:`list_backbones` (``"efficientnet-lite0"`` needs no network),
            a name of ``keras.applications`` (``"MobileNetV2"``, ``"keras:mobilenet_v2:random"``), a
            SavedModel folder or its ``.tar.gz``, a ``.keras`` file, ``https://tfhub.dev/...``,
            ``https://www.kaggle.com/models/...``, ``owner/model/framework/variation/version``,
            ``"keras_hub:<preset>"``, a folder of a Hugging Face text model (``config.json``, ``model.safetensors``,
            vocabulary), or a built Keras model. ``"<any of these with files>@sha256:<digest>"`` opens that content
            and no other, see :func:`digest`.
        output: which output to use, for a model with several.
        signature: which signature of a SavedModel to call; its ``__call__`` by default.
        tags: of the meta graph, for a SavedModel with several.
        input_range: what black and white become, as ``(0, 1)`` or ``(-1, 1)``; known or assumed by default.
        image_size: in pixels, one number or ``(height, width)``, where the backbone takes any size.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics in trained blocks, right for small data;
            ``"train"`` lets them follow the new data.
        backbone_dropout: True runs the backbone's own dropout in training.
        max_length: most pieces of a text that are read, for text models; 128 by default.
        pooling: how the features of all pieces of a text become one; what suits the model by default.
        preprocessor: handle of the SavedModel that makes an encoder's inputs of texts, for encoders of TF Hub; the one
            that belongs to it for those of :func:`list_backbones`.
        trust: True opens a SavedModel although the scan found operations that reach outside of it; so does a pin.
        name: of the backbone.

    Returns:
        The backbone. ``notes`` say what was assumed or left out; ``input_spec`` is None where the
        input is not one image.

    Raises:
        HandleError: nothing is known under this handle, or it is out of reach.
        SavedModelError: it is no SavedModel, cannot be opened, or is not the one that was pinned.
        UnsafeModelError: the SavedModel could reach outside of itself.
        BackboneError: an argument does not fit this backbone.

    Example:
        >>> backbone = tfft.load_backbone("efficientnet-lite0")
        >>> [block.name for block in backbone.blocks][:3]
        ['stem', 'block0', 'block1']
    """
    require_platform()
    _check_arguments(input_range, image_size, batch_norm)
    native = importlib.import_module("tfft.backbones.keras_model")
    text, pin = split_pin(os.fspath(handle).strip()) if isinstance(handle, (str, os.PathLike)) else (None, None)
    graph_only = {"signature": signature, "tags": tags, "preprocessor": preprocessor, "trust": trust or None}
    text_only = {"max_length": max_length, "pooling": pooling}
    found = None if text is None else _digest_before(text, pin)
    if text is None:
        backbone = native.from_keras_model(handle, output=output, name=name)
    elif text.startswith(KERAS_HUB_PREFIX):
        backbone = importlib.import_module("tfft.backbones.keras_hub_preset").from_keras_hub(
            text.removeprefix(KERAS_HUB_PREFIX), dropout=backbone_dropout, name=name, **text_only
        )
        text_only = {}
    elif _is_application(text):
        backbone = importlib.import_module("tfft.backbones.applications").from_applications(text, backbone_name=name)
    elif _is_keras_file(text):
        backbone = native.from_keras_file(Path(text).expanduser(), output=output, name=name)
    elif (folder := _text_folder(text)) is not None:
        hubtext = importlib.import_module("tfft.backbones.keras_hub_text")
        backbone = hubtext.from_preset(str(folder), dropout=backbone_dropout, name=name, **text_only)
        text_only = {}
        if find_preset(text):
            backbone = dataclasses.replace(backbone, name=name or find_preset(text).name, origin=text)
    else:
        opening = {"output": output, "signature": signature, "tags": tags, "trust": trust}
        opening |= {"batch_norm": batch_norm, "backbone_dropout": backbone_dropout}
        backbone = _open(text, pin, name, preprocessor=preprocessor, **text_only, **opening)
        graph_only, text_only = {}, {} if backbone.tokenizer is not None else text_only
    backbone = dataclasses.replace(backbone, digest=backbone.digest or found, origin=pinned(backbone.origin, pin))
    given = [key for key, value in text_only.items() if value is not None]
    if given:
        raise BackboneError(
            f"{given[0]}= is for models with a tokenizer; {backbone.origin} takes no text, or takes it as it is."
        )
    given = [key for key, value in graph_only.items() if value is not None]
    if given:
        raise BackboneError(f"{given[0]}= is for SavedModels; {backbone.origin} is a Keras model.")
    if input_range is None and image_size is None:
        return backbone
    return dataclasses.replace(backbone, **_override(backbone, input_range, image_size))


def _is_keras_file(text: str) -> bool:
    return text.endswith(".keras") and Path(text).expanduser().is_file()


def _digest_before(text: str, pin: str | None) -> str | None:
    """The digest of files that are opened by their own readers, compared with the pin; None for other handles.

    Raises:
        HandleError: for a pin on what has no files of its own.
    """
    preset = text.removeprefix(KERAS_HUB_PREFIX)
    if text.startswith(KERAS_HUB_PREFIX):
        place = Path(preset).expanduser() if Path(preset).expanduser().is_dir() else None
    elif _is_application(text):
        place = None
    elif _is_keras_file(text):
        place = Path(text).expanduser()
    else:
        place = _text_folder(text)
        if place is None:
            return None  # a SavedModel, which may have to be fetched first
    if place is None and pin is not None:
        raise HandleError(
            f"{text!r} cannot be pinned: it is fetched by Keras or KerasHub, and no file of it is known here. Save the "
            "backbone (backbone.model.save('backbone.keras')) and pin that file."
        )
    found = None if place is None else digest(place)
    if found is not None:
        check_pin(text, pin, found)
    return found


def _text_folder(text: str) -> Path | None:
    """The folder of a text model behind a handle, also one that came with a package."""
    from tfft.backbones.keras_hub_text import PACKAGES, is_text_folder, packaged_folder

    preset = find_preset(text)
    package = (preset.handle if preset else text).removeprefix("pip:")
    if package in PACKAGES:
        return packaged_folder(package)
    folder = Path(text).expanduser()
    return folder if folder.is_dir() and is_text_folder(folder) else None


def _is_application(text: str) -> bool:
    if find_preset(text) or Path(text).expanduser().is_dir():
        return False
    return text.startswith(KERAS_PREFIX) or find_application(text.split(":")[0]) is not None


def _open(
    text: str,
    pin: str | None,
    name: str | None,
    *,
    preprocessor: str | os.PathLike[str] | None,
    max_length: int | None,
    pooling: str | None,
    trust: bool,
    **opening: Any,
) -> Backbone:
    from tfft.backbones.base import Backbone
    from tfft.backbones.keras_model import image_spec
    from tfft.backbones.savedmodel import open_savedmodel
    from tfft.backbones.savedmodel import text as saved_text

    preset = find_preset(text)
    preprocessor = preprocessor or (preset.preprocessor if preset else None)
    path, before = resolve(pinned(text, pin)), None if preprocessor is None else resolve(os.fspath(preprocessor))
    name = name or (preset.name if preset else _short_name(text))
    prefer = saved_text.preferred_outputs(pooling) if before else ()
    opened = open_savedmodel(path, name=name, prefer=prefer, trust=trust or pin is not None, **opening)
    spec, notes = image_spec(opened.model), tuple(opened.notes)
    if spec is not None and preset is not None and preset.input is not None:
        spec = _as_catalogued(spec, preset.input)
    elif spec is not None:
        notes += (f"The pixel range is {spec.source}. input_range= sets another.",)
    found = digest_of(text, path)
    for layer in opened.model.layers:  # a .keras file of it tells where its blocks came from
        if hasattr(layer, "source_digest"):
            layer.source_digest = found
    backbone = Backbone(name, opened.model, text, spec, notes, digest=found)
    if before is not None:
        trust = trust or split_pin(os.fspath(preprocessor))[1] is not None  # a pin speaks for what it pins only
        settings = {"max_length": max_length, "pooling": pooling, "trust": trust}
        return saved_text.with_preprocessor(backbone, before, **settings)
    return saved_text.with_strings(backbone) if saved_text.takes_strings(backbone) else backbone


def _short_name(handle: str) -> str:
    """The telling part of a folder's or an address's name: without suffix, version and "feature_vector"."""
    words = [
        word
        for word in re.split(r"[/\\\\]", re.sub(r"(\.tar)?(\.gz)?$|\.tgz$", "", handle))
        if word not in ("", ".", "..")
    ]
    telling = [word for word in words if not word.isdigit() and not re.fullmatch(r"feature[-_]vector", word)]
    return (telling or words or ["backbone"])[-1]


def _as_catalogued(found: InputSpec, known: InputSpec) -> InputSpec:
    """The catalog's contract, with the size that the graph insists on where it does."""
    if found.flexible:
        return known
    return dataclasses.replace(known, height=found.height, width=found.width, flexible=False)


def _check_arguments(input_range: Any, image_size: Any, batch_norm: Any) -> None:
    problems = []
    if input_range is not None:
        numbers = isinstance(input_range, (tuple, list)) and len(input_range) == 2
        numbers = numbers and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in input_range)
        if not numbers or not input_range[0] < input_range[1]:
            problems.append(f"input_range: expected two numbers, low < high, such as (-1, 1); received {input_range!r}")
    if image_size is not None:
        sizes = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        if len(sizes) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
            problems.append(f"image_size: expected pixels as 224 or (height, width); received {image_size!r}")
    if batch_norm not in ("fixed", "train"):
        problems.append(f"batch_norm: expected 'fixed' or 'train'; received {batch_norm!r}")
    raise_problems(BackboneError, "load_backbone", problems)


def _override(backbone: Backbone, input_range: Any, image_size: Any) -> dict[str, Any]:
    spec = backbone.input_spec
    if spec is None:
        inputs = ", ".join(f"{t.name} {tuple(t.shape)} {t.dtype}" for t in backbone.model.inputs)
        raise BackboneError(
            f"input_range= and image_size= are for backbones that take one image; {backbone.name!r} takes {inputs}."
        )
    notes = backbone.notes
    if image_size is not None:
        height, width = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
        if (height, width) != spec.image_size and not spec.flexible:
            raise BackboneError(
                f"{backbone.name!r} takes images of {spec.height} x {spec.width} pixels only; received "
                f"image_size={image_size!r}. Leave image_size= out: images of any size are resized to what it takes."
            )
        spec = dataclasses.replace(spec, height=height, width=width)
    if input_range is not None:
        low, high = float(input_range[0]), float(input_range[1])
        spec = dataclasses.replace(
            spec, value_range=(low, high), mean=None, std=None, source=f"given: input_range=({low:g}, {high:g})"
        )
        notes = tuple(note for note in notes if "The pixel range is assumed" not in note)
    return {"input_spec": spec, "notes": notes}


def list_backbones(pattern: str | None = None, kind: Literal["image", "text"] | None = None) -> list[Preset]:
    """Lists the pretrained models that are known by a short name.

    Beside these, every name of ``keras.applications``, every SavedModel folder and every TF Hub or
    Kaggle address is a handle.

    Args:
        pattern: part of a name, without regard to case, ``-`` and ``_``; None for all.
        kind: ``"image"`` or ``"text"``; None for both.

    Returns:
        The presets, the default first.

    Raises:
        BackboneError: ``kind`` is something else.

    Example:
        >>> [preset.name for preset in list_backbones("mobilenet-v3")]
        ['mobilenet-v3-small-100-224', 'mobilenet-v3-large-100-224']
    """
    if kind not in (None, "image", "text"):
        hint = did_you_mean(str(kind), ["image", "text"])
        raise BackboneError(f"kind: expected 'image', 'text' or None; received {kind!r}.{hint}")
    wanted = plain(pattern or "")
    return [p for p in PRESETS if wanted in plain(p.name) and kind in (None, p.kind)]


def __getattr__(name: str) -> Any:
    if name in ("Backbone", "Block", "blocks_of"):
        return getattr(importlib.import_module("tfft.backbones.base"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
