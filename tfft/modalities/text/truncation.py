"""How many texts are longer than what a backbone reads of them: :func:`truncation_note`."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.modalities.text.examples import TextExamples

_COUNTED = 20_000  # texts that are cut into pieces to see how many are too long


def truncation_note(texts: TextExamples, backbone: Backbone) -> str:
    """Says how long texts are for a backbone, and how many are cut off; empty where it reads them as they are."""
    if backbone.tokenizer is None or backbone.text_spec is None:
        return ""
    lengths = piece_lengths(backbone, texts)
    limit = backbone.tokenizer.max_length
    full = int((lengths >= limit).sum())
    note = f"text: {np.median(lengths):.0f} pieces in the middle, {lengths.max()} at most, of {limit} that are read"
    if full:
        note += (
            f"; {full} of {len(lengths)} texts ({full / len(lengths):.1%}) fill all of them and may be cut off: "
            f"max_length reads more, up to {backbone.text_spec.max_length}"
        )
    return note


def piece_lengths(backbone: Backbone, texts: TextExamples, batch: int = 1024) -> np.ndarray:
    """Return the number of pieces of (at most 20,000) texts, as the tokenizer cuts them."""
    tokenizer = backbone.tokenizer
    assert tokenizer is not None  # noqa: S101
    step = max(1, len(texts) // _COUNTED)
    columns = [column[::step] for column in texts.columns.values()]
    counts = []
    for at in range(0, len(columns[0]), batch):
        parts = [tf.constant(column[at : at + batch]) for column in columns]
        counts.append(tokenizer(parts if len(parts) > 1 else parts[0])[tokenizer.mask].numpy().sum(axis=-1))
    return np.concatenate(counts)
