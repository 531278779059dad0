"""Vocabulary of a transformer that starts from scratch: :func:`learn_vocabulary`."""

from __future__ import annotations

import collections
import io
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from tfft.backbones.keras_hub_text import INSTALL as INSTALL_TEXT
from tfft.backbones.transformer import END, PAD, START, UNKNOWN
from tfft.errors import DataError, missing_package
from tfft.tasks.text_to_text import INSTALL

_LEAST, _MOST = 400, 8_000  # tokens
_WORDS = 180  # running words per token of the vocabulary
_BYTES, _MARKS = 256, 4  # tokens for single bytes, and for start, end, padding and the unknown
_COVERAGE = 0.9999  # share of the running characters with a token of their own; the others are spelled as bytes
_ROOM = 1.5  # tokens per character, for scripts of so many characters that they fill the vocabulary


def vocabulary_size(texts: Iterable[str]) -> int:
    """Return the number of tokens for some texts: one for 180 running words, between 400 and 8,000.

    Small vocabularies suit small data (Gowda & May, "Finding the optimal vocabulary size for neural machine
    translation", 2020), and the logits of all tokens are a large part of the cost. Scripts of many characters, such as
    Chinese, take as many tokens as they have characters, and half as many again.
    """
    characters: collections.Counter[str] = collections.Counter()
    words = 0
    for text in texts:
        characters.update(text)
        words += len(text.split())
    own = _BYTES + _MARKS + int(_ROOM * len(characters))
    return max(min(_MOST, max(_LEAST, words // _WORDS)), own)


def learn_vocabulary(texts: Sequence[str], size: int) -> keras.layers.Layer:
    """Learn a SentencePiece vocabulary (Kudo & Richardson, 2018) with the unigram model (Kudo, 2018).

    Unseen characters are spelled as bytes, so no text has unknown tokens, and texts come back as they were.

    Args:
        texts: Training texts of both sides.
        size: Number of tokens; fewer if the texts do not have enough.

    Returns:
        A tokenizer of KerasHub.

    Raises:
        DependencyError: If a package is missing.
        DataError: If the texts are too few.
    """
    try:
        import keras_hub
    except ImportError:
        missing_package("keras-hub", "A vocabulary", INSTALL_TEXT)
    proto = _trained(texts, size)
    return keras_hub.tokenizers.SentencePieceTokenizer(proto=proto, name="vocabulary")


def _trained(texts: Iterable[str], size: int) -> bytes:
    try:
        import sentencepiece
    except ImportError:
        missing_package("sentencepiece", "A vocabulary", INSTALL)
    written = io.BytesIO()
    settings: dict[str, Any] = {
        "model_type": "unigram", "vocab_size": size, "hard_vocab_limit": False, "byte_fallback": True,
        "normalization_rule_name": "identity", "character_coverage": _COVERAGE, "num_threads": 1,
        "pad_id": PAD, "unk_id": UNKNOWN, "bos_id": START, "eos_id": END, "minloglevel": 2,
    }  # fmt: skip
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=written, **settings)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"No vocabulary can be learned from the training texts: {str(error).splitlines()[-1]} Add pairs."
        ) from error
    return written.getvalue()
