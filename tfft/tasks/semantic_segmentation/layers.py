"""Layer of the segmentation decoder: :class:`UpsampleLike`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="tfft")
class UpsampleLike(keras.layers.Layer):
    """Resize a feature map to the size of a finer one, by bilinear interpolation.

    Backbones with "same" padding round sizes up, so the finer map is not always exactly twice as large: 11 rows may
    follow 6. ``UpSampling2D`` would give 12.

    Call arguments:
        coarse: Feature map [B, h, w, C].
        fine: Feature map [B, H, W, D], of which only the size counts.

    Output shape:
        [B, H, W, C].

    Example:
        >>> UpsampleLike()(tf.zeros([2, 6, 8, 96]), tf.zeros([2, 11, 15, 24])).shape
        TensorShape([2, 11, 15, 96])
    """

    def call(self, coarse: Any, fine: Any) -> tf.Tensor:
        """Return the coarse map in the size of the fine one."""
        known = fine.shape[1:3]
        size = tf.shape(fine)[1:3] if None in tuple(known) else list(known)
        return tf.cast(tf.image.resize(coarse, size, "bilinear"), self.compute_dtype)  # the resize gives float32

    def compute_output_shape(self, coarse_shape: Any, fine_shape: Any) -> tuple[int | None, ...]:
        """Return the size of the fine map with the channels of the coarse one."""
        return (coarse_shape[0], *fine_shape[1:3], coarse_shape[-1])
