"""Alignment of words with their tokens: :class:`TokenizeWords`, :class:`GatherWords`.

Implementation notes: tokenizers have no notion of words: some mark the start of a word, some attach the preceding space
to it, all may divide it into several tokens, and the end of a long sentence is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import keras
import tensorflow as tf

from tfft.errors import BackboneError
from tfft.layers.tokenize import Tokenize

WORD_STARTS = "word_starts"  # in addition to the backbone's inputs
NO_WORD, NOT_SEEN = -1, -2

_MOST_MARKS = 3  # tokens that a tokenizer may add before a text
_PROBES = (
    "a", "the end", "Hello, world!", "It's 3.50 (or more)", "we'll e-mail U.S. folks", "naïve Größe", "你好 世界",
    "🙂 ok 🙂", "नमस्ते दुनिया", "don't x 7",
)  # fmt: skip


@keras.saving.register_keras_serializable(package="tfft")
class TokenizeWords(Tokenize):
    """Tokenize sentences as :class:`Tokenize` does, and return where their words start.

    Words are separated by whitespace (space, tab, line ends), of any length. Create it with :meth:`of`, which
    detects how the tokenizer treats the space before a word.

    Args:
        packer: As for :class:`Tokenize`, with an attribute ``tokenizer`` that returns the tokens of texts [N] without
            special tokens and padding, [N, any].
        names: As for :class:`Tokenize`.
        mask: As for :class:`Tokenize`.
        max_length: As for :class:`Tokenize`.
        ids: Name of the backbone's input with the token ids.
        marks: Number of special tokens before the first word.
        blank: ``"apart"`` if a word has the same tokens alone and after a space, ``"glued"`` if the space before it
            belongs to it.
        **kwargs: As for any Keras layer.

    Returns:
        From string [B]: a dict as from :class:`Tokenize` with an additional ``word_starts`` int32 [B, W], W the number
        of words of the longest sentence before truncation: the position of the first token of each word, -1 for no
        word, -2 for a word that was cut off or has no token, such as a control character.
    """

    def __init__(
        self,
        packer: keras.layers.Layer | Mapping[str, Any],
        names: Mapping[str, str],
        mask: str,
        max_length: int,
        ids: str,
        marks: int,
        blank: Literal["apart", "glued"],
        **kwargs: Any,
    ) -> None:
        super().__init__(packer, names, mask, max_length, **kwargs)
        self.ids, self.marks, self.blank = ids, int(marks), blank

    @classmethod
    def of(cls, tokenize: Tokenize, name: str | None = None) -> TokenizeWords:
        """Create the layer from a backbone's tokenizer.

        Args:
            tokenize: Layer such as ``backbone.tokenizer``.
            name: Name of the layer.

        Raises:
            BackboneError: If the words of a sentence cannot be aligned with its tokens.
        """
        if not callable(getattr(tokenize.packer, "tokenizer", None)):
            raise BackboneError(
                f"The tokenizer of this backbone ({type(tokenize.packer).__name__}) does not tokenize single words, "
                "so words cannot be tagged with it. Expected a packer with an attribute 'tokenizer', as "
                "KerasHub preprocessors have it. Use a backbone from KerasHub or from a Hugging Face folder."
            )
        config = {**tokenize.get_config(), "packer": tokenize.packer, "name": name}
        return cls(**config, **_learned(tokenize))

    def _cut(self, *texts: tf.Tensor) -> dict[str, tf.Tensor]:
        words = tf.strings.split(texts[0])
        found = super()._cut(tf.strings.reduce_join(words, axis=-1, separator=" "))
        return {**found, WORD_STARTS: self._starts(words, found[self.ids])}

    def _starts(self, words: tf.RaggedTensor, packed: tf.Tensor) -> tf.Tensor:
        tokens = tokens_of_words(self.packer.tokenizer, words, self.blank)
        first_word = tf.gather(tokens.row_splits, words.row_splits)  # token with which each sentence begins
        sentences = tf.RaggedTensor.from_row_splits(tokens.flat_values, first_word)
        # A word is at its expected position only if everything before it is: not after truncation.
        expected = sentences.to_tensor(-1)
        width = tf.maximum(tf.shape(expected)[1], tf.shape(packed)[1])
        same = _widened(expected, width, -1) == _widened(packed[:, self.marks :], width, -2)
        agreeing = tf.reduce_sum(tf.math.cumprod(tf.cast(same, tf.int64), axis=1), axis=1)
        row = words.value_rowids()
        place = tokens.row_splits[:-1] - tf.gather(first_word, row)
        seen = (tokens.row_lengths() > 0) & (place < tf.gather(agreeing, row))
        starts = tf.where(seen, place + self.marks, NOT_SEEN)
        return tf.cast(words.with_flat_values(starts).to_tensor(NO_WORD), tf.int32)

    def compute_output_spec(self, texts: Any) -> dict[str, keras.KerasTensor]:
        """Return shapes and types without reading a text."""
        batch = keras.tree.flatten(texts)[0].shape[0]
        starts = keras.KerasTensor((batch, None), "int32", name=WORD_STARTS)
        return {**super().compute_output_spec(texts), WORD_STARTS: starts}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain values; the vocabulary is stored beside, as an asset."""
        return {**super().get_config(), "ids": self.ids, "marks": self.marks, "blank": self.blank}


@keras.saving.register_keras_serializable(package="tfft")
class GatherWords(keras.layers.Layer):
    """Select the features of the first token of each word (Devlin et al., "BERT", 2019, section 5.3)."""

    def call(self, features: Any, word_starts: Any) -> Any:
        """Return [B, W, D] from features [B, L, D] and starts [B, W]; zeros where a start is below 0."""
        ops = keras.ops
        padded = ops.pad(features, ((0, 0), (0, 1), (0, 0)))
        at = ops.where(word_starts >= 0, word_starts, ops.shape(features)[1])
        return ops.take_along_axis(padded, at[..., None], axis=1)

    def compute_output_shape(self, features_shape: Any, word_starts_shape: Any) -> Any:
        """Return the shape with words instead of tokens."""
        return (*word_starts_shape, features_shape[-1])


def tokens_of_words(tokenizer: Any, words: tf.RaggedTensor, blank: str) -> tf.RaggedTensor:
    """Return the token ids of each word, int32 [words, any].

    Args:
        tokenizer: Function that returns the tokens of texts [N].
        words: Words [B, any].
        blank: As for :class:`TokenizeWords`.
    """
    flat = words.flat_values
    if blank == "glued":
        inside = tf.range(tf.size(flat, tf.int64)) > tf.gather(words.row_starts(), words.value_rowids())
        flat = tf.where(inside, tf.strings.join([" ", flat]), flat)
    return _as_ragged(tokenizer(flat))


def _as_ragged(tokens: Any) -> tf.RaggedTensor:
    if not isinstance(tokens, tf.RaggedTensor):  # outside of graphs KerasHub gives lists
        tokens = tf.ragged.constant([list(row) for row in tokens], tf.int32, ragged_rank=1)
    return tf.cast(tokens, tf.int32)


def _widened(values: tf.Tensor, width: tf.Tensor, with_: int) -> tf.Tensor:
    return tf.pad(values, [[0, 0], [0, width - tf.shape(values)[1]]], constant_values=with_)


def _learned(tokenize: Tokenize) -> dict[str, Any]:
    """Find by examples which arguments of :class:`TokenizeWords` reproduce the tokens of whole texts."""
    plain, packed, ways = _tried(tokenize)
    fitting = [blank for blank, tokens in ways.items() if tokens == plain]
    if not fitting:
        raise BackboneError(
            f"The tokenizer of this backbone ({type(tokenize.packer.tokenizer).__name__}) tokenizes words "
            "differently within a sentence than alone, so they cannot be aligned. Use another backbone to tag words."
        )
    for name, rows in packed.items():
        for marks in range(_MOST_MARKS + 1):
            room = tokenize.max_length - marks - _MOST_MARKS  # a truncated text has other tokens at its end
            pairs = [(row[marks:][:room], tokens[:room]) for row, tokens in zip(rows, plain, strict=True)]
            if room > 0 and all(row[: len(tokens)] == tokens for row, tokens in pairs):
                return {"ids": name, "marks": marks, "blank": fitting[0]}
    raise BackboneError(
        f"None of the inputs {', '.join(packed)} holds the tokens of a text in order within its first "
        f"{tokenize.max_length} tokens, so words cannot be tagged with this backbone."
    )


def _tried(tokenize: Tokenize) -> tuple[list[Any], dict[str, list[Any]], dict[str, list[Any]]]:
    # In a graph, as models run: eagerly, KerasHub runs other code, with other tokens for unknown words.
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def tokenizer(texts: tf.Tensor) -> tf.RaggedTensor:
        return _as_ragged(tokenize.packer.tokenizer(texts))

    texts = tf.constant(_PROBES)
    words = tf.strings.split(texts)
    ways = {}
    for blank in ("apart", "glued"):
        tokens = tokens_of_words(tokenizer, words, blank)
        splits = tf.gather(tokens.row_splits, words.row_splits)
        ways[blank] = tf.RaggedTensor.from_row_splits(tokens.flat_values, splits).to_list()
    packed = {name: value.numpy().tolist() for name, value in Tokenize.call(tokenize, texts).items()}
    return tokenizer(texts).to_list(), packed, ways
