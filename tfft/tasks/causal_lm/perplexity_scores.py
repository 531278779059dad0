"""Perplexity of a language model: :func:`perplexity`, and a baseline: :func:`unigram`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfft.errors import DataError
from tfft.evaluation.scores import mean_interval
from tfft.tasks.causal_lm.data import tokens_of


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """Perplexity of documents: the exponential of the mean loss per token.

    Attributes:
        value: Over all tokens; 1 is perfect.
        interval: 95 % interval over documents.
        pieces: Number of predicted tokens.
        documents: Number of documents.
    """

    value: float
    interval: tuple[float, float]
    pieces: int
    documents: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        low, high = self.interval
        return f"perplexity {self.value:.2f} (95 % interval {low:.2f} to {high:.2f}, {self.documents} documents)"


def perplexity(model: keras.Model, texts: Sequence[str], *, batch_size: int = 8) -> Perplexity:
    """Measure the perplexity of documents, each from its start without context.

    Args:
        model: KerasHub causal language model.
        texts: Documents; those longer than the model's ``sequence_length`` are divided into separate parts.
        batch_size: Parts per batch.

    Raises:
        DataError: If there is nothing to predict.
    """
    length, tokenizer = model.preprocessor.sequence_length, model.preprocessor.tokenizer
    losses, counts = np.zeros(len(texts)), np.zeros(len(texts), int)
    parts = [
        (number, cut[start : start + length + 1])
        for number, cut in enumerate(tokens_of(text, tokenizer) for text in texts)
        for start in range(0, max(1, len(cut) - 1), length)
    ]
    network = keras.Model(model.input, model.output)
    for at in range(0, len(parts), batch_size):
        chosen = parts[at : at + batch_size]
        ids, present = np.zeros((len(chosen), length), np.int32), np.zeros((len(chosen), length), np.int32)
        following = np.zeros((len(chosen), length), np.int32)
        for row, (_, cut) in enumerate(chosen):
            ids[row, : len(cut) - 1], present[row, : len(cut) - 1] = cut[:-1], 1
            following[row, : len(cut) - 1] = cut[1:]
        logits = network({"token_ids": ids, "padding_mask": present}, training=False)
        each = keras.losses.sparse_categorical_crossentropy(following, logits, from_logits=True)
        each = keras.ops.convert_to_numpy(each) * present
        for row, (number, cut) in enumerate(chosen):
            losses[number] += float(each[row].sum())
            counts[number] += len(cut) - 1
    return _perplexity(losses, counts)


def unigram(train: Sequence[str], texts: Sequence[str], tokenizer: Any) -> Perplexity:
    """Measure the perplexity of a unigram model, a baseline for language models.

    Args:
        train: Training documents; one is added to each count (Laplace).
        texts: Documents to evaluate.
        tokenizer: Tokenizer of KerasHub.
    """
    seen = np.ones(tokenizer.vocabulary_size())
    for text in train:
        np.add.at(seen, tokens_of(text, tokenizer)[1:], 1)
    surprise = -np.log(seen / seen.sum())
    cut = [tokens_of(text, tokenizer)[1:] for text in texts]
    return _perplexity(np.array([surprise[one].sum() for one in cut]), np.array([len(one) for one in cut]))


def _perplexity(losses: np.ndarray, counts: np.ndarray) -> Perplexity:
    if not counts.sum():
        raise DataError("Expected at least one token to predict. Received: empty documents.")
    mean = losses.sum() / counts.sum()
    # The ratio of two sums over documents: its spread is that of what each adds beyond the mean (Cochran, 1977).
    beyond = (losses - mean * counts) / counts.mean()
    low, high = mean_interval(float(beyond.sum()), float((beyond**2).sum()), len(counts))
    interval = math.exp(mean + low), math.exp(mean + high)
    return Perplexity(math.exp(mean), interval, int(counts.sum()), len(counts))
