"""Serving of text models, and reading of texts for prediction."""

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
    """Return the serving input for texts, one for each model input; None if another input is needed."""
    if any(spec.dtype != tf.string or spec.shape.rank != 1 for spec in inputs.values()):
        return None
    pair = (TEXT_INPUT, PAIR_INPUT)
    names = pair if set(inputs) == set(pair) else tuple(inputs)
    samples = {"texts in several scripts": np.array(_SAMPLES, object)}
    return ServingInput("text", ARRAY_SIGNATURE, names, names, samples=samples)


def served_texts(signatures: Mapping[str, Any]) -> ServingInput | None:
    """Return the serving input of an exported model for texts or pairs; None for other models."""
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
    """Return the texts, or the pairs, given to a command.

    Args:
        model: Path of the model, for messages.
        inputs: Names of its inputs.
        files: Files with one text per line.
        texts: Values of ``--text``.
        second: Values of ``--text-pair``.

    Raises:
        DataError: If the model takes other inputs.
    """
    if len(inputs) == 1:
        if second:
            raise DataError(f"The model in {model} takes one text at a time, not pairs: leave out --text-pair.")
        return [*texts, *read_lines(files)]
    if files or len(texts) != len(second):
        raise DataError(
            f"The model in {model} expects pairs: one --text-pair for each --text, or a table. Received: "
            f"{len(texts)} --text, {len(second)} --text-pair and {len(files)} files."
        )
    return list(zip(texts, second, strict=True))


def texts_of_row(fields: Sequence[Any]) -> Any:
    """Return the text, or the pair of texts, in the fields of a row."""
    texts = tuple(" ".join(map(str, v)) if isinstance(v, (list, tuple)) else str(v) for v in fields)
    return texts[0] if len(texts) == 1 else texts
