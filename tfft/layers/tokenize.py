"""Tokenization as a Keras layer: :class:`Tokenize`.

Implementation notes: tokenizers pad every text to one length; this layer trims the batch to its longest text, so short
texts are cheaper than long ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.keras_compat import calls_with_labels
from tfft.layers.raw_input import RawInput


@keras.saving.register_keras_serializable(package="tfft")
class Tokenize(RawInput):
    """Tokenize texts inside the model, so that training, serving and tests use the same tokens.

    Args:
        packer: Layer that converts texts [B], or a list of two such tensors for pairs, to a dict of int or bool tensors
            [B, length] with one length for all; tokens that do not fit are cut off. A KerasHub preprocessor is one.
        names: From the names of the backbone's inputs to those of the packer's outputs.
        mask: Name of the backbone's input that is 1 for tokens and 0 for padding.
        max_length: Maximum sequence length in tokens, special tokens included.
        fixed: Whether the backbone takes texts of exactly that length.
        **kwargs: As for any Keras layer.

    Returns:
        From string [B]: a dict of int32 [B, L] by the names of the backbone's inputs; L is the number of tokens of the
        longest text in the batch.
    """

    mask: str

    def __init__(
        self,
        packer: keras.layers.Layer | Mapping[str, Any],
        names: Mapping[str, str],
        mask: str,
        max_length: int,
        *,
        fixed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        packer = packer if isinstance(packer, keras.layers.Layer) else keras.saving.deserialize_keras_object(packer)
        self.packer, self.names, self.mask, self.max_length = packer, dict(names), mask, int(max_length)
        self.fixed = bool(fixed)
        self.supports_jit = False  # strings: XLA has no operations for them, and Keras turns it on by itself on GPUs
        # Tokenizers take seconds to trace: a function is traced once per layer, whatever the size of the batch. One for
        # texts and one for pairs. A partial, since TensorFlow counts the tracings of a method over all layers, and
        # would warn of too many.
        texts = tf.TensorSpec([None], tf.string)
        self._one, self._two = (
            tf.function(functools.partial(self._cut), input_signature=signature, autograph=False)
            for signature in ([texts], [texts, texts])
        )
        if getattr(packer, "sequence_length", max_length) != max_length:
            packer.sequence_length = self.max_length

    def build(self, input_shape: Any) -> None:
        """Build nothing: the packer builds itself at its first call, once its vocabulary is loaded."""

    def call(self, texts: tf.Tensor | Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
        """Return the backbone's inputs for texts."""
        texts = tuple(texts) if isinstance(texts, (list, tuple)) else (texts,)
        # In a graph also when called directly: eagerly, KerasHub takes another path, which does not support pairs.
        # A function also in a graph: TensorFlow then traces the tokenizer once per layer, not once per graph.
        return (self._one if len(texts) == 1 else self._two)(*texts)

    def _cut(self, *texts: tf.Tensor) -> dict[str, tf.Tensor]:
        given: tuple[Any, ...] = (texts if len(texts) > 1 else texts[0],)
        if calls_with_labels(self.packer):
            given += (None,)  # KerasHub takes a lone pair of texts for inputs and labels
        packed = self.packer(*given)
        found = {name: tf.cast(packed[key], tf.int32) for name, key in self.names.items()}
        if self.fixed:
            return found
        longest = tf.reduce_max(tf.reduce_sum(found[self.mask], axis=-1))
        return {name: value[:, :longest] for name, value in found.items()}

    def compute_output_spec(self, texts: Any) -> dict[str, keras.KerasTensor]:
        """Return shapes and types without reading a text."""
        batch = keras.tree.flatten(texts)[0].shape[0]
        shape = (batch, self.max_length if self.fixed else None)
        return {name: keras.KerasTensor(shape, "int32", name=name) for name in self.names}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values; the vocabulary is stored separately, as an asset."""
        own = {"packer": keras.saving.serialize_keras_object(self.packer), "names": self.names}
        own |= {"fixed": True} if self.fixed else {}
        return {**super().get_config(), **own, "mask": self.mask, "max_length": self.max_length}
