"""Pooling of token features into one vector: :class:`PoolPieces`."""

from __future__ import annotations

from typing import Any, Literal

import keras


@keras.saving.register_keras_serializable(package="tfft")
class PoolPieces(keras.layers.Layer):
    """Pool token features, ignoring padding.

    Args:
        how: ``"cls"`` takes the first token, ``"mean"`` the mean of all, ``"last"`` the last.
        **kwargs: As for any Keras layer.
    """

    def __init__(self, how: Literal["cls", "mean", "last"], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.how = how

    def call(self, features: Any, present: Any) -> Any:
        """Return [B, D] from features [B, L, D] and ``present`` [B, L], 1 for tokens and 0 for padding."""
        if self.how == "cls":
            return features[:, 0]
        weights = keras.ops.cast(present, features.dtype)[:, :, None]
        if self.how == "last":
            weights *= 1 - keras.ops.pad(weights[:, 1:], ((0, 0), (0, 1), (0, 0)))
        return keras.ops.sum(features * weights, axis=1) / keras.ops.maximum(keras.ops.sum(weights, axis=1), 1)

    def compute_output_shape(self, features_shape: Any, present_shape: Any) -> Any:
        """Return the shape without the token axis."""
        return (features_shape[0], features_shape[2])

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "how": self.how}
