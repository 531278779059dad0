"""Tiny encoders for texts, and sentences with planted tags."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np

from tfft.backbones.base import Backbone
from tfft.layers.tokenize import Tokenize
from tfft.specs import TextSpec

WORDS = ["mr", "in", "saw", "ka", "lo", "mi", "ru", "te", "##do", "##na", *"abcdefgh", ".", ",", "-"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
NAMES = ("token_ids", "segment_ids", "padding_mask")


def tokenizing(preprocessor: keras.layers.Layer, length: int, names: tuple[str, ...] = NAMES) -> Tokenize:
    return Tokenize(preprocessor, {name: name for name in names}, "padding_mask", length)


def bert(width: int = 32, length: int = 24) -> Backbone:
    """A BERT of two layers whose random weights are large enough for its attention to learn in a few steps."""
    tokenizer = keras_hub.models.BertTokenizer(VOCABULARY, lowercase=True)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=length)
    network = keras_hub.models.BertBackbone(
        vocabulary_size=len(VOCABULARY),
        num_layers=2,
        num_heads=2,
        hidden_dim=width,
        intermediate_dim=2 * width,
        dropout=0.0,
        max_sequence_length=length,
    )
    generator = np.random.default_rng(0)
    for variable in network.weights:
        if "embedding" in variable.path or "kernel" in variable.path:
            spread = 0.5 if "embedding" in variable.path else width**-0.5
            variable.assign(generator.normal(0, spread, variable.shape))
    model = keras.Model(network.input, network.output["sequence_output"])
    return Backbone(
        "tiny", model, "tests", None, (), tokenizing(preprocessor, length), TextSpec(length, "cls", "tests")
    )


def planted(count: int, seed: int = 0) -> tuple[list[list[str]], list[list[str]]]:
    """Sentences such as "mr ka##na in lo##do": a name is a word whose last piece is "na" behind "mr" or "in"."""
    generator = np.random.default_rng(seed)
    sentences, tags = [], []
    for _ in range(count):
        words, own = [], []
        for _ in range(generator.integers(1, 4)):
            before = str(generator.choice(["mr", "in", "saw"]))
            word = str(generator.choice(["ka", "lo", "mi"])) + str(generator.choice(["do", "na"]))
            kind = {"mr": "B-PER", "in": "B-LOC"}.get(before, "O")
            words += [before, word]
            own += ["O", kind if word.endswith("na") else "O"]
        sentences.append(words)
        tags.append(own)
    return sentences, tags
