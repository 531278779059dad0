"""Encoder-decoder transformer with random weights, to train from scratch: :func:`transformer`."""

from __future__ import annotations

import keras

from tfft.backbones.base import Backbone
from tfft.layers.pair_tokenizer import NETWORK_INPUTS, PairTokenizer
from tfft.layers.transformer_blocks import DecoderBlock, EncoderBlock, TiedLogits, TokenEmbeddings
from tfft.specs import TextSpec

PAD, UNKNOWN, START, END = 0, 1, 2, 3  # ids in a vocabulary that tfft learns
POSITIONS = 512  # most tokens of a text; sinusoids have no limit of their own
_EMPTY = 4  # tokens before a vocabulary is learned


def transformer(
    name: str = "transformer-small",
    tokenizer: keras.layers.Layer | None = None,
    *,
    width: int = 256,
    blocks: int = 3,
    heads: int = 4,
    inner: int = 512,
    dropout: float = 0.1,
    max_length: int = POSITIONS,
) -> Backbone:
    """Create an encoder-decoder transformer with random weights.

    Its blocks are ``embeddings``, ``encoder1``, …, ``decoder1``, … Source, target and logits share one matrix of
    embeddings. Without a tokenizer, training learns a SentencePiece vocabulary from the training texts.

    Args:
        name: Name of the backbone.
        tokenizer: SentencePiece tokenizer of KerasHub whose tokens 2 and 3 are start and end of a text.
        width: Width of the features; the heads divide it.
        blocks: Number of encoder blocks, and of decoder blocks.
        heads: Attention heads of a block.
        inner: Width of the feed-forward layers.
        dropout: Dropout rate.
        max_length: Maximum number of tokens of a source, and of a target.

    Returns:
        A backbone from the tokens of source and target to logits [B, T, V], which is not pretrained.

    Example:
        >>> tfft.finetune(transformer(width=128, blocks=2), "en-de.tsv", task="text_to_text", text="en", target="de")
    """
    count = _EMPTY if tokenizer is None else int(tokenizer.vocabulary_size())
    inputs = {
        f"{part}_{what}": keras.Input((None,), dtype="int32", name=f"{part}_{what}")
        for part in ("encoder", "decoder")
        for what in ("token_ids", "padding_mask")
    }
    state = TokenEmbeddings(count, width, dropout, name="embeddings")(*(inputs[key] for key in NETWORK_INPUTS))
    for kind, stem in ((EncoderBlock, "encoder"), (DecoderBlock, "decoder")):
        for number in range(1, blocks + 1):
            state = kind(width, heads, inner, dropout, number == blocks, name=f"{stem}{number}")(*state)
    model = keras.Model(inputs, TiedLogits(name="logits_of_matrix")(*state), name=name.replace("-", "_"))
    pairs = PairTokenizer(
        tokenizer, start=(START,), end=END, source_end=(END,), source_length=max_length, target_length=max_length,
        name="tokens",
    )  # fmt: skip
    note = f"{name} has random weights: all of it trains"
    spec = TextSpec(POSITIONS, "none", "as an encoder-decoder")
    return Backbone(name, model, name, notes=(note,), text_spec=spec, pretrained=False, pair_tokenizer=pairs)
