"""Pairs of texts for an encoder-decoder: :func:`adapted_pairs`, :func:`attach_pairs`."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfft.backbones.base import TOKENS_LAYER, Backbone
from tfft.backbones.transformer import transformer
from tfft.data.examples import Skipped, Splits
from tfft.decoding import fitting, generated_length, skipped_note, unknown_note
from tfft.errors import BackboneError
from tfft.layers.pair_tokenizer import SOURCE, TARGET, PairTokenizer
from tfft.models import ModelInput
from tfft.registry import Adapted
from tfft.tasks.text_to_text.data import PairExamples
from tfft.tasks.text_to_text.vocabulary import learn_vocabulary, vocabulary_size


def adapted_pairs(splits: Splits[PairExamples], backbone: Backbone) -> Adapted:
    """Return tokenized pairs for an encoder-decoder, and the encoder-decoder with a vocabulary.

    Pairs with a text that is longer than the model takes are skipped, not cut: a cut target teaches to stop early. The
    longest target of the training pairs, and a quarter more, bounds what the model writes.

    Args:
        splits: Pairs.
        backbone: Encoder-decoder.

    Raises:
        DataError: If more than a tenth of the pairs are too long, with their lines.
    """
    notes: list[str] = []
    if backbone.pair_tokenizer is None:
        raise BackboneError(f"{backbone.name} is not an encoder-decoder, so it cannot generate text.")
    if backbone.pair_tokenizer.tokenizer is None:
        backbone = _with_vocabulary(backbone, splits.train)
        notes.append(f"vocabulary: {_size(backbone):,} tokens, learned from the training pairs")
    tokenizer: Any = backbone.pair_tokenizer
    parts, too_long = [], list[Skipped]()
    for part in (splits.train, splits.validation):
        whole = part.tokenized(tokenizer)
        keep, left_out = _fitting(whole, tokenizer)
        parts.append(whole.take(keep))
        too_long += left_out
    if too_long:
        notes.append(skipped_note(too_long, "pair"))
    train: Any = parts[0]
    limit = generated_length(train.tokens.target, tokenizer.target_length)
    tokenizer.target_length = limit  # of this run: what it may write
    notes += _notes(parts, tokenizer, limit)
    duplicates = (
        splits.duplicates if len(train) == len(splits.train) and len(parts[1]) == len(splits.validation) else ()
    )
    splits = dataclasses.replace(
        splits, train=train, validation=parts[1], skipped=(*splits.skipped, *too_long), duplicates=duplicates
    )
    return Adapted(splits, notes=tuple(notes), backbone=backbone)


def attach_pairs(backbone: Backbone, network: keras.Model) -> ModelInput:
    """Build the inputs of a model: tokens of source and target, -1 for padding.

    Args:
        backbone: Encoder-decoder with a vocabulary.
        network: Its model.
    """
    given = backbone.pair_tokenizer
    if given is None:
        raise BackboneError(f"{backbone.name} is not an encoder-decoder, so it cannot generate text.")
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in (SOURCE, TARGET)}
    tokens = given.renamed(TOKENS_LAYER)(inputs[SOURCE], inputs[TARGET])
    return ModelInput(inputs, network({name: tokens[name] for name in network.input}))


def _size(backbone: Backbone) -> int:
    held: Any = backbone.pair_tokenizer
    return int(held.tokenizer.vocabulary_size())


def _with_vocabulary(backbone: Backbone, train: PairExamples) -> Backbone:
    """Return the transformer with a vocabulary of the training texts, and its other settings."""
    texts = [*train.sources, *train.labels]
    tokenizer = learn_vocabulary(texts, vocabulary_size(texts))
    embeddings, first = backbone.model.get_layer("embeddings"), backbone.model.get_layer("encoder1")
    blocks = sum(layer.name.startswith("encoder") and layer.name[7:].isdecimal() for layer in backbone.model.layers)
    held: Any = backbone.pair_tokenizer
    return transformer(
        backbone.name, tokenizer, width=embeddings.width, blocks=blocks, heads=first.heads, inner=first.inner,
        dropout=embeddings.dropout_rate, max_length=held.source_length,
    )  # fmt: skip


def _fitting(part: PairExamples, tokenizer: PairTokenizer) -> tuple[np.ndarray, list[Skipped]]:
    """Return the positions of pairs that the model takes, and the others with the reasons."""
    assert part.tokens is not None  # noqa: S101
    sides = (
        (SOURCE, part.tokens.source, tokenizer.source_length),
        (TARGET, part.tokens.target, tokenizer.target_length),
    )  # fmt: skip
    return fitting(sides, part.places, "pairs")


def _notes(parts: list[PairExamples], tokenizer: PairTokenizer, limit: int) -> list[str]:
    """Return what the tokens show: lengths, and the share of unknown ones."""
    tokens: Any = parts[0].tokens
    medians = [int(np.median([len(ids) for ids in side])) for side in (tokens.source, tokens.target)]
    notes = [f"tokens: median {medians[0]} per source, {medians[1]} per target; at most {limit} are generated"]
    found = [
        unknown_note(name, side, parts[0].places, tokenizer.unknown)
        for name, side in ((SOURCE, tokens.source), (TARGET, tokens.target))
    ]
    return [*notes, *filter(None, found)]
