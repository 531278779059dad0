"""Decoding of a model from waveforms to texts: :class:`TranscriptGenerator`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import tensorflow as tf

from tfft.decoding import Generator, stepper_of, tokenizer_of


@dataclasses.dataclass(frozen=True, eq=False)
class TranscriptGenerator(Generator):
    """Decoding of a model, from waveforms of the length that it takes to texts."""

    source: ClassVar[tf.TensorSpec] = tf.TensorSpec([None, None], tf.float32)
    outputs: ClassVar[Mapping[str, str]] = {"text": "string", "score": "float32"}

    @classmethod
    def of(cls, model: keras.Model, head: Any) -> Self:
        """Return the generator for a model with a :class:`tfft.tasks.transcription.head.TranscriptHead`."""
        return cls(tokenizer_of(model), stepper_of(model), head.beam_width)

    def answer(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return ``text`` and ``score``."""
        tokens, log_probability = self.tokens(inputs)
        count = tf.reduce_sum(tf.cast(tokens >= 0, tf.float32), axis=1)
        return {"text": self.tokenizer.texts(tokens), "score": tf.exp(log_probability / tf.maximum(count, 1.0))}
