"""Texts in front of a backbone: strings in, features of whole texts or of each word out."""

from __future__ import annotations

from typing import Any

import keras

from tfft.backbones.base import TOKENS_LAYER, Backbone
from tfft.errors import BackboneError
from tfft.layers.pooling import PoolPieces
from tfft.layers.word_alignment import WORD_STARTS, GatherWords, TokenizeWords
from tfft.models import POOL_LAYER, ModelInput

TEXT_INPUT, PAIR_INPUT = "text", "text_pair"
WORDS_LAYER = "words"  # in the place of pooling, where words are tagged


def attach_texts(backbone: Backbone, network: keras.Model, pair: bool = False) -> ModelInput:
    """Put inputs of texts, the tokenizer and a network together; features of tokens are pooled.

    Args:
        backbone: with a ``text_spec``.
        network: its model.
        pair: whether the model takes pairs of texts.

    Raises:
        BackboneError: If the backbone takes no texts, or takes them as they are and pairs are asked for.
    """
    if backbone.text_spec is None:
        raise BackboneError(f"{backbone.name} takes no texts.")
    inputs: Any = keras.Input((), dtype="string", name=TEXT_INPUT)
    if backbone.tokenizer is None:
        if pair:
            raise BackboneError(f"{backbone.name} takes one text, not pairs. Join the two into one.")
        return ModelInput(inputs, network(keras.tree.pack_sequence_as(network.input, [inputs])))
    if pair:
        inputs = {TEXT_INPUT: inputs, PAIR_INPUT: keras.Input((), dtype="string", name=PAIR_INPUT)}
    config = backbone.tokenizer.get_config()
    # The same packer, with its vocabulary, in a layer of the fixed name.
    tokenize = type(backbone.tokenizer)(**{**config, "packer": backbone.tokenizer.packer, "name": TOKENS_LAYER})
    tokens = tokenize(list(inputs.values()) if pair else inputs)
    features = network(tokens)
    if len(features.shape) == 3:
        how: Any = backbone.text_spec.pooling  # "none" is for words
        features = PoolPieces(how, name=POOL_LAYER)(features, tokens[tokenize.mask])
    return ModelInput(inputs, features)


def attach_words(backbone: Backbone, network: keras.Model, pair: bool = False) -> ModelInput:
    """Put an input of sentences and a network together, with the features of each word and where the words start.

    Args:
        backbone: with a tokenizer.
        network: its model.
        pair: refused where it is True.

    Raises:
        BackboneError: If the tokens of the backbone do not show where words start.
    """
    problem = None
    if backbone.tokenizer is None:
        problem = "it does not take texts that are cut into pieces"
    elif pair:
        problem = "its sentences are tagged one by one: leave pair=True out"
    elif len(network.output.shape) != 3:
        problem = f"its features have the shape {tuple(network.output.shape)}, expected [batch, pieces, width]"
    if problem or backbone.tokenizer is None:
        raise BackboneError(f"{backbone.name} cannot tag words: {problem}.")
    inputs = keras.Input((), dtype="string", name=TEXT_INPUT)
    tokens = TokenizeWords.of(backbone.tokenizer, name=TOKENS_LAYER)(inputs)
    starts = tokens.pop(WORD_STARTS)
    return ModelInput(inputs, GatherWords(name=WORDS_LAYER)(network(tokens), starts), starts)
