"""Questions about Keras layers that Keras has no public answer to: what a layer owns, what is a normalization."""

from __future__ import annotations

import re
from collections.abc import Iterator

import keras
from keras.src.models.functional import Functional, functional_like_constructor  # no public names

_NORM_CLASS = re.compile(r"norm", re.I)
_NOT_NORM = (keras.layers.Normalization, keras.layers.SpectralNormalization)
STATISTIC = re.compile(r"(moving|running)_(mean|var)", re.I)


def flatten(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all layers inside it, each once."""
    return list(layer._flatten_layers())  # Keras lists a layer's own sublayers only here


def set_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Sets the flag of a layer, of all layers inside it and of all their variables.

    Assigning a value that the flag already has does nothing at all in Keras on TensorFlow, so
    ``backbone.trainable = True`` leaves layers frozen that were frozen one by one: go there and back.
    """
    layer.trainable = not value
    layer.trainable = value


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer that belong to none of its sublayers, without random state."""
    inner = {id(v) for sub in layer._flatten_layers(include_self=False) for v in sub.weights}
    return [v for v in layer.weights if id(v) not in inner]


def is_norm(layer: keras.layers.Layer) -> bool:
    """Tells whether a layer normalizes features (batch, layer, group, RMS, ... by its class name)."""
    return bool(_NORM_CLASS.search(type(layer).__name__)) and not isinstance(layer, _NOT_NORM)


def batch_norms(layer: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """Returns the BatchNormalization layers in a layer, itself included."""
    return [sub for sub in flatten(layer) if isinstance(sub, keras.layers.BatchNormalization)]


def has_statistics(layer: keras.layers.Layer) -> bool:
    """Tells whether a block of a SavedModel holds running statistics, by its variables' names."""
    names = getattr(layer, "variable_names", ()) or [v.path for v in layer.weights]
    return any(STATISTIC.search(name) for name in names)


def configured(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields the layers whose ``trainable`` flag Keras writes into a ``.keras`` file.

    That is the layer itself and, if it is a graph of layers, those of the graph; the parts of any
    other composite layer are rebuilt by its constructor, with the flag of the whole.
    """
    yield layer
    if isinstance(layer, keras.Model):
        for sub in layer.layers:
            yield from configured(sub)


def written_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yields a model and the layers in it whose class and settings a ``.keras`` file of the model holds.

    Those are the layers of graphs of layers. A model with a constructor of its own, and any other composite
    layer, makes its parts anew when it is loaded, whatever became of them.
    """
    yield layer
    cls = type(layer)
    graph = cls.get_config is Functional.get_config and functional_like_constructor(cls)
    if graph or cls.get_config is keras.Sequential.get_config:
        for sub in layer.layers:
            yield from written_layers(sub)
