"""Head for the pretrained decoder of a backbone: :class:`DecoderTranscriptionHead`."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import keras
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.decoding import Answers
from tfft.errors import PlanError
from tfft.heads import LOGITS_LAYER, ModelFeatures, ServedModel, TokenLogits
from tfft.losses import TokenAccuracy, TokenCrossentropy
from tfft.modalities.audio.attach import AUDIO_INPUT, CLIP_LAYER
from tfft.registry import Evaluator
from tfft.tasks.transcription import ENCODER_DECODER
from tfft.tasks.transcription.generator import TranscriptGenerator
from tfft.tasks.transcription.head import TranscriptHead


@dataclasses.dataclass(frozen=True)
class DecoderTranscriptionHead(TranscriptHead):
    """Decoding of an encoder-decoder; the labels are the next tokens, int [B, L], below 0 for padding.

    It has no weights: the decoder of the backbone gives the logits.

    Served: ``text`` string [B], as the decoder writes it, and ``score`` float32 [B], the probability of the answer for
    one token (the geometric mean over the tokens), 0 to 1.

    Attributes:
        architecture: ``"encoder_decoder"``.
    """

    needs_names: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = True

    class_names: tuple[str, ...] | None = None
    units: int = 1
    dropout: float = 0.0
    architecture: str = ENCODER_DECODER

    @property
    def facts(self) -> dict[str, object]:
        """Facts for the card of an export: how the text is written and decoded."""
        text = f"as the decoder writes it; it was trained on, and is compared with, {self.normalization.words}"
        return {**super().facts, "text": text}

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the cross-entropy of the next tokens, a mean over present tokens."""
        _refuse(soft)
        return TokenCrossentropy(self.label_smoothing, name="crossentropy")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``accuracy``, the share of tokens that are predicted after the true ones before them."""
        _refuse(soft)
        return [TokenAccuracy(name="accuracy")]

    def backbone_for(self, backbone: Backbone) -> Backbone:
        """Return the backbone with its decoder.

        Raises:
            BackboneError: If it has none.
        """
        return backbone.with_decoder()

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Mark logits of a backbone [B, L, V] as the model's; return them in float32."""
        logits = ModelFeatures.of(features).tensor
        head = dataclasses.replace(self, units=int(logits.shape[-1]))
        return TokenLogits(head, name=LOGITS_LAYER)(logits)

    def evaluator(self) -> Evaluator:
        """Return a new object that decodes, and keeps transcripts and answers."""
        from tfft.tasks.transcription.evaluator import DecodedTranscriptEvaluator

        return DecodedTranscriptEvaluator(self)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return the most probable next token at each place, and the logits."""
        logits = tf.cast(logits, tf.float32)
        return {"next_token": tf.argmax(logits, axis=-1, output_type=tf.int32), "logits": logits}

    def served(self, model: keras.Model) -> ServedModel:
        """Return a model that decodes, from waveforms to texts."""
        waves = keras.Input((None,), dtype="float32", name=AUDIO_INPUT)
        answers = Answers(TranscriptGenerator.of(model, self), name="generate")(model.get_layer(CLIP_LAYER)(waves))
        return ServedModel(keras.Model(waves, answers, name=model.name), dict)


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError("Tokens are integers, so soft=True (mixup) does not apply. Leave it out.")
