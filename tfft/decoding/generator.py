"""Decoding of a model from its inputs to texts: :class:`Generator`, :class:`Answers`."""

from __future__ import annotations

import abc
import dataclasses
import functools
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import keras
import tensorflow as tf

from tfft.decoding.search import beam_search
from tfft.decoding.steppers import Stepper
from tfft.layers.pair_tokenizer import TargetTokenizer


@dataclasses.dataclass(frozen=True, eq=False)
class Generator(abc.ABC):
    """Decoding of a model. A task says in a subclass what the encoder takes and what an answer is.

    Attributes:
        tokenizer: Tokenizer of the model.
        stepper: Encoder-decoder, one token at a time.
        beams: Hypotheses of the beam search; 1 is greedy decoding.
        penalty: Exponent of the length penalty.
    """

    source: ClassVar[tf.TensorSpec]  # input of the encoder
    outputs: ClassVar[Mapping[str, str]]  # types of the answer by name

    tokenizer: TargetTokenizer
    stepper: Stepper
    beams: int = 1
    penalty: float = 0.6

    @classmethod
    @abc.abstractmethod
    def of(cls, model: keras.Model, head: Any) -> Self:
        """Return the generator for a model with a head."""

    @classmethod
    def known(cls, model: keras.Model, head: Any) -> Self:
        """Return :meth:`of`, made once for each model and head, so that :attr:`decode` is traced once."""
        made = _GENERATORS.setdefault(model, {})
        if head not in made:
            made[head] = cls.of(model, head)
        return made[head]

    def tokens(self, source: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return generated tokens and their log-probability.

        Args:
            source: Input of the encoder, [B, ...].

        Returns:
            Tokens int32 [B, T], without the start, -1 behind the end token; and float32 [B].
        """
        return beam_search(
            self.stepper, source, self.tokenizer.start, self.tokenizer.end, self.tokenizer.target_length - 1,
            beams=self.beams, penalty=self.penalty,
        )  # fmt: skip

    @functools.cached_property
    def decode(self) -> Any:
        """The function from the input of the encoder to generated tokens, as a graph."""

        @tf.function(input_signature=[self.source], autograph=False)
        def decode(source: tf.Tensor) -> tf.Tensor:
            return self.tokens(source)[0]

        return decode

    @abc.abstractmethod
    def answer(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the outputs of a server for its inputs."""


_GENERATORS: weakref.WeakKeyDictionary[keras.Model, dict[Any, Any]] = weakref.WeakKeyDictionary()


class Answers(keras.layers.Layer):
    """Layer from the inputs of a request, [B, ...], to the answer of a generator.

    An export serves it; it is in no saved Keras model.

    Args:
        generator: Decoding of a model.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, generator: Generator, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_jit = False  # texts
        self.generator = generator
        generator.tokenizer.prepare()

    def call(self, inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the answer."""
        return self.generator.answer(inputs)

    def compute_output_spec(self, inputs: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        """Return the specs of the outputs."""
        return {name: keras.KerasTensor(inputs.shape[:1], dtype) for name, dtype in self.generator.outputs.items()}


def tokenizer_of(model: keras.Model) -> TargetTokenizer:
    """Return the layer of a model that holds its tokenizer."""
    return next(layer for layer in model.layers if isinstance(layer, TargetTokenizer))
