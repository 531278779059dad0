"""Loss and accuracy of the tokens of a text: :class:`TokenCrossentropy`, :class:`TokenAccuracy`."""

from __future__ import annotations

from typing import Any

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402


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
