"""Layers around the acoustic model: texts to symbols, absent durations, and the last layer.

:class:`SplitSymbols`, :class:`PredictDurations`, :class:`MelLogits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.heads import Logits

BEGIN, END = "<begin>", "<end>"  # silence at both ends of a clip


def split_texts(texts: tf.Tensor, separator: str, edges: bool) -> tf.RaggedTensor:
    """Return the symbols of texts, tf.string [B, S].

    Args:
        texts: tf.string [B].
        separator: ``""`` for the characters, in lowercase; ``" "`` for names separated by spaces, such as phonemes.
        edges: Whether a symbol for silence comes at the beginning and at the end.
    """
    texts = tf.strings.strip(tf.strings.regex_replace(texts, r"\s+", " "))
    if separator:
        found = tf.strings.split(texts, separator)
    else:
        found = tf.strings.unicode_split(tf.strings.lower(texts, "utf-8"), "UTF-8")
    if not edges:
        return found
    rows = tf.shape(texts)[:1]
    begin, end = (tf.RaggedTensor.from_uniform_row_length(tf.fill(rows, name), 1) for name in (BEGIN, END))
    return tf.concat([begin, found, end], axis=1)


@keras.saving.register_keras_serializable(package="tfft")
class SplitSymbols(keras.layers.Layer):
    """Split texts into the symbols of a voice and return their rows in its table; unknown symbols are left out.

    Args:
        symbols: Symbols of the voice.
        rows: Row of each in the table, from 1.
        separator: As in :func:`split_texts`.
        edges: As in :func:`split_texts`.
        **kwargs: As for any Keras layer.

    Call arguments:
        texts: tf.string [B].

    Output shape:
        int32 [B, S], S the symbols of the longest text, at least 1; 0 for padding.
    """

    keeps_backbone = True  # a run that starts from a model with this layer goes on with its backbone

    def __init__(
        self, symbols: Sequence[str], rows: Sequence[int], separator: str = "", edges: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.symbols, self.rows = list(symbols), [int(row) for row in rows]
        self.separator, self.edges = separator, edges

    def call(self, texts: tf.Tensor) -> tf.Tensor:
        """Return rows."""
        found = split_texts(texts, self.separator, self.edges)
        same = found.flat_values[:, None] == tf.constant(self.symbols)
        rows = tf.reduce_max(tf.where(same, tf.constant(self.rows, tf.int32), 0), axis=1)
        known = rows > 0
        starts = tf.concat([[0], tf.cumsum(tf.cast(known, found.row_splits.dtype))], axis=0)
        kept = tf.RaggedTensor.from_row_splits(rows[known], tf.gather(starts, found.row_splits)).to_tensor()
        return tf.pad(kept, [[0, 0], [0, tf.cast(tf.shape(kept)[1] == 0, tf.int32)]])

    def compute_output_spec(self, texts: Any) -> keras.KerasTensor:
        """Return shape and type."""
        return keras.KerasTensor((texts.shape[0], None), "int32")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"symbols": self.symbols, "rows": self.rows, "separator": self.separator, "edges": self.edges}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class PredictDurations(keras.layers.Layer):
    """Return -1 in place of a duration for each symbol, so that a voice predicts them: int32 [B, S] to int32 [B, S]."""

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Return -1."""
        return -tf.ones_like(rows)

    def compute_output_spec(self, rows: Any) -> keras.KerasTensor:
        """Return shape and type."""
        return keras.KerasTensor(rows.shape, "int32")


@keras.saving.register_keras_serializable(package="tfft")
class MelLogits(Logits):
    """Last layer of a voice: a linear map of its normalized bands, the identity at first, and the levels of the data.

    A new voice can be adapted by this map alone. The last two channels stay as they are.

    Args:
        head: As for :class:`tfft.heads.Logits`.
        **kwargs: As for :class:`tfft.heads.Logits`.

    Call arguments:
        frames: Float [B, T, bands + 2], as from :func:`tfft.backbones.voice.voice`.

    Output shape:
        float32 [B, T, bands + 2]: natural logarithms of magnitudes, and the other two channels.
    """

    def __init__(self, head: Any, **kwargs: Any) -> None:
        super().__init__(head, **{"kernel_initializer": "identity", **kwargs})

    def build(self, shape: Any) -> None:
        """Create the map."""
        super().build((*shape[:-1], shape[-1] - 2))
        self.input_spec = None

    def call(self, frames: Any, training: bool | None = None) -> Any:
        """Return log-mel frames with their channels."""
        frames = keras.ops.cast(frames, self.compute_dtype)
        mel = super().call(frames[..., :-2], training=training)
        return keras.ops.concatenate([mel, frames[..., -2:]], axis=-1)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape."""
        return (*shape[:-1], self.units + 2)
