"""Transcription with the pretrained decoder of a backbone: :data:`DECODER_TRANSCRIPTION`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.registry import Default, Metric, Task
from tfft.tasks.transcription import Transcription

if TYPE_CHECKING:
    from tfft.heads import Head


class DecoderTranscription(Transcription):
    """The text of a recording, written token by token.

    A label is int32 [L], the tokens that follow each position of the transcript, -1 for padding. After the text,
    ``-(2 + g)`` may name the group of the clip.
    """

    trains_head: ClassVar[bool] = False
    caches_features: ClassVar[bool] = False
    head_reason: ClassVar[str] = "it has no weights: the decoder of the backbone gives logits of the next token itself"
    selection: ClassVar[Metric] = Metric("accuracy")
    without: ClassVar[Mapping[str, str]] = {
        name: why for name, why in Transcription.without.items() if name != "label_smoothing"
    }
    example_results = Task.example_results  # logits alone are no transcript

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.transcription.decoder_head import DecoderTranscriptionHead

        return DecoderTranscriptionHead

    def phase_defaults(self) -> Mapping[str, Default]:
        """Return small batches, the rate of pretrained transformers, and SpecAugment."""
        usual = super().phase_defaults()
        return {
            "batch_size": Default(16, "16: a clip has many tokens"),
            "augment": usual["augment"],
            "learning_rate": Default(5e-5, "usual for pretrained transformers"),
        }

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return nothing: its metric is that of next tokens."""
        return {}


DECODER_TRANSCRIPTION: Any = DecoderTranscription()

__all__: Sequence[str] = ["DECODER_TRANSCRIPTION", "DecoderTranscription"]
