"""Speech models of KerasHub: :func:`from_moonshine`."""

from __future__ import annotations

from typing import Any

import keras

from tfft.backbones.base import Backbone, EncoderDecoder
from tfft.backbones.keras_hub_pairs import check_vocabulary, text_length
from tfft.layers.moonshine_blocks import MoonshineEncoder, MoonshineEnd, MoonshineFront
from tfft.layers.moonshine_decoder import MoonshineDecoder, MoonshineEmbeddings
from tfft.layers.pair_tokenizer import TargetTokenizer
from tfft.layers.transformer_blocks import TiedLogits

_USUAL = 256  # tokens of a transcript unless max_length says otherwise: half a minute of fast speech


def is_moonshine(network: Any) -> bool:
    """Whether a network of KerasHub is a Moonshine."""
    return type(network).__name__ == "MoonshineBackbone"


def from_moonshine(network: Any, tokenizer: Any, name: str, origin: str, max_length: int | None = None) -> Backbone:
    """Make a backbone of the encoder of KerasHub's Moonshine, with the blocks ``front``, ``encoder1``, …

    It takes waveforms of 16,000 samples per second and gives 41.7 frames per second. With its decoder
    (:meth:`tfft.backbones.Backbone.with_decoder`) it has the further blocks ``embeddings``, ``decoder1``, … All share
    the variables of the given network.

    Args:
        network: ``keras_hub.models.MoonshineBackbone``.
        tokenizer: Its tokenizer; None leaves the decoder out.
        name: Name of the backbone.
        origin: Handle.
        max_length: Most tokens of a transcript. Defaults to 256, or what the model takes if that is less.

    Raises:
        BackboneError: For a vocabulary of another model, or a length out of range.
    """
    waves = keras.Input((None,), dtype="float32", name="waves")
    rotary = _rotary(network, network.encoder_num_heads)
    state = MoonshineFront(network.conv1, network.group_norm, network.conv2, network.conv3, name="front")(waves)
    for number, layer in enumerate(network.encoder_blocks, 1):
        state = MoonshineEncoder(layer, *rotary, name=f"encoder{number}")(*state)
    features = MoonshineEnd(network.encoder_final_layer_norm, name="end")(*state)
    encoder = keras.Model(waves, features, name=network.name)
    note = "It takes 16,000 samples per second."
    if tokenizer is None:
        return Backbone(name, encoder, origin, notes=(f"{note} It has no vocabulary, so its decoder is left out.",))
    limit = int(network.max_position_embeddings)
    length = text_length(max_length, limit, _USUAL, origin)
    check_vocabulary(tokenizer, network, origin)
    target = TargetTokenizer(
        tokenizer, start=(tokenizer.start_token_id,), end=tokenizer.end_token_id, target_length=length, name="tokens"
    )
    said = f"{note} At most {length} tokens of a transcript are used; the decoder takes up to {limit}."
    whole = EncoderDecoder(_with_decoder(network, waves, features), target, (said,))
    return Backbone(name, encoder, origin, notes=(note,), encoder_decoder=whole)


def _with_decoder(network: Any, waves: Any, features: Any) -> keras.Model:
    """Return a chain from waveforms and tokens to logits of the next tokens; the encoder is that of the features."""
    ids = keras.Input((None,), dtype="int32", name="decoder_token_ids")
    state = MoonshineEmbeddings(network.token_embedding, network.dropout, name="embeddings")(features, ids)
    rotary = _rotary(network, network.decoder_num_heads)
    for number, layer in enumerate(network.decoder_blocks, 1):
        norm = network.decoder_post_norm if number == len(network.decoder_blocks) else None
        state = MoonshineDecoder(layer, *rotary, norm, name=f"decoder{number}")(*state)
    logits = TiedLogits(name="logits_of_matrix")(*state)
    return keras.Model({"waves": waves, "decoder_token_ids": ids}, logits, name=network.name)


def _rotary(network: Any, heads: int) -> tuple[int, float]:
    """Return how many features of a head positions rotate, and the base of their wavelengths."""
    width, multiple = network.hidden_dim // heads, network.pad_head_dim_to_multiple_of
    if multiple:
        width = -(-width // multiple) * multiple
    return int(width * network.partial_rotary_factor) // 2 * 2, float(network.rope_theta)
