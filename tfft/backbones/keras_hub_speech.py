"""Encoders of speech models of KerasHub: :func:`from_moonshine`."""

from __future__ import annotations

from typing import Any

import keras

from tfft.backbones.base import Backbone
from tfft.layers.moonshine_blocks import MoonshineEncoder, MoonshineEnd, MoonshineFront


def is_moonshine(network: Any) -> bool:
    """Whether a network of KerasHub is a Moonshine."""
    return type(network).__name__ == "MoonshineBackbone"


def from_moonshine(network: Any, name: str, origin: str) -> Backbone:
    """Make a backbone of the encoder of KerasHub's Moonshine, with the blocks ``front``, ``encoder1``, …

    It takes waveforms of 16,000 samples per second and gives 41.7 frames per second. The decoder is left out:
    ``task="transcription"`` writes characters with CTC.

    Args:
        network: ``keras_hub.models.MoonshineBackbone``.
        name: Name of the backbone.
        origin: Handle.
    """
    heads, factor = network.encoder_num_heads, network.partial_rotary_factor
    width, multiple = network.hidden_dim // heads, network.pad_head_dim_to_multiple_of
    if multiple:
        width = -(-width // multiple) * multiple
    inputs = keras.Input((None,), dtype="float32", name="waves")
    rotary = int(width * factor) // 2 * 2, float(network.rope_theta)
    state = MoonshineFront(network.conv1, network.group_norm, network.conv2, network.conv3, name="front")(inputs)
    for number, layer in enumerate(network.encoder_blocks, 1):
        state = MoonshineEncoder(layer, *rotary, name=f"encoder{number}")(*state)
    model = keras.Model(inputs, MoonshineEnd(network.encoder_final_layer_norm, name="end")(*state), name=network.name)
    note = (
        "It is the encoder alone, for 16,000 samples per second: transcripts are written with CTC, without its decoder."
    )
    return Backbone(name, model, origin, notes=(note,))
