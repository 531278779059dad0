"""Tokens of the texts of an encoder-decoder: :class:`TargetTokenizer`, :class:`PairTokenizer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from tfft.keras_compat import prepare_tokenizer

PADDING = -1  # in batches of tokens; every id of a vocabulary can be a token
SOURCE, TARGET = "source", "target"
NETWORK_INPUTS = ("encoder_token_ids", "encoder_padding_mask", "decoder_token_ids")  # that the embeddings take
_CHUNK = 4096  # texts that are tokenized at once
_BROKEN = "\ufffd"  # what tokenizers put in place of a part of a character


@keras.saving.register_keras_serializable(package="tfft")
class TargetTokenizer(keras.layers.Layer):
    """Tokenize the texts that a decoder writes, and turn tokens into texts again.

    In a model it takes the tokens of the target, -1 for padding, and returns those that the decoder reads. It holds the
    tokenizer, so that a saved model knows its vocabulary.

    Args:
        tokenizer: Tokenizer of KerasHub; None for a vocabulary that is still to be learned.
        start: Tokens in front of each target, from which the decoder begins.
        end: Token behind each target.
        target_length: Most tokens of a target, with those around it.
        **kwargs: As for any Keras layer.

    Call arguments:
        target: int32 [B, T], from ``start`` on, -1 for padding.

    Returns:
        int32 [B, T], 0 for padding, which a causal decoder needs no mask for.
    """

    def __init__(
        self,
        tokenizer: keras.layers.Layer | Mapping[str, Any] | None,
        *,
        start: Sequence[int],
        end: int,
        target_length: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(tokenizer, Mapping):
            tokenizer = keras.saving.deserialize_keras_object(tokenizer)
        self.tokenizer, self.start, self.end = tokenizer, tuple(map(int, start)), int(end)
        self.target_length = int(target_length)
        self.supports_jit = False  # batches have many shapes, and XLA would compile each

    def build(self, *shapes: Any) -> None:
        """Build nothing: the tokenizer is ready once its vocabulary is loaded."""

    def call(self, target: Any) -> Any:
        """Return the tokens for the decoder."""
        return keras.ops.maximum(keras.ops.cast(target, "int32"), 0)

    def compute_output_spec(self, target: Any) -> Any:
        """Return the spec of the tokens."""
        return keras.KerasTensor(target.shape, "int32")

    def renamed(self, name: str) -> Self:
        """Return a layer of another name that holds the same tokenizer."""
        return self._changed(name=name)

    def with_length(self, target_length: int) -> Self:
        """Return a layer with another limit of a target that holds the same tokenizer."""
        return self._changed(target_length=target_length)

    def _changed(self, **changes: Any) -> Self:
        return type(self)(**{**self.get_config(), "tokenizer": self.tokenizer, **changes})

    @property
    def special(self) -> tuple[int, ...]:
        """Tokens that are not part of a text."""
        return tuple(sorted({*self.start, self.end}))

    @property
    def unknown(self) -> int | None:
        """Token for what the vocabulary does not cover; None if it covers every text, or names no such token."""
        found = getattr(self._known, "unk_token_id", None)
        if found is None:
            try:
                found = self._known.token_to_id(getattr(self._known, "unk_token", None) or "<unk>")
            except (KeyError, ValueError):
                return None
        return None if found is None else int(found)

    def ragged(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return the tokens of texts, int32 arrays, without those around them and without a limit."""
        found: list[np.ndarray] = []
        for at in range(0, len(texts), _CHUNK):
            rows = self._known([str(text) for text in texts[at : at + _CHUNK]])
            found += [np.asarray(row, np.int32) for row in (rows.to_list() if hasattr(rows, "to_list") else rows)]
        return found

    def read(self, ids: np.ndarray) -> list[str]:
        """Return the texts of tokens, int [B, T]; special tokens, padding and ids without a token are left out."""
        size, special = self._size, set(self.special)
        rows = [[int(one) for one in row if 0 <= one < size and one not in special] for row in np.asarray(ids)]
        found = self._known.detokenize(rows) if rows else []
        texts = [one.decode("utf-8", "ignore") if isinstance(one, bytes) else str(one) for one in found]
        return [text.replace(_BROKEN, "").strip() for text in texts]

    def framed(self, ids: np.ndarray) -> np.ndarray:
        """Return the tokens of a target with those around it."""
        return np.concatenate([np.array(self.start, np.int32), ids, np.array([self.end], np.int32)])

    def texts(self, ids: tf.Tensor) -> tf.Tensor:
        """Return the texts of tokens, string [B], in a graph; as :meth:`read`."""
        keep = (ids >= 0) & (ids < self._size)
        for mark in self.special:
            keep &= ids != mark
        tokens = tf.ragged.boolean_mask(tf.maximum(ids, 0), keep)
        whole = tf.strings.unicode_transcode(self._known.detokenize(tokens), "UTF-8", "UTF-8", errors="ignore")
        return tf.strings.strip(tf.strings.regex_replace(whole, _BROKEN, ""))

    def prepare(self) -> None:
        """Get ready for :meth:`source_tokens` and :meth:`texts`; call it before they are traced."""
        prepare_tokenizer(self._known)

    @property
    def _known(self) -> Any:
        if self.tokenizer is None:
            raise ValueError("The vocabulary of this encoder-decoder has not been learned yet.")
        return self.tokenizer

    @property
    def _size(self) -> int:
        """Number of tokens in the vocabulary; a model may write ids of spare rows behind them, as T5 has."""
        with tf.init_scope():
            return int(self._known.vocabulary_size())

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values; the vocabulary is stored separately, as an asset."""
        held = None if self.tokenizer is None else keras.saving.serialize_keras_object(self.tokenizer)
        own = {"tokenizer": held, "start": self.start, "end": self.end, "target_length": self.target_length}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="tfft")
class PairTokenizer(TargetTokenizer):
    """Tokenize source and target of an encoder-decoder, and turn tokens into texts again.

    In a model it is the first layer: it takes the tokens of both texts, -1 for padding, and returns the four inputs of
    the network.

    Args:
        tokenizer: As for :class:`TargetTokenizer`.
        source_start: Tokens in front of each source.
        source_end: Tokens behind each source.
        source_length: Most tokens of a source, with those around it; the rest is cut off.
        **kwargs: As for :class:`TargetTokenizer`.

    Call arguments:
        source: int32 [B, S], -1 for padding.
        target: int32 [B, T], from ``start`` on, -1 for padding.

    Returns:
        A dict of int32: ``encoder_token_ids`` [B, S], ``encoder_padding_mask``, ``decoder_token_ids`` [B, T] and
        ``decoder_padding_mask``.
    """

    def __init__(
        self,
        tokenizer: keras.layers.Layer | Mapping[str, Any] | None,
        *,
        source_start: Sequence[int] = (),
        source_end: Sequence[int] = (),
        source_length: int = 256,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.source_start, self.source_end = tuple(map(int, source_start)), tuple(map(int, source_end))
        self.source_length = int(source_length)

    def call(self, source: Any, target: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the inputs of the network."""
        ops = keras.ops
        found = {}
        for name, ids in (("encoder", source), ("decoder", target)):
            ids = ops.cast(ids, "int32")
            found[f"{name}_token_ids"] = ops.maximum(ids, 0)
            found[f"{name}_padding_mask"] = ops.cast(ids >= 0, "int32")
        return found

    def compute_output_spec(self, source: Any, target: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return the specs of the network's inputs."""
        names = {"encoder": source, "decoder": target}
        return {
            f"{name}_{what}": keras.KerasTensor(t.shape, "int32", name=f"{name}_{what}")
            for name, t in names.items()
            for what in ("token_ids", "padding_mask")
        }

    @property
    def special(self) -> tuple[int, ...]:
        """Tokens that are not part of a text."""
        return tuple(sorted({*super().special, *self.source_start, *self.source_end}))

    def source_tokens(self, texts: tf.Tensor) -> tf.Tensor:
        """Return the tokens of sources, int32 [B, S], -1 for padding, in a graph."""
        room = self.source_length - len(self.source_start) - len(self.source_end)
        tokens = self._known(texts)
        if not isinstance(tokens, tf.RaggedTensor):
            tokens = tf.RaggedTensor.from_tensor(tokens)
        return _around(tf.cast(tokens, tf.int32)[:, :room], self.source_start, self.source_end).to_tensor(PADDING)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values."""
        own = {"source_start": self.source_start, "source_end": self.source_end, "source_length": self.source_length}
        return {**super().get_config(), **own}


def _around(tokens: tf.RaggedTensor, first: Sequence[int], last: Sequence[int]) -> tf.RaggedTensor:
    rows = tokens.nrows()
    ends = [tf.tile(tf.constant([list(ids)], tf.int32, shape=[1, len(ids)]), [rows, 1]) for ids in (first, last)]
    return tf.concat([ends[0], tokens, ends[1]], axis=1)
