"""A convolution and its BatchNorm as one layer with quick gradients, and whether that pays on this machine."""

from __future__ import annotations

import os
from typing import Any

import keras
import tensorflow as tf

PLAIN_GRADIENTS = "TFFT_PLAIN_GRADIENTS"
LARGE_KERNEL = 2**15  # numbers of a 1x1 kernel; below it, a convolution has gradients as fast as those of a product


def use_fast_gradients() -> bool:
    """Return whether training runs rewritten graphs: on CPUs, unless ``TFFT_PLAIN_GRADIENTS=1`` is set.

    GPUs have quick gradients of convolutions.

    Returns:
        Whether to rewrite.
    """
    return os.environ.get(PLAIN_GRADIENTS, "0") in ("", "0") and not tf.config.list_logical_devices("GPU")


class FoldedConvolution(keras.layers.Layer):
    """A convolution followed by a BatchNorm with fixed statistics, with the BatchNorm folded into the kernel.

    It computes ``conv(x, w * s) + (b - mean) * s + beta`` with ``s = gamma / sqrt(variance + epsilon)``: the same
    function, but the gradients of gamma and beta take passes over the kernel instead of the activations. 1x1
    convolutions with large kernels are matrix products, as in
    :func:`tfft.backbones.savedmodel.training_rewrites.rewrite_for_training`.

    Args:
        convolution: Built ``Conv2D`` or ``DepthwiseConv2D`` with channels last and without activation.
        norm: Built BatchNorm behind it, whose statistics do not move. None for a convolution alone.
        **kwargs: Arguments of a Keras layer.

    Input shape:
        That of the convolution.

    Output shape:
        That of the convolution.

    Example:
        >>> folded = FoldedConvolution(model.get_layer("conv1_conv"), model.get_layer("conv1_bn"))
    """

    def __init__(self, convolution: Any, norm: keras.layers.BatchNormalization | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.convolution, self.norm = convolution, norm
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Convolve with the folded kernel."""
        convolution, norm = self.convolution, self.norm
        kernel, bias = convolution.kernel, convolution.bias if convolution.use_bias else None
        kernel = tf.convert_to_tensor(kernel)
        if norm is not None:
            scale = tf.math.rsqrt(norm.moving_variance + norm.epsilon)
            if norm.scale:
                scale *= norm.gamma
            bias = (-norm.moving_mean if bias is None else bias - norm.moving_mean) * scale
            if norm.center:
                bias += norm.beta
            kernel *= tf.reshape(scale, kernel.shape[2:]) if _is_depthwise(convolution) else scale
        outputs = self._convolved(inputs, kernel)
        return outputs if bias is None else tf.nn.bias_add(outputs, bias)

    def _convolved(self, inputs: Any, kernel: tf.Tensor) -> Any:
        convolution = self.convolution
        if _is_depthwise(convolution):
            return keras.ops.depthwise_conv(
                inputs,
                kernel,
                strides=convolution.strides,
                padding=convolution.padding,
                data_format="channels_last",
                dilation_rate=convolution.dilation_rate,
            )
        if is_product(convolution):
            return tf.einsum("bhwc,cf->bhwf", inputs, tf.reshape(kernel, kernel.shape[2:]))
        return convolution.convolution_op(inputs, kernel)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape that the convolution gives."""
        return self.convolution.compute_output_shape(input_shape)


def is_product(convolution: Any) -> bool:
    """Return whether a Keras convolution is a product of pixels and a large matrix."""
    if not isinstance(convolution, keras.layers.Conv2D) or convolution.groups != 1:
        return False
    sides = {*convolution.kernel_size, *convolution.strides, *convolution.dilation_rate}
    return sides == {1} and convolution.kernel.shape.num_elements() >= LARGE_KERNEL


def _is_depthwise(convolution: Any) -> bool:
    return isinstance(convolution, keras.layers.DepthwiseConv2D)
