"""Number of texts that a backbone truncates: :func:`truncation_note`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.modalities.text.examples import TextExamples

_COUNTED = 20_000  # maximum number of texts to tokenize
_AT_ONCE = 1024


def truncation_note(texts: TextExamples, backbone: Backbone) -> str:
    """Return a note about text lengths and truncation; empty for a backbone that takes raw texts."""
    if backbone.tokenizer is None or backbone.text_spec is None:
        return ""
    lengths = token_lengths(backbone, texts)
    limit = backbone.tokenizer.max_length
    full = int((lengths >= limit).sum())
    note = f"text: median {np.median(lengths):.0f} tokens, maximum {lengths.max()}; max_length is {limit}"
    if full:
        note += (
            f"; {full} of {len(lengths)} texts ({full / len(lengths):.1%}) reach it and may be truncated: "
            f"increase max_length, up to {backbone.text_spec.max_length}"
        )
    return note


def token_lengths(backbone: Backbone, texts: TextExamples) -> np.ndarray:
    """Return the number of tokens of (at most 20,000) texts."""
    tokenizer = backbone.tokenizer
    assert tokenizer is not None  # noqa: S101
    step = max(1, len(texts) // _COUNTED)
    columns = [column[::step] for column in texts.columns.values()]
    counts = []
    for at in range(0, len(columns[0]), _AT_ONCE):
        parts = [tf.constant(column[at : at + _AT_ONCE]) for column in columns]
        counts.append(tokenizer(parts if len(parts) > 1 else parts[0])[tokenizer.mask].numpy().sum(axis=-1))
    return np.concatenate(counts)
