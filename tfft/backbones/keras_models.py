"""Keras models as backbones: ``keras.applications``, KerasHub presets, and any model of the user's.

Hides what each family does to pixels. A :class:`~tfft.specs.InputSpec` cannot say "blue first, minus
the means", so for the networks that want it a small layer inside the model does it.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfft.backbones.catalog import APPLICATIONS, Application, find_application, plain
from tfft.errors import BackboneError, HandleError, did_you_mean, listed, missing_package, require_platform
from tfft.specs import InputSpec

require_platform()
import keras  # noqa: E402  (the check above gives a better message than the import)

from tfft.backbones.base import BACKBONE_LAYER, PREPROCESS_LAYER, Backbone  # noqa: E402
from tfft.backbones.fetch.remote import impatient  # noqa: E402
from tfft.backbones.formats.keras_file import load_keras_file  # noqa: E402
from tfft.keras_compat import build_shapes  # noqa: E402

RANDOM = ":random"
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_WEIGHTS_HOST = "storage.googleapis.com"


@keras.saving.register_keras_serializable(package="tfft")
class CaffePixels(keras.layers.Layer):
    """Turns RGB pixels in 0 to 255 into what networks trained with Caffe want: BGR minus the means.

    Has no variables; ResNet and VGG of ``keras.applications`` get it as their first layer.

    Args:
        means: of ImageNet's blue, green and red, subtracted in this order.
        **kwargs: of every Keras layer.
    """

    def __init__(self, means: Sequence[float] = (103.939, 116.779, 123.68), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.means = tuple(float(mean) for mean in means)

    def call(self, inputs: Any) -> Any:
        """Maps ``[batch, height, width, 3]`` to the same shape."""
        blue_first = keras.ops.flip(inputs, axis=-1)
        return blue_first - keras.ops.convert_to_tensor(self.means, dtype=blue_first.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments that make this layer again."""
        return {**super().get_config(), "means": list(self.means)}


def from_applications(name: str, weights: str | None = "imagenet", *, backbone_name: str | None = None) -> Backbone:
    """Makes a network of ``keras.applications`` a backbone: without its classifier, features averaged.

    Args:
        name: as ``"MobileNetV2"``, ``"mobilenet_v2"`` or ``"keras:mobilenet-v2"``; with ``":random"``
            at its end the weights are random, which needs no network.
        weights: ``"imagenet"`` (downloaded once into ``~/.keras``), None for random ones, or the
            path of a ``.weights.h5`` file for the network without its classifier.
        backbone_name: of the backbone; the network's own name by default.

    Returns:
        A backbone whose model maps ``[batch, height, width, 3]`` to ``[batch, features]``, for any
        image size, with the InputSpec of the network's family.

    Raises:
        HandleError: there is no such network, or its weights are out of reach.

    Example:
        >>> from_applications("MobileNetV2").input_spec.value_range
        (-1.0, 1.0)
    """
    short = name.removeprefix("keras:")
    if short.lower().endswith(RANDOM):
        short, weights = short[: -len(RANDOM)], None
    app = find_application(short)
    if app is None:
        names = [app.name for app in APPLICATIONS]
        raise HandleError(
            f"keras.applications has no network {short!r}.{did_you_mean(short, names)} "
            f"It has: {listed(names, limit=50)}."
        )
    model = _build(app, weights, backbone_name or app.name.lower())
    notes = () if weights else ("The weights are random, not pretrained.",)
    return Backbone(model.name, model, f"keras:{app.name}{'' if weights else RANDOM}", _spec(app), notes)


def _build(app: Application, weights: str | None, name: str) -> keras.Model:
    image = keras.Input((None, None, 3), name="image")
    first = CaffePixels(name="caffe_pixels")(image) if app.scaling == "means" else image
    make = getattr(keras.applications, app.name)
    with warnings.catch_warnings():
        # MobileNets say which size's weights they take where the input has none.
        warnings.filterwarnings("ignore", message=".*input_shape. is undefined")
        if weights != "imagenet" or _weights_cached(app):
            return _one_input(make(include_top=False, weights=weights, input_tensor=first, pooling="avg", name=name))
        try:
            with impatient(_WEIGHTS_HOST):
                return _one_input(
                    make(include_top=False, weights=weights, input_tensor=first, pooling="avg", name=name)
                )
        except Exception as error:
            if not isinstance(error, OSError) and "URL fetch failure" not in str(error):
                raise
            raise HandleError(
                f"The ImageNet weights of {app.name} could not be downloaded from {_WEIGHTS_HOST}: {error}. "
                "Without a network: copy ~/.keras/models from a machine where this worked (KERAS_HOME names another "
                f"folder), take random weights with 'keras:{app.name}{RANDOM}', or take 'efficientnet-lite0', "
                "which needs no network."
            ) from error


def _weights_cached(app: Application) -> bool:
    """Whether Keras has a weight file that looks like this network's; then it needs no server."""
    home = os.environ.get("KERAS_HOME")
    folder = (Path(home) if home else Path.home() / ".keras") / "models"
    return folder.is_dir() and any(plain(app.name) in plain(p.name) for p in folder.glob("*.h5"))


def _spec(app: Application) -> InputSpec:
    spec = InputSpec(height=app.size, width=app.size, flexible=True, source=f"keras.applications, {app.name}")
    if app.scaling == "symmetric":
        return dataclasses.replace(spec, value_range=(-1, 1))
    if app.scaling == "standardised":
        return dataclasses.replace(spec, value_range=(0, 1), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    what = "it rescales pixels itself" if app.scaling == "inside" else "a layer in the model subtracts the means"
    return dataclasses.replace(spec, value_range=(0, 255), source=f"{spec.source}: {what}")


def from_keras_model(
    model: keras.Model,
    *,
    output: str | None = None,
    name: str | None = None,
    origin: str = "keras.Model",
) -> Backbone:
    """Makes any built Keras model a backbone.

    Use it for a model of your own, or one that another library built. What it expects of pixels
    cannot be read off a model: it is assumed and said in ``input_spec.source`` and in the notes, and
    ``load_backbone(model, input_range=...)`` sets it.

    Args:
        model: functional, Sequential or subclassed; it must be built.
        output: name of the output to use, for a functional model with several.
        name: of the backbone; the model's by default.
        origin: where it comes from, in words.

    Returns:
        A backbone around the same layers and variables: nothing is copied. ``input_spec`` is None
        where the input is not one image.

    Raises:
        BackboneError: the model is not built, has no weights, or an output must be chosen.

    Example:
        >>> inputs = keras.Input((32, 32, 3))
        >>> features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3)(inputs))
        >>> from_keras_model(keras.Model(inputs, features)).input_spec.image_size
        (32, 32)
    """
    if not isinstance(model, keras.Model):
        raise BackboneError(
            f"Expected a handle (a name, folder or address) or a keras.Model of Keras {keras.__version__}, received "
            f"{type(model).__module__}.{type(model).__name__}.{_legacy_hint(model)}"
        )
    if output is None and _built_by_tfft(model):
        inner, spec = model.get_layer(BACKBONE_LAYER), model.get_layer(PREPROCESS_LAYER).spec
        return Backbone(
            name or model.name, inner, origin, spec, ("The backbone of a tfft model; its head is left out.",)
        )
    functional = _choose_output(_as_functional(model), output)
    if not functional.weights:
        raise BackboneError(f"The model {model.name!r} has no weights: there is nothing in it to transfer.")
    notes: list[str] = []
    spec = image_spec(functional)
    if spec is not None and spec.value_range == (0, 1):
        inside = _rescaling_inside(functional)
        if inside:
            spec = dataclasses.replace(spec, value_range=(0, 255))
            source = f"assumed: [0, 255], since the layer {inside!r} rescales pixels inside the model"
        else:
            source = "assumed: [0, 1], since no layer of the model rescales pixels"
        spec = dataclasses.replace(spec, source=source)
        notes.append(f"The pixel range is {source}. input_range= sets another.")
    softmax = _softmax_at_end(functional)
    if softmax:
        notes.append(f"The model ends in the classifier {softmax!r}: features are usually taken before it.")
    return Backbone(name or model.name, functional, origin, spec, tuple(notes))


def _built_by_tfft(model: keras.Model) -> bool:
    layers = {layer.name: layer for layer in model.layers}
    return BACKBONE_LAYER in layers and hasattr(layers.get(PREPROCESS_LAYER), "spec")


def _legacy_hint(model: object) -> str:
    legacy = type(model).__module__.startswith(("tf_keras", "tensorflow.python.keras")) or any(
        base.__module__.startswith("tf_keras") for base in type(model).__mro__
    )
    return " It is a Keras 2 model: save it with model.export(folder) and load that folder." if legacy else ""


def _as_functional(model: keras.Model) -> keras.Model:
    if not model.built:
        raise BackboneError(
            f"The model {model.name!r} is not built: its weights do not exist yet. Call it once on a batch of data, or "
            "give it an Input layer, before it becomes a backbone."
        )
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if getattr(model, "inputs", None):
        return _one_input(model)
    shapes = build_shapes(model)
    if len(shapes) != 1 or not isinstance(shapes[0], (tuple, list)):
        raise BackboneError(
            f"The subclassed model {model.name!r} does not tell the shape of its input. Make it functional: "
            f"inputs = keras.Input(shape); tfft.load_backbone(keras.Model(inputs, model(inputs)))."
        )
    inputs = keras.Input(tuple(shapes[0])[1:], name="inputs")
    return keras.Model(inputs, model(inputs), name=model.name)


def _one_input(model: keras.Model) -> keras.Model:
    """A model that was given its one input in a list warns at every call with a plain tensor."""
    if isinstance(model.input, (list, tuple)) and len(model.inputs) == 1:
        return keras.Model(model.inputs[0], model.output, name=model.name)
    return model


def _choose_output(model: keras.Model, output: str | None) -> keras.Model:
    named = dict(zip(model.output_names, model.outputs, strict=True))
    if isinstance(model.output, dict):
        named = dict(model.output)
    shown = listed(f"{key!r} {tuple(tensor.shape)}" for key, tensor in named.items())
    if output is None and len(named) == 1:
        return model
    if output is None:
        raise BackboneError(
            f"The model {model.name!r} has {len(named)} outputs: choose one with output=. It has {shown}."
        )
    if output not in named:
        raise BackboneError(
            f"The model {model.name!r} has no output {output!r}.{did_you_mean(output, named)} It has {shown}."
        )
    return model if len(named) == 1 else keras.Model(model.input, named[output], name=model.name)


def image_spec(model: keras.Model) -> InputSpec | None:
    """Returns what can be read off a model whose only input is one batch of images, else None.

    That is the size (224 where it is free) and the channels; the range is the TF Hub convention.
    """
    if len(model.inputs) != 1:
        return None
    shape, dtype = tuple(model.inputs[0].shape), keras.backend.standardize_dtype(model.inputs[0].dtype)
    floating = dtype.startswith("float") or dtype == "bfloat16"
    if len(shape) != 4 or shape[3] not in (1, 3, 4) or not (floating or dtype == "uint8"):
        return None
    spec = InputSpec(
        height=shape[1] or 224,
        width=shape[2] or 224,
        channels=shape[3],
        flexible=shape[1] is None and shape[2] is None,
    )
    if floating:
        return spec
    return dataclasses.replace(spec, value_range=(0, 255), source="[0, 255], since the model takes uint8 pixels")


def _rescaling_inside(model: keras.Model) -> str:
    """The name of a layer among the first few that rescales pixels, or an empty text."""
    first: list[keras.layers.Layer] = []
    for layer in model.layers:
        nested = layer.layers if isinstance(layer, keras.Model) else [layer]
        first += [inner for inner in nested if not isinstance(inner, keras.layers.InputLayer)]
    kinds = (keras.layers.Rescaling, keras.layers.Normalization, CaffePixels)
    return next((layer.name for layer in first[:3] if isinstance(layer, kinds)), "")


def _softmax_at_end(model: keras.Model) -> str:
    last = model.layers[-1]
    return last.name if getattr(last, "activation", None) is keras.activations.softmax else ""


def from_keras_file(path: Path, *, output: str | None = None, name: str | None = None) -> Backbone:
    """Opens a ``.keras`` file as a backbone, with Keras' safe mode on.

    Args:
        path: the file.
        output: as for :func:`from_keras_model`.
        name: as for :func:`from_keras_model`.

    Returns:
        The backbone.

    Raises:
        UnsafeModelError: a block in it may reach outside of it.
        BackboneError: Keras cannot load it, for instance since its custom classes are not imported.
    """
    model = load_keras_file(path)
    return from_keras_model(model, output=output, name=name or path.stem, origin=str(path))


def from_keras_hub(preset: str, *, name: str | None = None, dropout: bool = False, **text: Any) -> Backbone:
    """Makes a KerasHub preset a backbone.

    Args:
        preset: as ``keras_hub.models.Backbone.from_preset`` takes it: ``"resnet_50_imagenet"``, a
            folder, ``"kaggle://..."`` or ``"hf://..."``.
        name: of the backbone; made from the preset by default.
        dropout: True keeps the dropout of a text model in training.
        **text: ``max_length`` and ``pooling`` of a text model.

    Returns:
        The backbone. For image presets the pixels are scaled as the preset's own converter does it.

    Raises:
        DependencyError: the package keras-hub is missing.
        HandleError: the preset is unknown or out of reach.
    """
    try:
        keras_hub = importlib.import_module("keras_hub")
    except ImportError:
        missing_package("keras-hub", f"The KerasHub preset {preset!r}", "pip install keras-hub")
    if _has_tokenizer(keras_hub, preset):
        from tfft.backbones import keras_hub_text

        return keras_hub_text.from_preset(preset, name=name, dropout=dropout, **text)
    given = [key for key, value in text.items() if value is not None]
    if given:
        raise BackboneError(f"{given[0]}= is for models with a tokenizer, and the preset {preset!r} has none.")
    try:
        model = keras_hub.models.Backbone.from_preset(preset)
    except Exception as error:  # kagglehub, huggingface_hub and Keras each raise their own
        raise HandleError(f"KerasHub cannot load the preset {preset!r}: {str(error).strip() or error!r}") from error
    short = name or Path(preset).name.replace(":", "_")
    backbone = from_keras_model(model, name=short, origin=f"keras_hub:{preset}")
    if backbone.input_spec is None:
        return backbone
    try:
        converter = keras_hub.layers.ImageConverter.from_preset(preset)
    except ValueError:  # a preset without one
        return backbone
    return Backbone(short, backbone.model, backbone.origin, _converted(backbone.input_spec, converter))


def _has_tokenizer(keras_hub: Any, preset: str) -> bool:
    try:
        return keras_hub.tokenizers.Tokenizer.from_preset(preset) is not None
    except Exception:  # each of its loaders raises its own; what is wrong with the preset is told when it is opened
        return False


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
