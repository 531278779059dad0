"""Any built Keras model, or a ``.keras`` file of one, as a backbone: :func:`from_keras_model`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tfft.errors import BackboneError, did_you_mean, join_names, require_platform
from tfft.keras_compat import build_shapes
from tfft.specs import InputSpec

require_platform()
import keras  # noqa: E402  (the check above gives a better message than the import)

from tfft.backbones.applications import application_spec, note_on_means, recognized  # noqa: E402
from tfft.backbones.base import BACKBONE_LAYER, PREPROCESS_LAYER, Backbone  # noqa: E402
from tfft.backbones.formats.keras2_file import load_h5_model  # noqa: E402
from tfft.backbones.formats.keras_file import load_keras_file  # noqa: E402
from tfft.layers.caffe_pixels import CaffePixels  # noqa: E402


def from_keras_model(
    model: keras.Model,
    *,
    output: str | None = None,
    name: str | None = None,
    origin: str = "keras.Model",
) -> Backbone:
    """Open any built Keras model as a backbone.

    Use it for a model of your own, or one that another library built. What it expects of pixels
    cannot be read off a model, except for those of ``keras.applications``, which are recognized by their names: it is
    assumed and said in ``input_spec.source`` and in the notes, and ``load_backbone(model, input_range=...)`` sets it.

    Args:
        model: Functional, Sequential or subclassed; it must be built.
        output: Name of the output to use, for a functional model with several.
        name: Name of the backbone; the model's by default.
        origin: Where it comes from, in words.

    Returns:
        A backbone around the same layers and variables: nothing is copied. ``input_spec`` is None
        where the input is not one image.

    Raises:
        BackboneError: The model is not built, has no weights, or an output must be chosen.

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
        inner, spec = model.get_layer(BACKBONE_LAYER), getattr(_layer(model, PREPROCESS_LAYER), "spec", None)
        return Backbone(
            name or model.name, inner, origin, spec, ("The backbone of a tfft model; its head is left out.",)
        )
    functional = _choose_output(_as_functional(model), output)
    if not functional.weights:
        raise BackboneError(f"The model {model.name!r} has no weights: there is nothing in it to transfer.")
    notes: list[str] = []
    spec = image_spec(functional)
    app = None if spec is None else recognized(functional)
    if spec is not None and app is not None and app.scaling in ("symmetric", "standardized"):
        known = application_spec(app)
        source = f"{known.source}, by the name and the first layers of the model"
        spec = dataclasses.replace(spec, value_range=known.value_range, mean=known.mean, std=known.std, source=source)
        notes.append(f"The pixel range is that of {source}. input_range= sets another.")
    elif spec is not None and spec.value_range == (0, 1):
        inside = _rescaling_inside(functional)
        if inside:
            spec = dataclasses.replace(spec, value_range=(0, 255))
            source = f"assumed: [0, 255], since the layer {inside!r} rescales pixels inside the model"
        else:
            source = "assumed: [0, 1], since no layer of the model rescales pixels"
        spec = dataclasses.replace(spec, source=source)
        notes.append(f"The pixel range is {source}. input_range= sets another.")
    if app is not None and app.scaling == "means":
        notes.append(note_on_means(app))
    softmax = _softmax_at_end(functional)
    if softmax:
        notes.append(f"The model ends in the classifier {softmax!r}: features are usually taken before it.")
    return Backbone(name or model.name, functional, origin, spec, tuple(notes))


def _built_by_tfft(model: keras.Model) -> bool:
    keeps = any(getattr(layer, "keeps_backbone", False) for layer in model.layers)
    return _layer(model, BACKBONE_LAYER) is not None and (keeps or hasattr(_layer(model, PREPROCESS_LAYER), "spec"))


def _layer(model: keras.Model, name: str) -> keras.layers.Layer | None:
    return next((layer for layer in model.layers if layer.name == name), None)


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
        return with_plain_input(model)
    shapes = build_shapes(model)
    if len(shapes) != 1 or not isinstance(shapes[0], (tuple, list)):
        raise BackboneError(
            f"The subclassed model {model.name!r} has no known input shape. Make it functional: "
            "inputs = keras.Input(shape); tfft.load_backbone(keras.Model(inputs, model(inputs)))."
        )
    inputs = keras.Input(tuple(shapes[0])[1:], name="inputs")
    return keras.Model(inputs, model(inputs), name=model.name)


def _choose_output(model: keras.Model, output: str | None) -> keras.Model:
    named = dict(zip(model.output_names, model.outputs, strict=True))
    if isinstance(model.output, dict):
        named = dict(model.output)
    shown = join_names(f"{key!r} {tuple(tensor.shape)}" for key, tensor in named.items())
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


def with_plain_input(model: keras.Model) -> keras.Model:
    """Return a model that takes its one input as a plain tensor; given in a list, Keras warns at every call."""
    if isinstance(model.input, (list, tuple)) and len(model.inputs) == 1:
        return keras.Model(model.inputs[0], model.output, name=model.name)
    return model


def image_spec(model: keras.Model) -> InputSpec | None:
    """Return the input spec of a model whose only input is one batch of images, else None.

    That is the size (224 where it is free) and the channels; the range is the TF Hub convention.
    """
    if len(model.inputs) != 1:
        return None
    shape, dtype = tuple(model.inputs[0].shape), keras.backend.standardize_dtype(model.inputs[0].dtype)
    floating = dtype.startswith("float") or dtype == "bfloat16"
    if len(shape) != 4 or shape[3] not in (1, 3) or not (floating or dtype == "uint8"):
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
    """Open a ``.keras`` or an ``.h5`` file as a backbone, with Keras' safe mode on.

    Args:
        path: The file.
        output: As for :func:`from_keras_model`.
        name: As for :func:`from_keras_model`.

    Returns:
        The backbone.

    Raises:
        UnsafeModelError: A block in it may reach outside of it.
        BackboneError: Keras cannot load it, for instance since its custom classes are not imported.
    """
    model = load_keras_file(path) if path.suffix == ".keras" else load_h5_model(path)
    return from_keras_model(model, output=output, name=name or path.stem, origin=str(path))
