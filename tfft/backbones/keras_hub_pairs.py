"""Encoder-decoders of KerasHub that write texts: :func:`from_bart`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from tfft.backbones.base import Backbone
from tfft.backbones.huggingface import read_json
from tfft.errors import BackboneError, HandleError, raise_problems
from tfft.layers.bart_blocks import BartDecoder, BartEmbeddings, BartEncoder
from tfft.layers.pair_tokenizer import NETWORK_INPUTS, PairTokenizer
from tfft.layers.transformer_blocks import TiedLogits
from tfft.specs import TextSpec

_USUAL = 128  # tokens of a text unless max_length says otherwise


def is_encoder_decoder(network: Any) -> bool:
    """Whether a network of KerasHub reads one text and writes another."""
    return isinstance(network.input, dict) and "decoder_token_ids" in network.input


def check_bart(folder: Path) -> None:
    """Refuse a Hugging Face folder of a BART that KerasHub would open as another model.

    KerasHub gives the decoder the number and sizes of layers of the encoder, and does not scale embeddings.

    Args:
        folder: Any folder; only the settings of a BART are looked at.

    Raises:
        HandleError: With all settings at fault.
    """
    config = read_json(folder / "config.json")
    if config.get("model_type") != "bart":
        return
    problems = [
        f"decoder_{one} is {config.get(f'decoder_{one}')!r} and encoder_{one} {config.get(f'encoder_{one}')!r}"
        for one in ("layers", "ffn_dim", "attention_heads")
        if config.get(f"decoder_{one}") != config.get(f"encoder_{one}")
    ]
    if config.get("scale_embedding"):
        problems.append("scale_embedding is True, expected False")
    if config.get("activation_function", "gelu") != "gelu":
        problems.append(f"activation_function is {config['activation_function']!r}, expected 'gelu'")
    raise_problems(HandleError, f"KerasHub cannot hold the BART in {folder}; take another, such as bart-base", problems)


def from_bart(network: Any, tokenizer: Any, name: str, origin: str, max_length: int | None) -> Backbone:
    """Make a backbone of KerasHub's BART, with the blocks ``embeddings``, ``encoder1``, …, ``decoder1``, …

    Args:
        network: ``keras_hub.models.BartBackbone``.
        tokenizer: Its tokenizer.
        name: Name of the backbone.
        origin: Handle.
        max_length: Most tokens of each text. Defaults to 128, or what the model takes if that is less.

    Raises:
        BackboneError: For another family, a vocabulary of another model, or a length out of range.
    """
    family = type(network).__name__
    if family != "BartBackbone":
        raise BackboneError(
            f"{origin} is a {family}. Of the encoder-decoders of KerasHub, tfft opens BART only: it freezes and trains "
            "blocks one by one, and needs to know them. Use a BART preset, a Hugging Face folder of BART or T5, or "
            "'transformer-small'."
        )
    limit = int(network.max_sequence_length)
    length = text_length(max_length, limit, _USUAL, origin)
    check_vocabulary(tokenizer, network, origin)
    start, end = int(tokenizer.start_token_id), int(tokenizer.end_token_id)
    pairs = PairTokenizer(
        tokenizer, start=(end, start), end=end, source_start=(start,), source_end=(end,), source_length=length,
        target_length=length, name="tokens",
    )  # fmt: skip
    note = f"At most {length} tokens of a source and of a target are used; the model takes up to {limit}."
    spec = TextSpec(limit, "none", "as an encoder-decoder")
    return Backbone(name, _chain(network), origin, None, (note,), text_spec=spec, pair_tokenizer=pairs)


def text_length(asked: int | None, limit: int, usual: int, origin: str) -> int:
    """Return the most tokens of a text.

    Args:
        asked: What the user asks for; None for the usual number, or what the model takes if that is less.
        limit: Positions of the model.
        usual: The usual number.
        origin: Handle, for messages.

    Raises:
        BackboneError: If it is out of range.
    """
    length = min(usual, limit) if asked is None else asked
    if not 4 <= length <= limit:
        raise BackboneError(f"max_length must be 4 to {limit}, the positions of {origin}. Received: {asked!r}.")
    return length


def check_vocabulary(tokenizer: Any, network: Any, origin: str) -> None:
    """Raise BackboneError for a vocabulary with more tokens than a network of KerasHub has embeddings."""
    if tokenizer.vocabulary_size() > network.vocabulary_size:
        raise BackboneError(
            f"The vocabulary of {origin} has {tokenizer.vocabulary_size():,} tokens, but the weights have "
            f"{network.vocabulary_size:,}: it belongs to another model. Take the vocabulary that came with the weights."
        )


def _chain(network: Any) -> keras.Model:
    """Return the layers of a BART as a chain of blocks that ends in logits; the variables are shared, not copied."""
    embeddings = BartEmbeddings(
        network.token_embedding, network.encoder_position_embedding, network.decoder_position_embedding,
        network.encoder_embeddings_layer_norm, network.decoder_embeddings_layer_norm, network.dropout,
        name="embeddings",
    )  # fmt: skip
    inputs = {n: keras.Input((None,), dtype="int32", name=n) for n in NETWORK_INPUTS}
    state = embeddings(*inputs.values())
    for number, layer in enumerate(network.encoder_transformer_layers, 1):
        state = BartEncoder(layer, name=f"encoder{number}")(*state)
    for number, layer in enumerate(network.decoder_transformer_layers, 1):
        state = BartDecoder(layer, name=f"decoder{number}")(*state)
    return keras.Model(inputs, TiedLogits(name="logits_of_matrix")(*state), name=network.name)
