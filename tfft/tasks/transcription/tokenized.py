"""Recordings with transcripts as tokens of a model: :class:`TokenizedRecordings`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfft.data.batches import BatchOptions
from tfft.decoding import teacher_forced
from tfft.errors import DataError
from tfft.layers.log_mel import audio_of
from tfft.layers.pair_tokenizer import TARGET, TargetTokenizer
from tfft.modalities.audio.attach import AUDIO_INPUT
from tfft.tasks.transcription.data import TranscribedRecordings
from tfft.tasks.transcription.text import PADDING


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedRecordings(TranscribedRecordings):
    """Recordings with transcripts; the labels are tokens with the start and the end, int32 [N, L], -1 for padding.

    After the tokens, ``-(2 + g)`` may name the group of the clip, as in :class:`TranscribedRecordings`.

    Attributes:
        given: Number of tokens that every text begins with.
    """

    given: int = 1

    @classmethod
    def of(
        cls, recordings: TranscribedRecordings, tokens: Sequence[np.ndarray], tokenizer: TargetTokenizer, width: int = 0
    ) -> Self:
        """Return recordings with their tokens.

        Args:
            recordings: Recordings with transcripts.
            tokens: Tokens of each transcript, with those around it.
            tokenizer: Tokenizer of the model.
            width: Least number of columns of the labels.
        """
        groups = recordings.labels.min(axis=1, initial=PADDING)  # below -1 for a named group
        longest = max(map(len, tokens), default=0) + int((groups < PADDING).any())
        labels = np.full((len(tokens), max(width, longest)), PADDING, np.int32)
        for row, ids, group in zip(labels, tokens, groups, strict=True):
            row[: len(ids)] = ids
            if group < PADDING:
                row[len(ids)] = group
        fields = {each.name: getattr(recordings, each.name) for each in dataclasses.fields(TranscribedRecordings)}
        return cls(**{**fields, "labels": labels, "class_names": (), "given": len(tokenizer.start)})

    @property
    def counts(self) -> dict[str, int]:
        """Empty: tokens are not classes."""
        return {}

    def clips(self, options: BatchOptions) -> tf.data.Dataset:
        """Build a dataset of ({"audio": float32 [B, any], "target": int32 [B, L]}, int32 [B, L] next tokens)."""

        def forced(waves: tf.Tensor, rows: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
            target, labels = teacher_forced(rows, self.given)
            return {AUDIO_INPUT: waves, TARGET: target}, labels

        return super().clips(options).map(forced, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)

    def trainable_part(self, model: Any, held_out: Any, options: BatchOptions) -> str:
        """Return an empty reason: the whole model runs in each epoch."""
        return ""

    def feature_source(self, staged: Any, batch_size: int, views: Any = None) -> Any:
        """Raise an error: the features of an encoder-decoder are not kept."""
        raise DataError("The features of an encoder-decoder for speech are not cached. Train it on batches.")


def tokenized(recordings: TranscribedRecordings, tokenizer: TargetTokenizer) -> list[np.ndarray]:
    """Return the tokens of each transcript with those around it."""
    return [tokenizer.framed(ids) for ids in tokenizer.ragged(list(recordings.texts))]


def fitted_to_model(examples: Any, model: keras.Model) -> Any:
    """Return recordings at the rate of a model, with its tokens if it has a decoder.

    Transcripts that are longer than the decoder takes are cut, and so count as errors where it stops.

    Args:
        examples: Recordings with transcripts.
        model: Trained model.
    """
    audio = audio_of(model)
    if audio is not None and audio.sample_rate != examples.spec.sample_rate:
        same = dataclasses.replace(examples.spec, sample_rate=audio.sample_rate)
        examples = examples.with_spec(same, examples.source.store)
    tokenizer = next((layer for layer in model.layers if isinstance(layer, TargetTokenizer)), None)
    if tokenizer is None:
        return examples
    limit = tokenizer.target_length
    tokens = [
        ids if len(ids) <= limit else np.concatenate([ids[: limit - 1], ids[-1:]])
        for ids in tokenized(examples, tokenizer)
    ]
    return TokenizedRecordings.of(examples, tokens, tokenizer)
