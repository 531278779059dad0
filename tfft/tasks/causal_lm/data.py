"""Documents for language modelling, packed into windows without padding.

Implementation notes: no token is predicted across two documents.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.errors import DataError, join_names


def read_documents(data: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Read documents from a file, a folder or a list.

    Raises:
        DataError: If a file cannot be read, with line and byte; or there are fewer than two documents.
    """
    if isinstance(data, (str, os.PathLike)):
        path = Path(data).expanduser()
        if path.is_dir():
            found = [_decoded(file) for file in sorted(path.rglob("*.txt"))]
        elif path.is_file():
            lines = _decoded(path).splitlines()
            found = "\n".join(line if line.strip() else "\0" for line in lines).split("\0")
        else:
            raise DataError(f"{path} does not exist. Expected a .txt file or a folder of them.")
    else:
        wrong = [repr(one) for one in data if not isinstance(one, str)]
        if wrong:
            raise DataError(f"Documents must be texts, received {join_names(wrong[:3])}.")
        found = list(data)
    documents = [text.strip("\n") for text in found if text.strip()]
    if len(documents) < 2:
        raise DataError(
            f"Found {len(documents)} documents. Expected two or more, for training and validation. In a file, "
            "empty lines separate them."
        )
    return documents


def split_documents(documents: Sequence[str], share: float, seed: int) -> tuple[list[str], list[str]]:
    """Hold out some documents; equal ones stay on one side, and count once in the held-out part.

    Args:
        documents: At least two different documents.
        share: Share to hold out, at least one document.
        seed: Seed for the split.

    Returns:
        The training documents and the held-out ones.

    Raises:
        DataError: If all are equal.
    """
    different = sorted(set(documents))
    if len(different) < 2:
        raise DataError("All documents are equal, so none can be held out.")
    order = np.random.default_rng(seed).permutation(len(different))
    count = min(len(different) - 1, max(1, round(share * len(different))))
    held = {different[i] for i in order[:count]}
    return [d for d in documents if d not in held], [d for d in different if d in held]


def windows(
    texts: Sequence[str], tokenizer: Any, length: int, *, batch_size: int = 8, shuffle: bool = False, seed: int = 0
) -> tf.data.Dataset:
    """Pack documents into windows of one length, one after the other, without padding.

    Each document starts with the start token and ends with the end token. A window may hold the end of one and the
    beginning of the next; the token after an end token is never predicted.

    Args:
        texts: Documents.
        tokenizer: Tokenizer of KerasHub, with ``start_token_id`` and ``end_token_id``.
        length: Tokens per window.
        batch_size: Windows per batch.
        shuffle: Whether each pass has another order of the documents, and so other windows.
        seed: Seed for the orders.

    Returns:
        Dataset of ``({"token_ids", "padding_mask"} [B, length], next tokens [B, length], weights [B, length])``. The
        weights are 1 where the next token is to be predicted.
    """
    cut = [tokens_of(text, tokenizer) for text in texts]
    passes = iter(range(2**31))

    def rows() -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        number = next(passes)
        order = np.random.default_rng([seed, number]).permutation(len(cut)) if shuffle else range(len(cut))
        stream = np.concatenate([cut[i] for i in order])
        first = np.concatenate([np.arange(len(cut[i])) == 0 for i in order])
        for start in range(0, len(stream) - 1, length):
            ids, following = stream[start : start + length], stream[start + 1 : start + 1 + length]
            ids = ids[: len(following)]
            weights = (~first[start + 1 : start + 1 + length]).astype(np.float32)
            rest = length - len(ids)
            present = np.pad(np.ones(len(ids), np.int32), (0, rest))
            inputs = {"token_ids": np.pad(ids, (0, rest)), "padding_mask": present}
            yield inputs, np.pad(following, (0, rest)), np.pad(weights, (0, rest))

    total = sum(map(len, cut))
    whole = tf.TensorSpec([length], tf.int32)
    inputs = {"token_ids": whole, "padding_mask": whole}
    spec = (inputs, whole, tf.TensorSpec([length], tf.float32))
    count = math.ceil(math.ceil((total - 1) / length) / batch_size)
    dataset = tf.data.Dataset.from_generator(rows, output_signature=spec).batch(batch_size)
    return dataset.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)


def tokens_of(text: str, tokenizer: Any) -> np.ndarray:
    """Return the tokens of a document with its start and end tokens, int32 [n]."""
    tokens = np.asarray(tokenizer(tf.constant(text)), np.int32).reshape(-1)
    return np.concatenate([[tokenizer.start_token_id], tokens, [tokenizer.end_token_id]]).astype(np.int32)


def _decoded(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        at = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        raise DataError(
            f"{path}:{line} is not UTF-8: byte {at} of the line is 0x{data[error.start]:02x}. Save the file as UTF-8."
        ) from error
