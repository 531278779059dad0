"""Losses and metrics on logits that Keras lacks or implements with a fault.

Implementation notes: the losses stay finite and keep their gradient for very wrong predictions; padding of words does
not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tfft.errors import PlanError, require_platform

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

# All logits have this value where there is no word, and all but one for a word that the model could not see. A layer of
# logits never comes near it, and its softmax is finite.
ABSENT = -1e9


@keras.saving.register_keras_serializable(package="tfft")
class SparseCrossentropy(keras.losses.Loss):
    """Cross-entropy of integer labels and logits, with label smoothing, which Keras has for one-hot labels only.

    With smoothing s and C classes the target is ``1 - s + s / C`` for the label and ``s / C`` elsewhere.

    Args:
        label_smoothing: The s above, 0 or more and below 1.
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> SparseCrossentropy(label_smoothing=0.1)(labels, logits)
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = float(label_smoothing)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, [B]; labels are [B] or [B, 1], logits [B, C]."""
        labels = keras.ops.cast(keras.ops.reshape(y_true, (-1,)), "int32")
        loss = keras.ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        if not self.label_smoothing:
            return loss
        spread = -keras.ops.mean(keras.ops.log_softmax(y_pred), axis=-1)
        return (1.0 - self.label_smoothing) * loss + self.label_smoothing * spread

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="tfft")
class ScaledSquaredError(keras.losses.Loss):
    """Squared error in units of the spread of the targets, so that a loss of 1 is that of always saying the mean.

    A rate, a weight decay or a limit of the gradient then means the same for prices in cents and in millions.

    Args:
        spreads: Standard deviation of each value over the training examples.
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> ScaledSquaredError([100_000.0])(prices, model(photos))
    """

    def __init__(self, spreads: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spreads = [float(spread) for spread in spreads]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, [B]; values are [B, units], targets [B, units], or [B] for one unit."""
        true = keras.ops.reshape(keras.ops.cast(y_true, y_pred.dtype), keras.ops.shape(y_pred))
        off = (true - y_pred) / keras.ops.convert_to_tensor(self.spreads, y_pred.dtype)
        return keras.ops.mean(keras.ops.square(off), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "spreads": self.spreads}


@keras.saving.register_keras_serializable(package="tfft")
class FocalCrossentropy(keras.losses.Loss):
    """Focal loss of logits: cross-entropy with less weight for well-classified examples.

    The term of a class with probability p is ``-(1 - p) ** gamma * log(p)`` instead of ``-log(p)`` (Lin et al., "Focal
    loss for dense object detection", 2017). It is computed from logits without clipping, so a very wrong example keeps
    its gradient, unlike in the Keras losses of that name.

    Args:
        gamma: Focusing parameter; 0 is plain cross-entropy.
        label_smoothing: As in :class:`SparseCrossentropy`, or towards 1/2 for independent labels.
        independent: Whether labels are each 0 or 1, instead of one class of several.
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> FocalCrossentropy(gamma=2.0)(labels, logits)
    """

    def __init__(
        self, gamma: float = 2.0, label_smoothing: float = 0.0, independent: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= gamma < float("inf"):
            raise PlanError(f"gamma of the focal loss must be 0 or more, received {gamma!r}")
        self.gamma, self.label_smoothing, self.independent = float(gamma), float(label_smoothing), bool(independent)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each example, [B]; logits are [B, C], labels whole [B] or shares [B, C]."""
        ops, smoothing = keras.ops, self.label_smoothing
        if self.independent:
            target = ops.reshape(y_true, ops.shape(y_pred)) * (1.0 - smoothing) + smoothing / 2.0
            yes, no = self._terms(ops.log_sigmoid(y_pred)), self._terms(ops.log_sigmoid(-y_pred))
            return ops.mean(target * yes + (1.0 - target) * no, axis=-1)
        each = self._terms(ops.log_softmax(y_pred))
        if len(y_true.shape) > 1 and y_true.shape[-1] != 1:
            loss = ops.sum(y_true * each, axis=-1)
        else:  # this operation refuses labels that no class has
            labels = ops.cast(ops.reshape(y_true, (-1,)), "int32")
            loss = self._terms(-ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True))
        return (1.0 - smoothing) * loss + smoothing * ops.mean(each, axis=-1) if smoothing else loss

    def _terms(self, log_p: Any) -> Any:
        if not self.gamma:
            return -log_p
        # At p = 1 a power below 1 has no finite slope, and 0 * infinity is NaN.
        rest = keras.ops.maximum(-keras.ops.expm1(log_p), keras.config.epsilon())
        return -(rest**self.gamma) * log_p

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"gamma": self.gamma, "label_smoothing": self.label_smoothing, "independent": self.independent}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class TagCrossentropy(keras.losses.Loss):
    """Cross-entropy of the tags of words: the mean over the labelled words of a batch.

    The loss of :func:`tfft.heads.token_classification`.
    Padding does not count, whatever its share of the batch: labels below 0 are ignored, and so are words that the model
    could not see (see :class:`tfft.heads.WordLogits`). Labels may be padded further than the logits.

    Args:
        gamma: 0 for cross-entropy, above for the focal loss, as in :class:`FocalCrossentropy`.
        label_smoothing: As in :class:`SparseCrossentropy`.
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> TagCrossentropy()(labels, logits)  # int [B, W], float [B, W, C]
    """

    def __init__(self, gamma: float = 0.0, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._of_words = FocalCrossentropy(gamma, label_smoothing)
        self.gamma, self.label_smoothing = self._of_words.gamma, self._of_words.label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each sentence [B]: the sum over its words, scaled so that the mean of all sentences
        is the mean of all words.
        """
        ops = keras.ops
        labels, logits, counts = aligned_tags(y_true, y_pred)
        safe = ops.where(counts[..., None], logits, 0.0)
        classes = ops.shape(logits)[-1]
        each = self._of_words.call(ops.reshape(ops.maximum(labels, 0), (-1,)), ops.reshape(safe, (-1, classes)))
        weights = ops.cast(counts, each.dtype)
        sums = ops.sum(ops.reshape(each, ops.shape(labels)) * weights, axis=-1)
        sentences = ops.cast(ops.shape(labels)[0], each.dtype)
        return sums * sentences / ops.maximum(ops.sum(weights), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "gamma": self.gamma, "label_smoothing": self.label_smoothing}


@keras.saving.register_keras_serializable(package="tfft")
class TagAccuracy(keras.metrics.Mean):
    """Share of labelled words with the correct tag; a word that the model could not see counts with its prediction.

    Args:
        **kwargs: ``name``, ``dtype``.
    """

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: labels [B, W], below 0 for padding, and logits [B, W, C]."""
        ops = keras.ops
        labels, logits, _ = aligned_tags(y_true, y_pred)
        answered = ops.logical_and(
            ops.equal(ops.argmax(logits, axis=-1), labels), ops.any(logits > ABSENT / 2, axis=-1)
        )
        weights = ops.cast(labels >= 0, self.dtype)
        if sample_weight is not None:
            weights *= ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
        super().update_state(ops.cast(answered, self.dtype), sample_weight=weights)


def aligned_tags(y_true: Any, y_pred: Any) -> tuple[Any, Any, Any]:
    """Pad labels and logits of words to one width.

    Args:
        y_true: Integers [B, V], below 0 for padding.
        y_pred: Logits [B, W, C].

    Returns:
        Labels int32 and logits, both padded to the larger of V and W, and bool of the same width: True for labelled
        words that the model saw.
    """
    ops = keras.ops
    labels, logits = ops.cast(y_true, "int32"), ops.convert_to_tensor(y_pred)
    given, made = ops.shape(labels)[1], ops.shape(logits)[1]
    labels = ops.pad(labels, ((0, 0), (0, ops.maximum(made - given, 0))), constant_values=-1)
    logits = ops.pad(logits, ((0, 0), (0, ops.maximum(given - made, 0)), (0, 0)), constant_values=ABSENT)
    return labels, logits, ops.logical_and(labels >= 0, ops.all(logits > ABSENT / 2, axis=-1))


@keras.saving.register_keras_serializable(package="tfft")
def soft_binary_accuracy(y_true: Any, y_pred: Any) -> Any:
    """Return for each example the share of labels [B, n] on the same side of 1/2 as the logits' probability."""
    same = keras.ops.equal(y_true > 0.5, y_pred > 0.0)
    return keras.ops.mean(keras.ops.cast(same, "float32"), axis=-1)


@keras.saving.register_keras_serializable(package="tfft")
class TokenCrossentropy(keras.losses.Loss):
    """Cross-entropy of the next tokens with label smoothing: the mean over the present tokens of a batch.

    With smoothing e and V tokens the target distribution is (1 - e) for the token and e / V for each (Szegedy et al.,
    "Rethinking the Inception architecture", 2016; Vaswani et al., 2017). Labels below 0 are padding.

    Args:
        label_smoothing: Share of the target that is spread over all tokens.
        **kwargs: ``name``, ``reduction``, ``dtype``.

    Example:
        >>> TokenCrossentropy(0.1)(labels, logits)  # int [B, T], float [B, T, V]
    """

    def __init__(self, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.label_smoothing = float(label_smoothing)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each text [B]: the sum over its tokens, scaled so that the mean of all texts is the mean
        of all tokens.
        """
        ops = keras.ops
        labels = ops.cast(y_true, "int32")
        there = ops.cast(labels >= 0, y_pred.dtype)
        classes = ops.shape(y_pred)[-1]
        # One pass over the logits: the sum of exponentials, without a tensor of all log-probabilities.
        of_token = ops.sparse_categorical_crossentropy(
            ops.reshape(ops.maximum(labels, 0), (-1,)), ops.reshape(y_pred, (-1, classes)), from_logits=True
        )
        each = ops.reshape(of_token, ops.shape(labels))
        if self.label_smoothing:
            chosen = ops.take_along_axis(y_pred, ops.maximum(labels, 0)[..., None], axis=-1)[..., 0]
            each = each + self.label_smoothing * (chosen - ops.mean(y_pred, axis=-1))
        texts = ops.cast(ops.shape(labels)[0], each.dtype)
        return ops.sum(each * there, axis=-1) * texts / ops.maximum(_of_each_copy(ops.sum(there)), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def _of_each_copy(count: Any) -> Any:
    """Return the mean of a number over the copies of the model, so that the mean of their losses is that of all tokens.

    Without a strategy that copies the model, it is the number itself.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return count
    return context.all_reduce(tf.distribute.ReduceOp.SUM, count) / context.num_replicas_in_sync


@keras.saving.register_keras_serializable(package="tfft")
class TokenAccuracy(keras.metrics.Mean):
    """Share of present tokens that are the most probable ones after the true tokens before them.

    Args:
        **kwargs: ``name``, ``dtype``.
    """

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Add a batch: labels [B, T], below 0 for padding, and logits [B, T, V]."""
        ops = keras.ops
        labels = ops.cast(y_true, "int32")
        right = ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), labels)
        weights = ops.cast(labels >= 0, self.dtype)
        if sample_weight is not None:
            weights *= ops.reshape(ops.cast(sample_weight, self.dtype), (-1, 1))
        super().update_state(ops.cast(right, self.dtype), sample_weight=weights)
