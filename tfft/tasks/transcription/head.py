"""Heads for transcription: :class:`TranscriptHead`, :class:`TranscriptionHead` for CTC, :func:`transcription`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from tfft.errors import PlanError, unknown_name
from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, Head, ModelFeatures
from tfft.registry import Evaluator
from tfft.tasks.transcription import ARCHITECTURES, CTC, ENCODER_DECODER
from tfft.tasks.transcription.decoding import beam, frames_of, greedy
from tfft.tasks.transcription.layers import CtcLogits
from tfft.tasks.transcription.loss import CtcLoss
from tfft.tasks.transcription.metric import CharacterErrorRate
from tfft.tasks.transcription.text import CASES, MARKS, MOST_CHARACTERS, LetterCase, Normalization, Punctuation


@dataclasses.dataclass(frozen=True)
class TranscriptHead(Head):
    """Head whose outputs become the text of a recording.

    Attributes:
        letter_case: How the transcripts were normalized, see
            :class:`tfft.tasks.transcription.text.Normalization`.
        punctuation: As ``letter_case``.
        beam_width: Number of texts that decoding compares; 1 takes the most probable character of each frame, or the
            most probable next token.
    """

    smooths_labels: ClassVar[bool] = False  # whether label smoothing applies

    letter_case: LetterCase = "lower"
    punctuation: Punctuation = "drop"
    beam_width: int = 1

    @property
    def normalization(self) -> Normalization:
        """How transcripts are written."""
        return Normalization(self.letter_case, self.punctuation)

    @property
    def facts(self) -> dict[str, object]:
        """Facts for the card of an export: how the text is written and decoded."""
        how = "greedy" if self.beam_width == 1 else f"beam search, {self.beam_width} texts"
        return {"text": self.normalization.words, "decoding": how, "padding": "trailing zeros of a wave are padding"}

    def evaluator(self) -> Evaluator:
        """Return a new object that keeps transcripts and answers."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if self.loss_name != "cross_entropy":
            problems.append(f"transcription has one loss, received loss={self.loss_name!r}: leave it out")
        if self.label_smoothing and not self.smooths_labels:
            problems.append(f"transcription takes no label_smoothing, received {self.label_smoothing!r}: leave it out")
        if isinstance(self.beam_width, bool) or not isinstance(self.beam_width, int) or self.beam_width < 1:
            problems.append(f"beam_width must be an integer of at least 1, received {self.beam_width!r}")
        for name, valid in (("letter_case", CASES), ("punctuation", MARKS)):
            if getattr(self, name) not in valid:
                problems.append(f"{name} must be {' or '.join(valid)}, received {getattr(self, name)!r}")
        return problems


@dataclasses.dataclass(frozen=True)
class TranscriptionHead(TranscriptHead):
    """One logit per character, and one of the blank, for each frame; labels are integers [B, L], below 0 for padding.

    The label of a character is its position in ``class_names``; ``len(class_names)`` stands for a character outside of
    the alphabet. The last logit is that of the blank.

    Served: ``text`` string [B], and ``score`` float32 [B], the probability of the answer for one frame (the geometric
    mean over the frames), 0 to 1.
    """

    dropout: float = 0.1

    @staticmethod
    def units_for(class_names: tuple[str, ...]) -> int:
        """Return the characters and the blank."""
        return len(class_names) + 1

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if len(self.class_names or ()) > MOST_CHARACTERS:
            problems.append(
                f"CTC needs a small alphabet, at most {MOST_CHARACTERS}, received {len(self.class_names or ())}"
            )
        return problems

    def evaluator(self) -> Evaluator:
        """Return a new object that keeps transcripts and answers."""
        from tfft.tasks.transcription.evaluator import TranscriptEvaluator

        return TranscriptEvaluator(self)

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return :class:`tfft.tasks.transcription.loss.CtcLoss`."""
        _refuse(soft)
        return CtcLoss(name="ctc")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``character_error_rate`` of greedy decoding."""
        _refuse(soft)
        return [CharacterErrorRate(name="character_error_rate")]

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add ``dropout`` and ``logits`` to features of frames.

        Args:
            features: [B, T, width]; frames without audio are 0.

        Returns:
            float32 [B, T, units].
        """
        dropped = keras.layers.Dropout(self.dropout, name=DROPOUT_LAYER)(ModelFeatures.of(features).tensor)
        return CtcLogits(self, name=LOGITS_LAYER)(dropped)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Decode logits [B, T, units] to ``text`` and ``score``."""
        logits = tf.cast(logits, tf.float32)
        found, likely = greedy(logits) if self.beam_width == 1 else beam(logits, self.beam_width)
        names = tf.constant(self.class_names, tf.string)
        text = tf.strings.strip(tf.strings.reduce_join(tf.gather(names, found), axis=-1))
        frames = tf.cast(tf.maximum(frames_of(logits), 1), tf.float32)
        return {"text": tf.ensure_shape(text, [None]), "score": tf.exp(likely / frames)}


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError(
            "The labels of a transcription are characters, so soft=True (mixup) does not apply. Leave it out."
        )


def transcription(
    characters: Sequence[str] | str = (),
    *,
    architecture: str | None = None,
    dropout: float = 0.1,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    letter_case: LetterCase = "lower",
    punctuation: Punctuation = "drop",
    beam_width: int = 1,
) -> TranscriptHead:
    """Create a head that transcribes speech.

    Args:
        characters: Alphabet in the order of the labels, a list or a text such as ``" abc"``; ``data.class_names`` of
            loaded data. Only for CTC.
        architecture: ``"ctc"`` for a new layer on a backbone that gives a sequence of frames; ``"encoder_decoder"`` for
            the pretrained decoder of a backbone, with its own vocabulary. Defaults to ``"ctc"``.
        dropout: As in :func:`tfft.heads.classification`. Only for CTC.
        l2: As in :func:`tfft.heads.classification`. Only for CTC.
        label_smoothing: Share of the target that is spread over all tokens. Only for an encoder-decoder.
        letter_case: How the transcripts were normalized: ``"lower"`` or ``"keep"``.
        punctuation: ``"drop"`` or ``"keep"``.
        beam_width: Number of texts that decoding compares; 1 takes the most probable character of each frame, or the
            most probable next token.

    Returns:
        A head with one logit per character, and one of the blank; or one without weights, for the logits of tokens.

    Example:
        >>> head = transcription(" abcdefghijklmnopqrstuvwxyz'")
        >>> model = tfft.build(tfft.load_backbone("speech-encoder-small"), head, audio=tfft.AudioSpec(16000, 10.0))
    """
    how: dict[str, Any] = {"letter_case": letter_case, "punctuation": punctuation, "beam_width": beam_width}
    how["label_smoothing"] = label_smoothing
    if architecture == ENCODER_DECODER:
        from tfft.tasks.transcription.decoder_head import DecoderTranscriptionHead

        return DecoderTranscriptionHead("transcription", None, 1, **how)
    if architecture not in (None, CTC):
        raise PlanError(unknown_name("architecture", architecture, ARCHITECTURES))
    names = tuple(characters)
    return TranscriptionHead("transcription", names, len(names) + 1, dropout, l2, **how)
