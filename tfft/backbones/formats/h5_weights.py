"""Weights of an HDF5 file put into a network of Keras: :func:`assign_weights`."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from tfft.backbones.formats.h5_file import opened_h5, read_layers
from tfft.errors import BackboneError


def assign_weights(model: keras.Model, path: Path) -> None:
    """Put the weights of a file into a network; a classifier at the end of the file is left out.

    Args:
        model: The network without its classifier.
        path: ``.h5`` of Keras 2 (weights or a whole model) or ``.weights.h5`` of Keras 3.

    Raises:
        UnsafeModelError: The file leads outside of itself, or declares far more than it holds.
        BackboneError: It is damaged, or its weights are of another network.
    """
    with opened_h5(path) as file:
        stored = read_layers(file)
    if stored is None:
        _load_keras3(model, path)
        return
    layers = [layer for layer in model.layers if layer.weights]
    if len(stored) < len(layers):
        raise BackboneError(
            f"Expected weights of {model.name!r}, which has {len(layers)} layers with weights. Received: {path} with "
            f"{len(stored)}. Name the network that the weights belong to."
        )
    # Names may differ, so the order counts; what comes behind the last layer is a classifier.
    first = dict(stored[: len(layers)])
    if {layer.name for layer in layers} == set(first):
        pairs = [(layer, layer.name, first[layer.name]) for layer in layers]
    else:
        pairs = [(layer, name, arrays) for layer, (name, arrays) in zip(layers, stored, strict=False)]
    chosen = [(layer, _fitting(model, layer, name, arrays, path)) for layer, name, arrays in pairs]
    for layer, values in chosen:  # only now: a network is filled wholly or not at all
        for variable, value in zip(layer.weights, values, strict=True):
            variable.assign(value)


def _fitting(
    model: keras.Model, layer: keras.layers.Layer, name: str, arrays: dict[str, np.ndarray], path: Path
) -> list[np.ndarray]:
    """The arrays of a layer in the order of its weights: by their names, which differ in scopes only, else by order."""
    values = list(arrays.values())
    for depth in (1, 2):
        known = {_tail(key.split(":")[0], depth): value for key, value in arrays.items()}
        wanted = [_tail(variable.path, depth) for variable in layer.weights]
        if len(known) == len(arrays) and len(set(wanted)) == len(wanted) and set(wanted) <= set(known):
            values = [known[key] for key in wanted]
            break
    ours = [tuple(variable.shape) for variable in layer.weights]
    theirs = [value.shape for value in values]
    if ours != theirs:
        raise BackboneError(
            f"{path} does not hold weights of {model.name!r}: its layer {layer.name!r} has the shapes {ours}. "
            f"Received: {theirs} ({name!r}). Name the network that the weights belong to."
        )
    return values


def _tail(path: str, depth: int) -> str:
    return "/".join(path.split("/")[-depth:])


def _load_keras3(model: keras.Model, path: Path) -> None:
    if not path.name.endswith(".weights.h5"):
        raise BackboneError(
            f"{path} holds no layers with names. Expected an .h5 file of Keras 2; a file of Keras 3 has to be called "
            "something.weights.h5."
        )
    try:
        model.load_weights(path)
    except Exception as error:  # Keras raises a dozen classes for another network
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(f"{path} does not hold weights of {model.name!r}: {said[:300]}") from error
