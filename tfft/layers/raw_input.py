"""Base class of the layers between raw examples and a network: :class:`RawInput`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfft.specs import AudioSpec, InputSpec


class RawInput(keras.layers.Layer):
    """Layer that makes inputs of a network from raw examples: pixels, waveforms or texts.

    tfft runs such layers in the input pipeline where the network behind them is frozen, and leaves them out of the
    conversion to LiteRT. A modality of your own can derive its layer from this class.

    Attributes:
        spec: Size and scaling of the images that it makes; None if it takes no images.
        audio: Sample rate and clip length of the waveforms that it takes; None if it takes none.
        mask: Name of the output that is 1 for tokens and 0 for padding; None if it takes no texts.
    """

    spec: InputSpec | None = None
    audio: AudioSpec | None = None
    mask: str | None = None

    def settings_without_names(self) -> dict[str, Any]:
        """Return ``get_config()`` without the names of layers inside, which differ between equal layers."""
        return {name: _nameless(value) for name, value in self.get_config().items()}


def _nameless(config: Any) -> Any:
    """Remove values that differ between instances or calls of a layer from nested settings."""
    if isinstance(config, Mapping):
        own = ("name", "trainable") if {"name", "trainable"} <= config.keys() else ()
        return {k: _nameless(v) for k, v in config.items() if k not in (*own, "build_config")}
    return [_nameless(v) for v in config] if isinstance(config, list) else config
