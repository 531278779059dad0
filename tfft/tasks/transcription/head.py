"""Head for transcription: logits of the characters for each frame, decoded to text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.errors import PlanError
from tfft.heads import DROPOUT_LAYER, LOGITS_LAYER, Head, ModelFeatures
from tfft.tasks.transcription.decoding import beam, frames_of, greedy
from tfft.tasks.transcription.layers import CtcLogits
from tfft.tasks.transcription.loss import CtcLoss
from tfft.tasks.transcription.metric import CharacterErrorRate
from tfft.tasks.transcription.text import CASES, MARKS, MOST_CHARACTERS, LetterCase, Normalization, Punctuation


@dataclasses.dataclass(frozen=True)
class TranscriptionHead(Head):
    """One logit per character, and one of the blank, for each frame; labels are integers [B, L], below 0 for padding.

    The label of a character is its position in ``class_names``; ``len(class_names)`` stands for a character outside of
    the alphabet. The last logit is that of the blank.

    Served: ``text`` string [B], and ``score`` float32 [B], the probability of the answer for one frame (the geometric
    mean over the frames), 0 to 1.

    Attributes:
        letter_case: How the transcripts were normalized, see
            :class:`tfft.tasks.transcription.text.Normalization`.
        punctuation: As ``letter_case``.
        beam_width: Number of texts that decoding compares; 1 takes the best character of each frame.
    """

    dropout: float = 0.1
    letter_case: LetterCase = "lower"
    punctuation: Punctuation = "drop"
    beam_width: int = 1

    @staticmethod
    def units_for(class_names: tuple[str, ...]) -> int:
        """Return the characters and the blank."""
        return len(class_names) + 1

    @property
    def normalization(self) -> Normalization:
        """How transcripts are written."""
        return Normalization(self.letter_case, self.punctuation)

    @property
    def facts(self) -> dict[str, object]:
        """Facts for the card of an export: how the text is written and decoded."""
        how = "greedy" if self.beam_width == 1 else f"beam search, {self.beam_width} texts"
        return {"text": self.normalization.words, "decoding": how, "padding": "trailing zeros of a wave are padding"}

    def problems(self) -> list[str]:
        """Return the problems of the fields, one sentence each."""
        problems = super().problems()
        if self.loss_name != "cross_entropy":
            problems.append(f"transcription has one loss, received loss={self.loss_name!r}: leave it out")
        if self.label_smoothing:
            problems.append(f"transcription takes no label_smoothing, received {self.label_smoothing!r}: leave it out")
        if isinstance(self.beam_width, bool) or not isinstance(self.beam_width, int) or self.beam_width < 1:
            problems.append(f"beam_width must be an integer of at least 1, received {self.beam_width!r}")
        for name, valid in (("letter_case", CASES), ("punctuation", MARKS)):
            if getattr(self, name) not in valid:
                problems.append(f"{name} must be {' or '.join(valid)}, received {getattr(self, name)!r}")
        if len(self.class_names or ()) > MOST_CHARACTERS:
            problems.append(
                f"CTC needs a small alphabet, at most {MOST_CHARACTERS}, received {len(self.class_names or ())}"
            )
        return problems

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
    characters: Sequence[str] | str,
    *,
    dropout: float = 0.1,
    l2: float = 0.0,
    letter_case: LetterCase = "lower",
    punctuation: Punctuation = "drop",
    beam_width: int = 1,
) -> TranscriptionHead:
    """Create a head that transcribes speech, for a backbone that gives a sequence of frames.

    Args:
        characters: Alphabet in the order of the labels, a list or a text such as ``" abc"``; ``data.class_names`` of
            loaded data.
        dropout: As in :func:`tfft.heads.classification`.
        l2: As in :func:`tfft.heads.classification`.
        letter_case: How the transcripts were normalized: ``"lower"`` or ``"keep"``.
        punctuation: ``"drop"`` or ``"keep"``.
        beam_width: Number of texts that decoding compares; 1 takes the best character of each frame.

    Returns:
        A head with one logit per character, and one of the blank.

    Example:
        >>> head = transcription(" abcdefghijklmnopqrstuvwxyz'")
        >>> model = tfft.build(tfft.load_backbone("speech-encoder-small"), head, audio=tfft.AudioSpec(16000, 10.0))
    """
    names = tuple(characters)
    how: dict[str, Any] = {"letter_case": letter_case, "punctuation": punctuation, "beam_width": beam_width}
    return TranscriptionHead("transcription", names, len(names) + 1, dropout, l2, **how)
