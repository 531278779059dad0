"""KerasHub presets of image models as backbones: :func:`from_image_preset`."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from tfft.backbones.base import Backbone
from tfft.backbones.keras_hub_speech import from_moonshine, is_moonshine
from tfft.backbones.keras_model import from_keras_model
from tfft.errors import HandleError, missing_package
from tfft.specs import InputSpec


def from_image_preset(preset: str, *, name: str | None = None) -> Backbone:
    """Open a KerasHub preset of an image model as a backbone.

    Args:
        preset: As ``keras_hub.models.Backbone.from_preset`` takes it: ``"resnet_50_imagenet"``, a folder,
            ``"kaggle://..."`` or ``"hf://..."``.
        name: Name of the backbone. Defaults to one made from the preset.

    Returns:
        The backbone; pixels are scaled as the preset's own converter does it.

    Raises:
        DependencyError: The package keras-hub is missing.
        HandleError: The preset is unknown or out of reach.
    """
    keras_hub = _keras_hub(preset)
    try:
        model = keras_hub.models.Backbone.from_preset(preset)
    except Exception as error:  # kagglehub, huggingface_hub and Keras each raise their own
        raise HandleError(f"KerasHub cannot load the preset {preset!r}: {str(error).strip() or error!r}") from error
    short = name or Path(preset).name.replace(":", "_")
    if is_moonshine(model):
        return from_moonshine(model, None, short, f"keras_hub:{preset}")
    backbone = from_keras_model(model, name=short, origin=f"keras_hub:{preset}")
    if backbone.input_spec is None:
        return backbone
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except ValueError:  # a preset without one
        return backbone
    return Backbone(short, backbone.model, backbone.origin, _converted(backbone.input_spec, converter))


def has_tokenizer(preset: str) -> bool:
    """Return whether a KerasHub preset is a text model.

    Raises:
        DependencyError: The package keras-hub is missing.
    """
    keras_hub = _keras_hub(preset)
    try:
        return read_tokenizer(keras_hub, preset) is not None
    except Exception:  # each of its loaders raises its own; what is wrong with the preset is told when it is opened
        return False


def read_tokenizer(keras_hub: Any, preset: str) -> Any:
    """Return the tokenizer of a KerasHub preset.

    That of Moonshine names the backbone of Llama as its own (keras-hub 0.32), so that KerasHub does not find it.

    Args:
        keras_hub: The package.
        preset: As in :func:`from_image_preset`.

    Raises:
        ValueError: If it has none; other errors as its loaders raise them.
    """
    try:
        return keras_hub.tokenizers.Tokenizer.from_preset(preset)
    except ValueError:
        usual, family = keras_hub.tokenizers.MoonshineTokenizer, keras_hub.models.MoonshineBackbone
        known: Any = type("MoonshineVocabulary", (usual,), {"backbone_cls": family})
        found = known.from_preset(preset)
        return found if type(found) is usual else usual(found.proto)  # a class that a saved model can name


def _keras_hub(preset: str) -> Any:
    try:
        return importlib.import_module("keras_hub")
    except ImportError:
        missing_package("keras-hub", f"The KerasHub preset {preset!r}", "pip install keras-hub")


def _converted(spec: InputSpec, converter: Any) -> InputSpec:
    """The pixel range that a KerasHub converter makes: ``pixel * scale + offset``, per channel or not."""
    height, width = converter.image_size or spec.image_size
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    values = {**spec.to_dict(), "source": "the preset's own ImageConverter"}
    if spec.flexible:
        values.update(height=height, width=width)
    if isinstance(scale, (int, float)) and isinstance(offset, (int, float)):
        values["value_range"] = (offset, 255 * scale + offset)
    else:
        scales = [scale] * spec.channels if isinstance(scale, (int, float)) else list(scale)
        offsets = [offset] * spec.channels if isinstance(offset, (int, float)) else list(offset)
        values["value_range"] = (0.0, 1.0)
        values["std"] = [1 / (255 * s) for s in scales]
        values["mean"] = [-o / (255 * s) for s, o in zip(scales, offsets, strict=True)]
    return InputSpec(**values)
