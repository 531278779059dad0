"""Layers that hold layers of KerasHub, or of tfft: :class:`HeldLayer`, :class:`HeldBlock`, :func:`deserialized`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfft.layers.transformer_blocks import State, specs_of


def deserialized(value: Any) -> Any:
    """Return a layer that was given, or that of its config, as in a ``.keras`` file."""
    return keras.saving.deserialize_keras_object(value) if isinstance(value, Mapping) else value


class HeldLayer(keras.layers.Layer):
    """Base class for a layer around another one, which its config holds.

    Args:
        layer: The layer inside, or its config.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, layer: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = deserialized(layer)

    def build(self, *shapes: Any) -> None:
        """Create the variables, unless the layer has its own."""
        if not self.layer.built:
            self.layer.build(shapes[0])
        self.built = True

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}


class HeldBlock(HeldLayer):
    """Base class for a block of KerasHub that works on one part of the state of an encoder-decoder.

    The state is that of :mod:`tfft.layers.transformer_blocks`.
    """

    def compute_output_spec(self, source: Any, mask: Any, target: Any, matrix: Any, **kwargs: Any) -> State:
        """Return the specs of the state, which keeps its shapes."""
        return specs_of(source, mask, target, matrix)
