"""Preprocessing for networks trained with Caffe: :class:`CaffePixels`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tfft")
class CaffePixels(keras.layers.Layer):
    """Convert RGB pixels in 0 to 255 to the input of networks trained with Caffe: BGR minus the means.

    It has no variables; ResNet and VGG of ``keras.applications`` start with it.

    Args:
        means: Means of ImageNet's blue, green and red, subtracted in this order.
        **kwargs: Arguments of every Keras layer.
    """

    def __init__(self, means: Sequence[float] = (103.939, 116.779, 123.68), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.means = tuple(float(mean) for mean in means)

    def call(self, inputs: Any) -> Any:
        """Map ``[batch, height, width, 3]`` to the same shape."""
        blue_first = keras.ops.flip(inputs, axis=-1)
        return blue_first - keras.ops.convert_to_tensor(self.means, dtype=blue_first.dtype)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "means": list(self.means)}
