"""Pairs of texts for an encoder-decoder: :func:`adapted_pairs`, :func:`attach_pairs`."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfft.backbones.base import TOKENS_LAYER, Backbone
from tfft.backbones.transformer import transformer
from tfft.data.examples import Skipped, Splits
from tfft.errors import BackboneError, DataError, join_names, quantity
from tfft.layers.pair_tokenizer import SOURCE, TARGET, PairTokenizer
from tfft.models import ModelInput
from tfft.registry import Adapted
from tfft.tasks.text_to_text.data import PairExamples
from tfft.tasks.text_to_text.vocabulary import learn_vocabulary, vocabulary_size

_SYSTEMATIC = 0.1  # of the pairs: longer than the model takes in more of them is an error
_SPARE = 1.25  # room of a generated text over the longest training target
_UNKNOWN = 0.005  # share of unknown tokens from which a note reports them
_LEAST = 16  # tokens that a model may write
_SHOWN = 5


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
        more = "; ..." if len(too_long) > _SHOWN else ""
        notes.append(f"{quantity(len(too_long), 'pair')} skipped: {'; '.join(map(str, too_long[:_SHOWN]))}{more}")
    train: Any = parts[0]
    longest = max(map(len, train.tokens.target))
    limit = min(tokenizer.target_length, max(_LEAST, int(_SPARE * longest) + 1))
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
    too_long: dict[int, str] = {}
    for name, tokens, limit in sides:
        for at, ids in enumerate(tokens):
            if len(ids) > limit:
                too_long.setdefault(at, f"has a {name} of {len(ids):,} tokens, and the model takes {limit:,}")
    skipped = [Skipped(part.places[at], why) for at, why in sorted(too_long.items())]
    if len(skipped) > _SYSTEMATIC * len(part):
        raise DataError(
            f"{len(skipped):,} of {len(part):,} pairs are longer than the model takes: "
            f"{'; '.join(map(str, skipped[:_SHOWN]))}. Split the texts, or pass a larger max_length=."
        )
    return np.array([at for at in range(len(part)) if at not in too_long], np.int64), skipped


def _notes(parts: list[PairExamples], tokenizer: PairTokenizer, limit: int) -> list[str]:
    """Return what the tokens show: lengths, and the share of unknown ones."""
    tokens: Any = parts[0].tokens
    medians = [int(np.median([len(ids) for ids in side])) for side in (tokens.source, tokens.target)]
    notes = [f"tokens: median {medians[0]} per source, {medians[1]} per target; at most {limit} are generated"]
    unknown = tokenizer.unknown
    for name, side in ((SOURCE, tokens.source), (TARGET, tokens.target)):
        if unknown is None:
            break
        counts = np.array([int((ids == unknown).sum()) for ids in side])
        share = counts.sum() / max(1, sum(map(len, side)))
        if share > _UNKNOWN:
            where = join_names([parts[0].places[at] for at in np.argsort(-counts, kind="stable")[:3]])
            notes.append(
                f"{share:.1%} of the {name} tokens are unknown to the vocabulary, most in {where}: the model cannot "
                "read or generate them. Use a model trained on this language"
            )
    return notes
