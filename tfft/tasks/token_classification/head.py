"""Head for token classification."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import keras
import tensorflow as tf

from tfft.errors import PlanError
from tfft.heads import DROPOUT_LAYER, FOCAL_GAMMA, LOGITS_LAYER, Head, Logits, ModelFeatures, WordLogits, as_names
from tfft.losses import ABSENT, TagAccuracy, TagCrossentropy


@dataclasses.dataclass(frozen=True)
class TokenClassificationHead(Head):
    """One logit per tag and word; the labels are integers [B, W], below 0 for padding.

    Served: ``probabilities`` float32 [B, W, tags], ``label`` tf.string [B, W], ``logits``; where there is no word,
    zeros and ``""``.
    """

    least_names: ClassVar[int] = 2

    def loss(self, *, soft: bool = False) -> keras.losses.Loss:
        """Return the cross-entropy or the focal loss, a mean over labelled words."""
        _refuse(soft)
        gamma = FOCAL_GAMMA if self.loss_name == "focal" else 0.0
        return TagCrossentropy(gamma, self.label_smoothing, name="focal" if gamma else "crossentropy")

    def metrics(self, *, soft: bool = False) -> list[keras.metrics.Metric]:
        """Return ``accuracy``, the share of labelled words with the right tag."""
        _refuse(soft)
        return [TagAccuracy(name="accuracy")]

    def attach(self, features: keras.KerasTensor | ModelFeatures) -> keras.KerasTensor:
        """Add ``dropout`` and ``logits`` to features of words [B, W, width]; return logits [B, W, units]."""
        given = ModelFeatures.of(features)
        dropped = keras.layers.Dropout(self.dropout, name=DROPOUT_LAYER)(given.tensor)
        if given.word_starts is None:
            return Logits(self, name=LOGITS_LAYER)(dropped)
        return WordLogits(self, name=LOGITS_LAYER)(dropped, given.word_starts)

    def postprocess(self, logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """Turn logits [B, W, tags] into probabilities and the most probable tag of each word."""
        logits = tf.cast(logits, tf.float32)
        label = tf.gather(tf.constant(self.class_names, tf.string), tf.argmax(logits, axis=-1))
        there = tf.reduce_max(logits, axis=-1) > ABSENT / 2
        probabilities = tf.where(there[..., None], tf.nn.softmax(logits), 0.0)
        return {"probabilities": probabilities, "label": tf.where(there, label, ""), "logits": logits}


def _refuse(soft: bool) -> None:
    if soft:
        raise PlanError("The tags of words are integers, so soft=True does not apply. Leave it out.")


def token_classification(
    tag_names: Sequence[str],
    *,
    dropout: float = 0.2,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    loss: str = "cross_entropy",
) -> TokenClassificationHead:
    """Create a head for one of several tags per word of a sentence, such as entities or parts of speech.

    The model takes sentences whose words are separated by spaces. The first token of a word decides its tag. The model
    does not see words behind the end of what the backbone can take: training leaves them out, and the answer is
    ``"O"`` where there is such a tag, and ``""`` where there is none.

    Args:
        tag_names: Tags in the order of the labels, such as ``["O", "B-PER", "I-PER"]``; ``data.class_names`` of loaded
            data.
        dropout: As in :func:`tfft.heads.classification`.
        l2: As in :func:`tfft.heads.classification`.
        label_smoothing: As in :func:`tfft.heads.classification`.
        loss: As in :func:`tfft.heads.classification`.

    Returns:
        A head with one logit per tag and word.

    Example:
        >>> head = token_classification(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    """
    names = as_names(tag_names)
    return TokenClassificationHead("token_classification", names, len(names), dropout, l2, label_smoothing, loss)
