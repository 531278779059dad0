"""Blocks of an encoder of speech that handle padding exactly: :class:`FrameConvolution`, :class:`ConformerBlock`.

A frame whose values are all 0 is absent. Each block leaves absent frames at 0, and no other frame depends on them or on
the number of them, so a clip has the same features alone and in a padded batch.
"""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="tfft")
class FrameConvolution(keras.layers.Layer):
    """Convolution over time with stride 2, layer normalization and swish.

    Args:
        filters: Width of the output.
        kernel_size: Frames under a filter, odd.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: Float [B, T, width], 0 in absent frames.

    Output shape:
        [B, ceil(T / 2), filters].
    """

    def __init__(self, filters: int, kernel_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.filters, self.kernel_size = filters, kernel_size
        self.pad = keras.layers.ZeroPadding1D(kernel_size // 2, name="pad")  # "same" would depend on the length
        self.convolution = keras.layers.Conv1D(filters, kernel_size, strides=2, padding="valid", name="convolution")
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")

    def build(self, input_shape: Any) -> None:
        """Create the variables."""
        self.convolution.build(input_shape)
        self.norm.build((None, None, self.filters))
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return every other frame."""
        there = present(inputs)[:, ::2]
        found = keras.ops.silu(self.norm(self.convolution(self.pad(inputs))))
        return keras.ops.where(there, found, 0.0)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape."""
        frames = None if input_shape[1] is None else (input_shape[1] + 1) // 2
        return (input_shape[0], frames, self.filters)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "filters": self.filters, "kernel_size": self.kernel_size}


@keras.saving.register_keras_serializable(package="tfft")
class ConformerBlock(keras.layers.Layer):
    """Half a feed-forward layer, self-attention, a convolution, and another half.

    Gulati et al., "Conformer: Convolution-augmented transformer for speech recognition", 2020. Differences: the
    convolution has layer normalization instead of BatchNorm, whose statistics would depend on the padding, and the
    attention has no positions of its own; the convolutions tell the order of neighbours.

    Args:
        width: Width of input and output.
        heads: Number of attention heads.
        kernel_size: Frames under the depthwise convolution, odd.
        expansion: Width of the feed-forward layers relative to ``width``.
        dropout: Dropout rate of each part.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: Float [B, T, width], 0 in absent frames.

    Output shape:
        [B, T, width].
    """

    def __init__(
        self, width: int, heads: int = 4, kernel_size: int = 15, expansion: int = 4, dropout: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.width, self.heads, self.kernel_size = width, heads, kernel_size
        self.expansion, self.dropout_rate = expansion, dropout
        layers, inner = keras.layers, expansion * width
        self.norms = [layers.LayerNormalization(epsilon=1e-5, name=f"norm{at}") for at in range(6)]
        self.drops = [layers.Dropout(dropout, name=f"dropout{at}") for at in range(4)]
        self.wide = [layers.Dense(inner, "silu", name=f"wide{at}") for at in range(2)]
        self.narrow = [layers.Dense(width, name=f"narrow{at}") for at in range(2)]
        self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=dropout, name="attention")
        self.gate = layers.Dense(2 * width, name="gate")
        self.pad = layers.ZeroPadding1D(kernel_size // 2, name="pad")
        self.depthwise = layers.DepthwiseConv1D(kernel_size, padding="valid", name="depthwise")
        self.mix = layers.Dense(width, name="mix")

    def build(self, input_shape: Any) -> None:
        """Create the variables."""
        shape, inner = (None, None, self.width), (None, None, self.expansion * self.width)
        for norm in self.norms:
            norm.build(shape)
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            wide.build(shape)
            narrow.build(inner)
        self.attention.build(shape, shape)
        self.gate.build(shape)
        self.depthwise.build(shape)
        self.mix.build(shape)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the frames, each with what it has learned of the others."""
        there = present(inputs)
        x = inputs + 0.5 * self._forward(0, inputs, training)
        x = x + self._attend(x, there, training)
        x = x + self._convolve(x, there, training)
        x = self.norms[5](x + 0.5 * self._forward(1, x, training))
        return keras.ops.where(there, x, 0.0)

    def _forward(self, at: int, x: Any, training: bool | None) -> Any:
        return self.drops[at](self.narrow[at](self.wide[at](self.norms[at](x))), training=training)

    def _attend(self, x: Any, there: Any, training: bool | None) -> Any:
        normal = self.norms[2](x)
        seen = keras.ops.transpose(there, (0, 2, 1))  # [B, 1, T]
        return self.drops[2](self.attention(normal, normal, attention_mask=seen, training=training), training=training)

    def _convolve(self, x: Any, there: Any, training: bool | None) -> Any:
        value, gate = keras.ops.split(self.gate(self.norms[3](x)), 2, axis=-1)
        gated = keras.ops.where(there, value * keras.ops.sigmoid(gate), 0.0)
        mixed = self.mix(keras.ops.silu(self.norms[4](self.depthwise(self.pad(gated)))))
        return self.drops[3](mixed, training=training)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the shape of the inputs."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"width": self.width, "heads": self.heads, "kernel_size": self.kernel_size, "expansion": self.expansion}
        return {**super().get_config(), **own, "dropout": self.dropout_rate}


def present(frames: Any) -> Any:
    """Return where frames are present, bool [B, T, 1], for frames [B, T, width] that are 0 where they are absent."""
    return keras.ops.any(keras.ops.not_equal(frames, 0.0), axis=-1, keepdims=True)


def present_frames(frames: Any) -> Any:
    """Return bool [B, T]: True up to the last frame of [B, T, width] that is not 0; the first one always counts."""
    ops = keras.ops
    at = ops.arange(ops.shape(frames)[1])
    last = ops.max(ops.where(present(frames)[..., 0], at, 0), axis=1)
    return at <= last[:, None]
