"""Predicts for files and texts with any function from their contents to outputs; hides what a bad file does.

One file that cannot be decoded fails its whole batch: here it is found, named with its reason, and the
others are answered all the same. Texts of similar length are answered together. TensorFlow alone is enough.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.modalities.audio.decode import fitted, read_recording
from tfft.specs import AudioSpec

Answer = Callable[[Sequence[bytes]], dict[str, np.ndarray]]
WaveAnswer = Callable[[np.ndarray], dict[str, np.ndarray]]
TextAnswer = Callable[..., dict[str, np.ndarray]]  # of texts, or of texts and the second texts of pairs

_BATCH = 32
_WINDOW = 64  # batches of texts that are sorted by length together


@dataclasses.dataclass(frozen=True)
class FilePrediction:
    """What a model says of one file.

    Attributes:
        file: path as given; for texts the text.
        label: name of the most probable class; None where the task has none, or on an error.
        probability: of that class.
        top: the most probable classes with their probabilities, falling.
        outputs: the model's outputs for this file, as plain values, where it is not a classifier.
        error: why there is no prediction, or None.
        pair: the second text of a pair, or None.
    """

    file: str
    label: str | None = None
    probability: float | None = None
    top: tuple[tuple[str, float], ...] = ()
    outputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    error: str | None = None
    pair: str | None = None

    @property
    def answer(self) -> dict[str, Any]:
        """What the model says, as plain values by name; empty on an error."""
        if self.label is None:
            return self.outputs
        return {"label": self.label, "probability": self.probability, "top": self.top}

    def to_dict(self, name: str = "file") -> dict[str, Any]:
        """Returns plain values, fit for JSON: the error alone, or the prediction without it.

        Args:
            name: of the entry that says what was asked about.
        """
        asked = {name: self.file} | ({} if self.pair is None else {f"{name}_pair": self.pair})
        if self.error is not None:
            return {**asked, "error": self.error}
        if self.label is None:
            return {**asked, **self.outputs}
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        return {**asked, "label": self.label, "probability": self.probability, "top": top}


def predict_files(
    answer: Answer, files: Sequence[str | os.PathLike[str]], *, class_names: Sequence[str] = (), top: int = 3
) -> Iterator[FilePrediction]:
    """Predicts for image files, in order; a file that cannot be used gets its reason instead.

    Args:
        answer: encoded images to outputs by name, such as :meth:`OpenExport.predict_bytes`.
        files: paths.
        class_names: in the order of the probabilities; unnamed classes get their number.
        top: how many classes to list for each file.

    Yields:
        One prediction per file, as batches are finished.

    Example:
        >>> served = open_export("served")                                   # doctest: +SKIP
        >>> for p in predict_files(served.predict_bytes, ["cat.jpg"], class_names=served.class_names):
        ...     print(p.file, p.label)                                       # doctest: +SKIP
    """
    for start in range(0, len(files), _BATCH):
        batch = [os.fspath(file) for file in files[start : start + _BATCH]]
        contents = {file: _read(file) for file in batch}
        readable = [file for file in batch if isinstance(contents[file], bytes)]
        rows = _answer_each(answer, [contents[file] for file in readable])
        answered = dict(zip(readable, rows, strict=True))
        for file in batch:
            row = answered.get(file, contents[file])
            if isinstance(row, str):
                yield FilePrediction(file, error=row)
            else:
                yield _prediction(file, row, class_names, top)


def predict_recordings(
    answer: WaveAnswer,
    files: Sequence[str | os.PathLike[str]],
    spec: AudioSpec,
    *,
    class_names: Sequence[str] = (),
    top: int = 3,
) -> Iterator[FilePrediction]:
    """Predicts for recordings in any format and at any rate that training could read, in order.

    Args:
        answer: waves [n, samples] to outputs by name, such as :meth:`OpenExport.predict_waves`.
        files: paths.
        spec: rate and length of the waves that the model takes.
        class_names: as in :func:`predict_files`.
        top: as in :func:`predict_files`.

    Yields:
        One prediction per file; a file that cannot be used gets its reason instead.

    Raises:
        DependencyError: when reading or resampling needs a package that is missing.
    """
    for start in range(0, len(files), _BATCH):
        batch = [os.fspath(file) for file in files[start : start + _BATCH]]
        read = {file: read_recording(file) for file in batch}
        heard = [file for file in batch if read[file][0].reason is None]
        rows: dict[str, dict[str, np.ndarray]] = {}
        if heard:
            waves = np.stack([fitted(read[file][1], read[file][0].rate, spec) for file in heard])
            outputs = answer(waves)
            rows = {file: {name: values[i] for name, values in outputs.items()} for i, file in enumerate(heard)}
        for file in batch:
            if file in rows:
                yield _prediction(file, rows[file], class_names, top)
            else:
                yield FilePrediction(file, error=read[file][0].reason)


def predict_texts(
    answer: TextAnswer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    class_names: Sequence[str] = (),
    top: int = 3,
) -> Iterator[FilePrediction]:
    """Predicts for texts or for pairs of texts, in order.

    Args:
        answer: texts, and the second texts of pairs, to outputs by name, such as :meth:`OpenExport.predict_texts`.
        texts: any strings.
        pairs: the second text of each pair; None where there are no pairs.
        class_names: as in :func:`predict_files`.
        top: as in :func:`predict_files`.

    Yields:
        One prediction per text, whose ``file`` is the text. Where words are tagged, ``outputs["tags"]`` holds each word
        and its tag.
    """
    columns = [list(texts)] if pairs is None else [list(texts), list(pairs)]
    for start in range(0, len(columns[0]), _WINDOW * _BATCH):
        window = [column[start : start + _WINDOW * _BATCH] for column in columns]
        order = np.argsort([sum(map(len, row)) for row in zip(*window, strict=True)], kind="stable")
        found: dict[int, dict[str, np.ndarray]] = {}
        for at in (order[i : i + _BATCH] for i in range(0, len(order), _BATCH)):
            outputs = answer(*([column[i] for i in at] for column in window))
            found |= {int(i): {name: values[row] for name, values in outputs.items()} for row, i in enumerate(at)}
        for i, text in enumerate(window[0]):
            words = np.ndim(found[i].get("label")) == 1
            row = _tagged(text, found[i]["label"]) if words else _prediction(text, found[i], class_names, top)
            yield row if pairs is None else dataclasses.replace(row, pair=window[1][i])


def _tagged(text: str, tags: np.ndarray) -> FilePrediction:
    """Puts each word of a text beside its tag, which is empty where the model could not see the word."""
    words = tf.strings.split(text).numpy().tolist()  # as the model parts them
    pairs = [[word.decode(), tag.decode()] for word, tag in zip(words, tags, strict=False)]  # padding has no word
    return FilePrediction(text, outputs={"tags": pairs})


def _read(file: str) -> bytes | str:
    try:
        return pathlib.Path(file).read_bytes()
    except OSError as error:
        return error.strerror or str(error)


def _answer_each(answer: Answer, encoded: Sequence[bytes]) -> list[dict[str, np.ndarray] | str]:
    """Returns a row of outputs, or the reason that there is none, for each image."""
    if not encoded:
        return []
    try:
        outputs = answer(encoded)
    except tf.errors.OpError as error:
        if len(encoded) == 1:
            return [_reason(error)]
        return [row for one in encoded for row in _answer_each(answer, [one])]
    return [{name: values[i] for name, values in outputs.items()} for i in range(len(encoded))]


def _reason(error: tf.errors.OpError) -> str:
    message = error.message
    said = re.search(r"assertion failed: \[(.*?)\]", message, re.DOTALL)  # the checks of the decoding graph
    if said:
        return " ".join(said.group(1).split())
    lines = [
        line.strip() for line in message.splitlines() if line.strip() and not line.lstrip().startswith(("File", "<"))
    ]
    detail = next((line for line in lines if "node" not in line.lower() and "error" not in line.lower()), lines[-1])
    return f"cannot be decoded: {detail}"


def _prediction(file: str, row: dict[str, np.ndarray], class_names: Sequence[str], top: int) -> FilePrediction:
    probabilities = row.get("probabilities")
    if probabilities is None or "label" not in row:
        outputs = {name: _plain(value) for name, value in row.items()}
        if probabilities is not None and len(class_names) == len(probabilities):
            outputs["probabilities"] = dict(zip(class_names, outputs["probabilities"], strict=True))
        return FilePrediction(file, outputs=outputs)
    best = np.argsort(-probabilities, kind="stable")[:top]
    named = len(class_names) == len(probabilities)
    listed = tuple((class_names[i] if named else str(i), float(probabilities[i])) for i in best)
    return FilePrediction(file, row["label"].decode(), float(probabilities.max()), listed)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    value = np.asarray(value)
    return [_plain(item) for item in value] if value.dtype == object and value.ndim else value.tolist()
