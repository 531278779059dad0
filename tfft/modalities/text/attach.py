"""Text input for a backbone, with features of whole texts or of words."""

from __future__ import annotations

from typing import Any

import keras

from tfft.backbones.base import TOKENS_LAYER, Backbone
from tfft.errors import BackboneError
from tfft.layers.pooling import PoolPieces
from tfft.layers.word_alignment import WORD_STARTS, GatherWords, TokenizeWords
from tfft.models import POOL_LAYER, ModelInput

TEXT_INPUT, PAIR_INPUT = "text", "text_pair"
WORDS_LAYER = "words"  # replaces pooling for token classification


def attach_texts(backbone: Backbone, network: keras.Model, pair: bool = False) -> ModelInput:
    """Build the input of a model: strings, tokenizer and network; token features are pooled.

    Args:
        backbone: Backbone with a ``text_spec``.
        network: Model of the backbone.
        pair: Whether the model takes pairs of texts.

    Raises:
        BackboneError: If the backbone takes no texts, or takes raw texts and pairs are requested.
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
        how: Any = backbone.text_spec.pooling  # "none" is for token classification
        features = PoolPieces(how, name=POOL_LAYER)(features, tokens[tokenize.mask])
    return ModelInput(inputs, features)


def attach_words(backbone: Backbone, network: keras.Model, pair: bool = False) -> ModelInput:
    """Build the input of a model for token classification: features and start of each word.

    Args:
        backbone: Backbone with a tokenizer.
        network: Model of the backbone.
        pair: Must be False.

    Raises:
        BackboneError: If the tokens of the backbone do not show where words start.
    """
    problem = None
    if backbone.tokenizer is None:
        problem = "it has no tokenizer"
    elif pair:
        problem = "token classification takes single sentences: leave pair=True out"
    elif len(network.output.shape) != 3:
        problem = f"its features have the shape {tuple(network.output.shape)} instead of [batch, tokens, width]"
    if problem or backbone.tokenizer is None:
        raise BackboneError(f"{backbone.name} cannot tag words: {problem}.")
    inputs = keras.Input((), dtype="string", name=TEXT_INPUT)
    tokens = TokenizeWords.of(backbone.tokenizer, name=TOKENS_LAYER)(inputs)
    starts = tokens.pop(WORD_STARTS)
    return ModelInput(inputs, GatherWords(name=WORDS_LAYER)(network(tokens), starts), starts)
