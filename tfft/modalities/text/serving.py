"""Texts at the outside of a model: how it is served with strings, and how texts are read for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.errors import DataError
from tfft.exporting.loader import ARRAY_SIGNATURE, ServingInput
from tfft.exporting.prediction import RequestItem
from tfft.io.text_lines import read_lines
from tfft.modalities.text.attach import PAIR_INPUT, TEXT_INPUT

_SAMPLES = (
    "A short sentence.", "Été à Zürich, naïve café", "你好，世界", "مرحبا بالعالم", "emoji 😀👍🏽 and 12,345.67",
    "", "many words " * 500,
)  # fmt: skip


def text_input(inputs: Mapping[str, tf.TensorSpec]) -> ServingInput | None:
    """Return how a model takes texts, one in each of its inputs; None where an input is something else."""
    if any(spec.dtype != tf.string or spec.shape.rank != 1 for spec in inputs.values()):
        return None
    pair = (TEXT_INPUT, PAIR_INPUT)
    names = pair if set(inputs) == set(pair) else tuple(inputs)
    samples = {"texts in several scripts": np.array(_SAMPLES, object)}
    return ServingInput("text", ARRAY_SIGNATURE, names, names, samples=samples)


def served_texts(signatures: Mapping[str, Any]) -> ServingInput | None:
    """Return how an exported model takes a text, or a pair, for each row; None where it does not."""
    function = signatures.get(ARRAY_SIGNATURE)
    found = None if function is None else text_input(function.structured_input_signature[1])
    if found is None or (len(found.spec) > 1 and set(found.spec) != {TEXT_INPUT, PAIR_INPUT}):
        return None
    return found


def read_texts(items: Sequence[str | tuple[str, str]]) -> Iterator[RequestItem]:
    """Yield texts and pairs of texts, with their lengths."""
    for item in items:
        if isinstance(item, str):
            yield RequestItem(item, item, length=len(item))
        else:
            yield RequestItem(item[0], item, pair=item[1], length=sum(map(len, item)))


def texts_of_command(
    model: str, inputs: Sequence[str], files: Sequence[str], texts: Sequence[str], second: Sequence[str]
) -> list[Any]:
    """Return the texts, or the pairs, of a command.

    Args:
        model: that is asked, for messages.
        inputs: names of its inputs.
        files: with a text in each line.
        texts: of ``--text``.
        second: of ``--text-pair``.

    Raises:
        DataError: If these are not what the model takes.
    """
    if len(inputs) == 1:
        if second:
            raise DataError(f"The model in {model} takes one text at a time, not pairs: leave out --text-pair.")
        return [*texts, *read_lines(files)]
    if files or len(texts) != len(second):
        raise DataError(
            f"The model in {model} takes pairs: give one --text-pair for each --text, or a table; got "
            f"{len(texts)} --text, {len(second)} --text-pair and {len(files)} files."
        )
    return list(zip(texts, second, strict=True))


def texts_of_row(fields: Sequence[Any]) -> Any:
    """Return the text, or the pair of texts, in the fields of a row."""
    texts = tuple(" ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in fields)
    return texts[0] if len(texts) == 1 else texts
