"""Decoding of a model from texts to texts: :class:`TextGenerator`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

import keras
import tensorflow as tf

from tfft.decoding import Generator, stepper_of, tokenizer_of
from tfft.layers.pair_tokenizer import PairTokenizer

if TYPE_CHECKING:
    from tfft.tasks.text_to_text.head import TextToTextHead


@dataclasses.dataclass(frozen=True, eq=False)
class TextGenerator(Generator):
    """Decoding of a model, from texts to texts."""

    source: ClassVar[tf.TensorSpec] = tf.TensorSpec([None, None], tf.int32)
    outputs: ClassVar[Mapping[str, str]] = {"generated_text": "string", "log_probability": "float32"}

    tokenizer: PairTokenizer

    @classmethod
    def of(cls, model: keras.Model, head: TextToTextHead) -> Self:
        """Return the generator for a model."""
        return cls(tokenizer_of(model), stepper_of(model), head.beam_size, head.length_penalty)  # type: ignore[arg-type]

    def texts(self, texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return generated texts, string [B], and their log-probability, float32 [B], for texts [B]."""
        tokens, log_probability = self.tokens(self.tokenizer.source_tokens(texts))
        return self.tokenizer.texts(tokens), log_probability

    def answer(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return ``generated_text`` and ``log_probability``."""
        return dict(zip(self.outputs, self.texts(inputs), strict=True))
