"""Layers of an acoustic model for speech synthesis: symbols, blocks, durations and the length regulator.

Padding is exact: a text gives the same frames alone and in a batch of longer texts. A mask, float [B, S, 1] of 1 and 0,
goes along with the features, and features are 0 where it is 0. Frames carry theirs as the last two of their channels:
the predicted logarithm of the duration, and the weight 1 / duration, 0 behind the end of a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.errors import PlanError

LONGEST_SYMBOL = 200  # frames of one symbol, at most, where the durations are predicted


@keras.saving.register_keras_serializable(package="tfft")
class SymbolEmbedding(keras.layers.Layer):
    """Embed symbols, such as characters or phonemes, and remember which symbol has which row.

    The vocabulary is part of the config, so a voice that is trained further on other texts keeps the vectors of the
    symbols that it knows, and :meth:`extend` gives unused rows to new ones.

    Args:
        width: Width of a vector.
        capacity: Number of symbols that fit.
        vocabulary: Known symbols; the first one has row 1.
        **kwargs: As for any Keras layer.

    Call arguments:
        rows: int32 [B, S], 0 for padding.

    Output shape:
        [B, S, width], 0 for padding.
    """

    def __init__(self, width: int, capacity: int = 255, vocabulary: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.capacity, self.vocabulary = width, capacity, list(vocabulary)

    def build(self, shape: Any) -> None:
        """Create the table."""
        start = keras.initializers.RandomNormal(stddev=self.width**-0.5)
        self.table = self.add_weight((self.capacity + 1, self.width), start, name="table")
        self.built = True

    def extend(self, symbols: Sequence[str]) -> list[str]:
        """Add symbols to the vocabulary and return those that were new.

        Args:
            symbols: Symbols of the texts.

        Raises:
            PlanError: If they do not fit.
        """
        new = [one for one in dict.fromkeys(symbols) if one not in self.vocabulary]
        if len(self.vocabulary) + len(new) > self.capacity:
            raise PlanError(
                f"Expected at most {self.capacity} symbols in all. Received: {len(self.vocabulary)} known ones and "
                f"{len(new)} new ones, such as {', '.join(map(repr, new[:5]))}. Are the texts in an alphabet? Give "
                "phonemes in a column phonemes."
            )
        self.vocabulary += new
        return new

    def rows_of(self, symbols: Sequence[str]) -> list[int]:
        """Return the rows of known symbols."""
        return [self.vocabulary.index(one) + 1 for one in symbols]

    def call(self, rows: Any) -> Any:
        """Return vectors."""
        there = keras.ops.cast(keras.ops.not_equal(rows, 0), self.compute_dtype)[..., None]
        return keras.ops.take(self.table, rows, axis=0) * there

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape."""
        return (*shape, self.width)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"width": self.width, "capacity": self.capacity, "vocabulary": list(self.vocabulary)}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class SymbolMask(keras.layers.Layer):
    """Mark where symbols are: float [B, S, 1] of 1 and 0, from int32 [B, S] with 0 for padding."""

    def call(self, rows: Any) -> Any:
        """Return the mask."""
        return keras.ops.cast(keras.ops.not_equal(rows, 0), self.compute_dtype)[..., None]

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape."""
        return (*shape, 1)


@keras.saving.register_keras_serializable(package="tfft")
class SpeechBlock(keras.layers.Layer):
    """Self-attention, where there are heads, and two convolutions, each with a residual connection.

    The feed-forward transformer block of FastSpeech (Ren et al., 2019). Differences: normalization comes first (Xiong
    et al., 2020), the second convolution has width 1, and there are no position encodings; the convolutions tell the
    order of neighbours.

    Args:
        width: Width of input and output.
        heads: Number of attention heads; 0 for a block without attention.
        kernel_size: Positions under the first convolution, odd.
        expansion: Width between the convolutions relative to ``width``.
        dropout: Dropout rate of each part.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: Float [B, N, width], 0 where the mask is.
        mask: Float [B, N, 1].

    Output shape:
        [B, N, width].
    """

    def __init__(
        self, width: int, heads: int = 2, kernel_size: int = 5, expansion: int = 2, dropout: float = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.width, self.heads, self.kernel_size = width, heads, kernel_size
        self.expansion, self.dropout_rate = expansion, dropout
        layers = keras.layers
        self.norms = [layers.LayerNormalization(epsilon=1e-5, name=f"norm{at}") for at in range(2)]
        self.drop = layers.Dropout(dropout, name="dropout")
        self.wide = layers.Conv1D(expansion * width, kernel_size, padding="same", activation="relu", name="wide")
        self.narrow = layers.Dense(width, name="narrow")
        if heads:
            self.attention = layers.MultiHeadAttention(heads, width // heads, dropout=dropout, name="attention")

    def build(self, inputs_shape: Any, mask_shape: Any = None) -> None:
        """Create the variables."""
        shape = (None, None, self.width)
        for norm in self.norms[0 if self.heads else 1 :]:
            norm.build(shape)
        self.wide.build(shape)
        self.narrow.build((None, None, self.expansion * self.width))
        if self.heads:
            self.attention.build(shape, shape)
        self.built = True

    def call(self, inputs: Any, mask: Any, training: bool | None = None) -> Any:
        """Return the positions, each with what it has learned of the others."""
        mask, x = keras.ops.cast(mask, inputs.dtype), inputs
        if self.heads:
            seen = keras.ops.transpose(mask, (0, 2, 1)) > 0
            normal = self.norms[0](x)
            found = self.attention(normal, normal, attention_mask=seen, training=training)
            x = (x + self.drop(found, training=training)) * mask
        found = self.narrow(self.wide(self.norms[1](x) * mask))
        return (x + self.drop(found, training=training)) * mask

    def compute_output_shape(self, inputs_shape: Any, mask_shape: Any = None) -> Any:
        """Return the shape of the inputs."""
        return tuple(inputs_shape)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"width": self.width, "heads": self.heads, "kernel_size": self.kernel_size, "expansion": self.expansion}
        return {**super().get_config(), **own, "dropout": self.dropout_rate}


@keras.saving.register_keras_serializable(package="tfft")
class FrameBlock(SpeechBlock):
    """A :class:`SpeechBlock` for frames, which carry their mask.

    Args:
        width: Channels of a frame without the last two.
        **kwargs: As for :class:`SpeechBlock`.

    Call arguments:
        frames: Float [B, T, width + 2]; the last two channels stay as they are.
    """

    def build(self, shape: Any) -> None:  # type: ignore[override]
        """Create the variables."""
        super().build((*shape[:-1], self.width))

    def call(self, frames: Any, training: bool | None = None) -> Any:  # type: ignore[override]
        """Return the frames."""
        found = super().call(frames[..., :-2], _there(frames), training=training)
        return keras.ops.concatenate([found, frames[..., -2:]], axis=-1)

    def compute_output_shape(self, shape: Any) -> Any:  # type: ignore[override]
        """Return the shape of the frames."""
        return tuple(shape)


@keras.saving.register_keras_serializable(package="tfft")
class FrameDense(keras.layers.Dense):
    """A dense layer for all channels of frames but the last two, which stay as they are."""

    def build(self, shape: Any) -> None:
        """Create the variables."""
        super().build((*shape[:-1], shape[-1] - 2))
        self.input_spec = None

    def call(self, frames: Any, training: bool | None = None) -> Any:
        """Return the frames, 0 behind the end."""
        found = super().call(frames[..., :-2], training=training) * _there(frames)
        return keras.ops.concatenate([found, frames[..., -2:]], axis=-1)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape."""
        return (*shape[:-1], self.units + 2)


def _there(frames: Any) -> Any:
    return keras.ops.cast(frames[..., -1:] > 0, frames.dtype)


@keras.saving.register_keras_serializable(package="tfft")
class DurationPredictor(keras.layers.Layer):
    """Predict the logarithm of the frames of each symbol: two convolutions, as in FastSpeech (Ren et al., 2019).

    Args:
        width: Width of the convolutions.
        dropout: Dropout rate after each.
        **kwargs: As for any Keras layer.

    Call arguments:
        inputs: Float [B, S, any width].
        mask: Float [B, S, 1].

    Output shape:
        [B, S, 1].
    """

    def __init__(self, width: int, dropout: float = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width, self.dropout_rate = width, dropout
        layers = keras.layers
        self.convolutions = [
            layers.Conv1D(width, 3, padding="same", activation="relu", name=f"convolution{at}") for at in range(2)
        ]
        self.norms = [layers.LayerNormalization(epsilon=1e-5, name=f"norm{at}") for at in range(2)]
        self.drop = layers.Dropout(dropout, name="dropout")
        small, start = keras.initializers.RandomNormal(stddev=0.01), keras.initializers.Constant(1.5)  # 4 frames
        self.out = layers.Dense(1, kernel_initializer=small, bias_initializer=start, dtype="float32", name="out")

    def build(self, inputs_shape: Any, mask_shape: Any = None) -> None:
        """Create the variables."""
        self.convolutions[0].build(inputs_shape)
        self.convolutions[1].build((None, None, self.width))
        for part in (*self.norms, self.out):
            part.build((None, None, self.width))
        self.built = True

    def call(self, inputs: Any, mask: Any, training: bool | None = None) -> Any:
        """Return logarithms."""
        mask, x = keras.ops.cast(mask, inputs.dtype), inputs
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = self.drop(norm(convolution(x)), training=training) * mask
        return self.out(x)

    def compute_output_shape(self, inputs_shape: Any, mask_shape: Any = None) -> Any:
        """Return the shape."""
        return (*inputs_shape[:-1], 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        return {**super().get_config(), "width": self.width, "dropout": self.dropout_rate}


@keras.saving.register_keras_serializable(package="tfft")
class LengthRegulator(keras.layers.Layer):
    """Repeat the features of each symbol for its number of frames (FastSpeech, Ren et al., 2019).

    Each frame also gets its place within the symbol, the logarithm of the duration that was used and the predicted one,
    and the weight 1 / duration, so that sums over frames with this weight are sums over symbols.

    Call arguments:
        features: float [B, S, width].
        log_durations: Predicted logarithms, float [B, S, 1].
        mask: float [B, S, 1].
        durations: Frames of each symbol, int32 [B, S]; below 0 to use the predicted ones, rounded, 1 to 200 frames.

    Output shape:
        [B, T, width + 4], T the frames of the longest text, at least 1; 0 behind the end of a text.
    """

    def call(self, features: tf.Tensor, log_durations: tf.Tensor, mask: tf.Tensor, durations: tf.Tensor) -> tf.Tensor:
        """Return frames."""
        logs = tf.cast(log_durations[..., 0], tf.float32)
        predicted = tf.clip_by_value(tf.cast(tf.round(tf.exp(tf.minimum(logs, 9.0))), tf.int32), 1, LONGEST_SYMBOL)
        counts = tf.where(durations >= 0, durations, predicted) * tf.cast(mask[..., 0] > 0, tf.int32)
        ends = tf.cumsum(counts, axis=1)
        totals = tf.reduce_sum(counts, axis=1)
        frames = tf.range(tf.maximum(tf.reduce_max(totals), 1))
        every = tf.repeat(frames[None], tf.shape(counts)[0], axis=0)
        at = tf.minimum(tf.searchsorted(ends, every, side="right"), tf.shape(counts)[1] - 1)
        count = tf.cast(tf.gather(counts, at, batch_dims=1), tf.float32)
        start = tf.gather(ends - counts, at, batch_dims=1)
        weight = tf.math.divide_no_nan(1.0, count)
        place = (tf.cast(every - start, tf.float32) + 0.5) * weight
        used = tf.math.log(tf.maximum(count, 1.0))
        own = tf.stack([place, used, tf.gather(logs, at, batch_dims=1), weight], axis=-1)
        found = tf.concat([tf.gather(features, at, batch_dims=1), tf.cast(own, features.dtype)], axis=-1)
        there = tf.sequence_mask(totals, tf.size(frames), features.dtype)[..., None]
        return found * there

    def compute_output_spec(self, features: Any, log_durations: Any, mask: Any, durations: Any) -> keras.KerasTensor:
        """Return shape and type."""
        return keras.KerasTensor((features.shape[0], None, features.shape[-1] + 4), features.dtype)
