"""Last layer of a transcription model: :class:`CtcLogits`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from tfft.heads import Head, Logits
from tfft.layers.speech_blocks import present_frames
from tfft.losses import ABSENT


@keras.saving.register_keras_serializable(package="tfft")
class CtcLogits(Logits):
    """Logits of the characters and the blank for each frame.

    Frames after the last one with a feature other than 0 hold no audio: all their logits are
    :data:`tfft.losses.ABSENT`, so loss, metrics and decoding need no lengths. The first frame always counts.

    Args:
        head: As for :class:`tfft.heads.Logits`.
        **kwargs: As for :class:`tfft.heads.Logits`.
    """

    def __init__(self, head: Head | Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(head, **kwargs)
        self.supports_jit = False  # the loss and the metric of a model with this layer have no XLA kernels

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return logits [B, T, units] from features [B, T, width]."""
        there = present_frames(inputs)[..., None]
        return keras.ops.where(there, super().call(inputs, training=training), ABSENT)
