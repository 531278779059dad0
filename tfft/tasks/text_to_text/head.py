"""Head for texts that follow from texts."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tfft.errors import PlanError, require_platform

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from tfft.heads import LOGITS_LAYER, Head, ModelFeatures, ServedModel, TokenLogits  # noqa: E402
from tfft.losses import TokenAccuracy, TokenCrossentropy  # noqa: E402


@dataclasses.dataclass(frozen=True)
class TextToTextHead(Head):
    """Decoding of an encoder-decoder; the labels are the next tokens, int [B, T], below 0 for padding.

    It has no weights: the backbone gives the logits.

    Attributes:
        beam_size: Hypotheses of the beam search when texts are generated; 1 is greedy decoding.
        length_penalty: Exponent of the length penalty of the beam search.
    """

    needs_names: ClassVar[bool] = False

    class_names: tuple[str, ...] | None = None
    units: int = 1
    dropout: float = 0.0
    beam_size: int = 1
    length_penalty: float = 0.6

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if isinstance(self.beam_size, bool) or not isinstance(self.beam_size, int) or self.beam_size < 1:
            problems.append(f"beam_size must be an integer of at least 1, received {self.beam_size!r}")
        if not 0 <= self.length_penalty < float("inf"):
            problems.append(f"length_penalty must be 0 or more, received {self.length_penalty!r}")
        return problems

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the cross-entropy of the next tokens, a mean over present tokens."""
        _refuse(soft)
        return TokenCrossentropy(self.label_smoothing, name="crossentropy")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``accuracy``, the share of tokens that are predicted after the true ones before them."""
        _refuse(soft)
        return [TokenAccuracy(name="accuracy")]

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Mark logits of a backbone [B, T, V] as the model's; return them in float32."""
        logits = ModelFeatures.of(features).tensor
        head = dataclasses.replace(self, units=int(logits.shape[-1]))
        return TokenLogits(head, name=LOGITS_LAYER)(logits)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the most probable next token at each place, and the logits."""
        logits = tf.cast(logits, tf.float32)
        return {"next_token": tf.argmax(logits, axis=-1, output_type=tf.int32), "logits": logits}

    def served(self, model: keras.Model) -> ServedModel:
        """Return a model that decodes, from texts to texts."""
        from tfft.decoding import Answers
        from tfft.tasks.text_to_text.decoding import TextGenerator

        text = keras.Input((), dtype="string", name="text")
        generate = Answers(TextGenerator.of(model, self), name="generate")
        return ServedModel(keras.Model(text, generate(text), name=model.name), dict)


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError("Tokens are integers, so soft=True does not apply. Leave it out.")


def text_to_text(
    *, label_smoothing: float = 0.0, beam_size: int = 1, length_penalty: float = 0.6, units: int = 1
) -> TextToTextHead:
    """Create a head for texts that follow from texts, such as translations.

    Args:
        label_smoothing: Share of the target that is spread over all tokens.
        beam_size: Hypotheses of the beam search; 1 is greedy decoding.
        length_penalty: Exponent a of the length penalty: finished hypotheses of n tokens are compared by their
            log-probability divided by ((5 + n) / 6) ** a (Wu et al., "Google's neural machine translation system",
            2016).
        units: Number of tokens; set from the backbone when a model is built.

    Returns:
        A head without weights.

    Example:
        >>> head = text_to_text(label_smoothing=0.1, beam_size=4)
    """
    return TextToTextHead(
        "text_to_text", None, units, label_smoothing=label_smoothing, beam_size=beam_size, length_penalty=length_penalty
    )
