"""Pretrained networks without a task: from a handle to a Keras model made of named blocks.

This package resolves names, downloads, opens and describes. The format of a model is hidden behind
:class:`~tfft.backbones.base.Backbone`; :func:`register_loader` adds a format. Importing this package does not import
TensorFlow: :func:`resolve` and :func:`list_backbones` work without it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from tfft.backbones.catalog import PRESETS, plain
from tfft.backbones.fetch.digests import digest, pinned, split_pin
from tfft.backbones.fetch.resolver import resolve
from tfft.backbones.load_options import BatchNorm, Constants, LoadOptions, TokenPooling, with_input_options
from tfft.backbones.loaders import BackboneLoader, checked_digest, find_loader, register_loader
from tfft.errors import BackboneError, did_you_mean, require_platform
from tfft.specs import Preset

if TYPE_CHECKING:
    import keras

    from tfft.backbones.base import Backbone, Block, blocks_of
    from tfft.backbones.feature_pyramid import FeatureMap, feature_maps, pyramid

__all__ = [
    "Backbone",
    "BackboneLoader",
    "Block",
    "FeatureMap",
    "LoadOptions",
    "blocks_of",
    "digest",
    "feature_maps",
    "list_backbones",
    "load_backbone",
    "pyramid",
    "register_loader",
    "resolve",
]
# Looked up on first use: these modules import TensorFlow.
_LAZY = {
    "Backbone": "tfft.backbones.base",
    "Block": "tfft.backbones.base",
    "blocks_of": "tfft.backbones.base",
    "FeatureMap": "tfft.backbones.feature_pyramid",
    "feature_maps": "tfft.backbones.feature_pyramid",
    "pyramid": "tfft.backbones.feature_pyramid",
}


def load_backbone(
    handle: str | os.PathLike[str] | keras.Model,
    *,
    output: str | None = None,
    signature: str | None = None,
    tags: Sequence[str] | None = None,
    input_range: tuple[float, float] | None = None,
    image_size: int | tuple[int, int] | None = None,
    batch_norm: BatchNorm = "fixed",
    backbone_dropout: bool = False,
    max_length: int | None = None,
    pooling: TokenPooling | None = None,
    preprocessor: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    constants: Constants = "fixed",
    trust: bool = False,
    per_example: bool = False,
    name: str | None = None,
) -> Backbone:
    """Open a pretrained model as a backbone: a Keras model of named blocks, with its input contract.

    The start of every transfer: the backbone goes into :func:`tfft.build` with a head, and its
    blocks can be frozen and trained one by one.

    Args:
        handle: A short name of :func:`list_backbones` (``"efficientnet-lite0"`` needs no network), a name of
            ``keras.applications`` (``"MobileNetV2"``, ``"keras:mobilenet_v2:random"``), a SavedModel folder or its
            ``.tar.gz``, a ``.keras`` or ``.h5`` file of a model, ``https://tfhub.dev/...``, ``https://www.kaggle.com/models/...``,
            ``owner/model/framework/variation/version``, ``"keras_hub:<preset>"``, a folder of a Hugging Face text model
            (``config.json``, ``model.safetensors``, vocabulary), a frozen graph of TensorFlow 1 (``.pb``), a LiteRT
            model (``.tflite``, always frozen), an ONNX model (``.onnx``), or a built Keras model.
            ``"<any of these with files>@sha256:<digest>"`` opens that content and no other, see :func:`digest`.
        output: Name of the output to use, for a model with several. For a SavedModel also the name of a block, for what
            leaves it, or ``"probabilities"`` for what a classifier gives. Defaults to the only output of floating-point
            numbers; for a SavedModel that ends in a classifier, what goes into its last layer.
        signature: Signature or saved function of a SavedModel to call. Defaults to its ``__call__``, else to the
            default signature where that takes a batch and gives floating-point numbers, else to the only one that does.
        tags: Tags of the meta graph, for a SavedModel with several.
        input_range: Values that black and white become, as ``(0, 1)`` or ``(-1, 1)``. Defaults to the values of the
            model if they are known, else assumed.
        image_size: Image size in pixels, one number or ``(height, width)``, where the backbone takes any size; a
            SavedModel of one size is opened for any if its graph is convolutions only.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics in trained blocks, right for small data; ``"train"`` lets
            them follow the new data. Only a SavedModel needs it here; for other formats, pass it to
            :func:`tfft.unfreeze`. Defaults to ``"fixed"``.
        backbone_dropout: Whether a SavedModel or a text model runs its own dropout in training. Defaults to False.
        max_length: Maximum sequence length in tokens, for text models. Defaults to 128 or the model's limit.
        pooling: How the features of all tokens become one vector, for text models. Defaults to what suits the model.
        preprocessor: Handle of the SavedModel that makes the inputs of a TF Hub encoder from texts. Defaults to the one
            that belongs to it, for those of :func:`list_backbones`.
        weights: File of weights for a network of ``keras.applications``: ``.h5`` of Keras 2, or ``.weights.h5``. The
            handle ``"keras:ResNet50:weights.h5"`` means the same. Defaults to those of ImageNet.
        constants: ``"trainable"`` makes variables of the weights that the graph of a SavedModel or a ``.pb`` file holds
            as constants, so that they can be trained. Defaults to ``"fixed"``.
        trust: Whether to open a SavedModel although the scan found operations that reach outside of it; a pin does the
            same. Defaults to False.
        per_example: Whether the inputs of a SavedModel have no batch axis, so that it is called once for each example.
            Defaults to False.
        name: Name of the backbone. Defaults to one made from the handle.

    Returns:
        The backbone. ``notes`` say what was assumed or left out; ``input_spec`` is None where the
        input is not one image.

    Raises:
        HandleError: The handle is unknown, or cannot be reached.
        SavedModelError: It is not a SavedModel, cannot be opened, or is not the one that was pinned.
        UnsafeModelError: The SavedModel could reach outside of itself.
        BackboneError: An option does not fit this format or this model; all problems are listed together.

    Example:
        >>> backbone = tfft.load_backbone("efficientnet-lite0")
        >>> [block.name for block in backbone.blocks][:3]
        ['stem', 'block0', 'block1']
    """
    require_platform()
    options = LoadOptions(
        output=output,
        signature=signature,
        tags=tags,
        input_range=input_range,
        image_size=image_size,
        batch_norm=batch_norm,
        backbone_dropout=backbone_dropout,
        max_length=max_length,
        pooling=pooling,
        preprocessor=preprocessor,
        weights=weights,
        constants=constants,
        trust=trust,
        per_example=per_example,
        name=name,
    )
    text, pin = split_pin(os.fspath(handle).strip()) if isinstance(handle, (str, os.PathLike)) else (handle, None)
    loader = find_loader(text)
    options.check(text, loader.name, loader.options)
    if weights is not None:
        text = f"{text}:{os.fspath(weights)}"  # the one form that runs, plans and pins know
    found = checked_digest(loader, text, pin)
    backbone = loader.load(text, dataclasses.replace(options, digest=found, pinned=pin is not None))
    origin = pinned(backbone.origin, pin)
    backbone = dataclasses.replace(backbone, name=name or backbone.name, digest=found or backbone.digest, origin=origin)
    return with_input_options(backbone, options)


def list_backbones(pattern: str | None = None, kind: Literal["image", "text"] | None = None) -> list[Preset]:
    """List the pretrained models that are known by a short name.

    Beside these, every name of ``keras.applications``, every SavedModel folder and every TF Hub or
    Kaggle address is a handle.

    Args:
        pattern: Part of a name, without regard to case, ``-`` and ``_``; None for all.
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
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
