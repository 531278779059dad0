"""Prediction for files and texts with any function from their contents to outputs.

Implementation notes: a file that cannot be decoded would fail its whole batch, so it is found and reported, and the
others are predicted. Items of similar length share batches. TensorFlow alone suffices.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.specs import AudioSpec

Answer = Callable[[Sequence[bytes]], dict[str, np.ndarray]]
WaveAnswer = Callable[[np.ndarray], dict[str, np.ndarray]]
TextAnswer = Callable[..., dict[str, np.ndarray]]  # of texts, or of texts and the second texts of pairs
Row = dict[str, Any]  # outputs for one item, by name

_BATCH = 32
_WINDOW = 64  # batches of items that are sorted by length together


@dataclasses.dataclass(frozen=True, eq=False)
class RequestItem:
    """Input of a prediction, as read by a modality.

    Attributes:
        name: Path as given; for texts the text.
        value: Value for the model's signature, a tuple if it has several inputs.
        error: Reason why it cannot be used, or None.
        pair: Second text of a pair, or None.
        length: Length for batching; None if all items have one size.
        parts: Values of consecutive parts, instead of ``value``, if the input is longer than the model takes;
            :meth:`tfft.registry.Task.join_parts` makes one answer of theirs.
    """

    name: str
    value: Any = None
    error: str | None = None
    pair: str | None = None
    length: int | None = None
    parts: tuple[Any, ...] = ()

    @property
    def values(self) -> tuple[Any, ...]:
        """Values for the signature: its parts, or the one value; none for an item that cannot be used."""
        return () if self.error is not None else self.parts or (self.value,)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Prediction for one input.

    Attributes:
        file: Path as given; for texts the text.
        label: Predicted class; None if the task has none, or on an error.
        probability: Probability of that class.
        top: Most probable classes with their probabilities, in descending order.
        outputs: Outputs of the model as plain values, if it is not a classifier.
        error: Reason why there is no prediction, or None.
        pair: Second text of a pair, or None.
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
        """Prediction as plain values by name; empty on an error."""
        if self.label is None:
            return self.outputs
        return {"label": self.label, "probability": self.probability, "top": self.top}

    def to_dict(self, name: str = "file") -> dict[str, Any]:
        """Return plain values for JSON: the error alone, or the prediction without it.

        Args:
            name: Name of the entry that identifies the input.
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
) -> Iterator[Prediction]:
    """Predict for image files, in order; a file that cannot be used gets its reason instead.

    Args:
        answer: Function from encoded images to outputs by name, such as :meth:`ExportedModel.predict_bytes`.
        files: Paths.
        class_names: Class names in the order of the probabilities; unnamed classes get their number.
        top: Number of classes to list per file.

    Yields:
        One prediction per file, as batches are finished.

    Example:
        >>> served = open_export("served")                                   # doctest: +SKIP
        >>> for p in predict_files(served.predict_bytes, ["cat.jpg"], class_names=served.class_names):
        ...     print(p.file, p.label)                                       # doctest: +SKIP
    """
    items = registry.modality("image").read_items(files, None)
    return predict_items(answer, items, class_names=class_names, top=top, decodes=True)


def predict_recordings(
    answer: WaveAnswer,
    files: Sequence[str | os.PathLike[str]],
    spec: AudioSpec,
    *,
    class_names: Sequence[str] = (),
    top: int = 3,
) -> Iterator[Prediction]:
    """Predict for recordings of any supported format and rate, in order.

    Args:
        answer: Function from waveforms [n, samples] to outputs by name, such as :meth:`ExportedModel.predict`.
        files: Paths.
        spec: Rate and length of the model's waveforms.
        class_names: As in :func:`predict_files`.
        top: As in :func:`predict_files`.

    Yields:
        One prediction per file; a file that cannot be used gets its reason instead.

    Raises:
        DependencyError: If reading or resampling needs a package that is missing.
    """
    items = registry.modality("audio").read_items(files, spec)
    return predict_items(lambda waves: answer(np.stack(waves)), items, class_names=class_names, top=top)


def predict_texts(
    answer: TextAnswer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    class_names: Sequence[str] = (),
    top: int = 3,
) -> Iterator[Prediction]:
    """Predict for texts or for pairs of texts, in order.

    Args:
        answer: Function from texts, and the second texts of pairs, to outputs by name, such as
            :meth:`ExportedModel.predict` for texts.
        texts: Texts.
        pairs: Second text of each pair; None without pairs.
        class_names: As in :func:`predict_files`.
        top: As in :func:`predict_files`.

    Yields:
        One prediction per text, whose ``file`` is the text. Where words are tagged, ``outputs["tags"]`` holds each word
        and its tag.
    """
    asked = list(texts) if pairs is None else list(zip(texts, pairs, strict=True))
    ask = answer if pairs is None else lambda rows: answer(*map(list, zip(*rows, strict=True)))
    return predict_items(ask, registry.modality("text").read_items(asked, None), class_names=class_names, top=top)


def predict_items(
    answer: Callable[[Any], dict[str, np.ndarray]],
    items: Iterable[RequestItem],
    *,
    class_names: Sequence[str] = (),
    top: int = 3,
    decodes: bool = False,
    task: str = "",
) -> Iterator[Prediction]:
    """Predict for items that a modality reads, in order; one that cannot be used gets its reason instead.

    Args:
        answer: Values of items to outputs by name, one row each, such as :meth:`ExportedModel.predict`.
        items: Items from :meth:`tfft.registry.Modality.read_items`.
        class_names: As in :func:`predict_files`.
        top: As in :func:`predict_files`.
        decodes: Whether the model itself decodes the values, so that one of them may fail all others.
        task: Name of the model's task, which may have its own form of plain values; empty if unknown.

    Yields:
        One prediction per item, as batches are finished.
    """
    ask = _rows_or_reasons if decodes else _rows
    known = registry.task_or_plain(task)
    for window in _windows(items):
        answered = _answered(lambda values: ask(answer, values), window)
        for item, rows in zip(window, answered, strict=True):
            row = known.join_parts(rows, class_names) if item.parts and isinstance(rows, list) else rows
            if isinstance(row, list):
                [row] = row
            if isinstance(row, str):
                yield Prediction(item.name, error=row, pair=item.pair)
            elif (outputs := known.plain_outputs(row)) is not None:
                yield Prediction(item.name, outputs=_named(outputs, class_names), pair=item.pair)
            else:
                yield _prediction(item, row, class_names, top)


def _windows(items: Iterable[RequestItem]) -> Iterator[list[RequestItem]]:
    """Parts of the items that are read before any of them is answered: one batch, many where they are sorted."""
    window: list[RequestItem] = []
    count = 0
    for item in items:
        window.append(item)
        count += max(1, len(item.parts))
        if count >= (_BATCH if item.length is None else _WINDOW * _BATCH):
            yield window
            window, count = [], 0
    if window:
        yield window


def _answered(
    ask: Callable[[Sequence[Any]], Sequence[Row | str]], window: Sequence[RequestItem]
) -> list[list[Row] | str]:
    """Return the rows for each item, one for each of its values, or the reason that there is none."""
    places = [(at, part) for at, item in enumerate(window) for part in range(len(item.values))]
    places.sort(key=lambda place: window[place[0]].length or 0)
    found: dict[tuple[int, int], Row | str] = {}
    for batch in (places[i : i + _BATCH] for i in range(0, len(places), _BATCH)):
        found |= zip(batch, ask([window[at].values[part] for at, part in batch]), strict=True)
    answered: list[list[Row] | str] = []
    for at, item in enumerate(window):
        rows: list[Row] = []
        reason = item.error
        for part in range(len(item.values)):
            row = found[at, part]
            if isinstance(row, str):
                reason = reason or row
            else:
                rows.append(row)
        answered.append(rows if reason is None else reason)
    return answered


def _rows(answer: Callable[[Any], dict[str, np.ndarray]], values: Sequence[Any]) -> Sequence[Row | str]:
    outputs = answer(values)
    return [{name: rows[i] for name, rows in outputs.items()} for i in range(len(values))]


def _rows_or_reasons(answer: Callable[[Any], dict[str, np.ndarray]], values: Sequence[Any]) -> Sequence[Row | str]:
    """Return a row of outputs for each value, or the reason that there is none."""
    try:
        return _rows(answer, values)
    except tf.errors.OpError as error:
        if len(values) == 1:
            return [reason_of_failure(error)]
        return [row for one in values for row in _rows_or_reasons(answer, [one])]


def _tagged(text: str, tags: np.ndarray) -> Prediction:
    """Pair each word of a text with its tag, which is empty if the model could not see the word."""
    words = tf.strings.split(text).numpy().tolist()  # as the model parts them
    pairs = [[word.decode(), tag.decode()] for word, tag in zip(words, tags, strict=False)]  # padding has no word
    return Prediction(text, outputs={"tags": pairs})


def reason_of_failure(error: tf.errors.OpError) -> str:
    """Return why a model could not decode a file, from the message of TensorFlow."""
    message = error.message
    said = re.search(r"assertion failed: \[(.*?)\]", message, re.DOTALL)  # the checks of the decoding graph
    if said:
        return " ".join(said.group(1).split())
    lines = [
        line.strip() for line in message.splitlines() if line.strip() and not line.lstrip().startswith(("File", "<"))
    ]
    detail = next((line for line in lines if "node" not in line.lower() and "error" not in line.lower()), lines[-1])
    return f"cannot be decoded: {detail}"


def _prediction(item: RequestItem, row: Row, class_names: Sequence[str], top: int) -> Prediction:
    if np.ndim(row.get("label", b"")) == 1:
        return dataclasses.replace(_tagged(item.name, row["label"]), pair=item.pair)
    probabilities = row.get("probabilities")
    if probabilities is None or "label" not in row:
        outputs = {name: _plain(value) for name, value in row.items()}
        return Prediction(item.name, outputs=_named(outputs, class_names), pair=item.pair)
    best = np.argsort(-probabilities, kind="stable")[:top]
    named = len(class_names) == len(probabilities)
    ranked = tuple((class_names[i] if named else str(i), float(probabilities[i])) for i in best)
    label = row["label"].decode()
    at = class_names.index(label) if named else int(best[0])  # by its threshold, it may not be the most probable one
    return Prediction(item.name, label, float(probabilities[at]), ranked, pair=item.pair)


def _named(outputs: dict[str, Any], class_names: Sequence[str]) -> dict[str, Any]:
    """Return plain outputs with names for the numbers that there are one of for each class."""
    named = dict(outputs)
    for name in ("probabilities", "shares"):
        values = outputs.get(name)
        if isinstance(values, list) and len(values) == len(class_names) and not isinstance(values[0], list):
            named[name] = dict(zip(class_names, values, strict=True))
    return named


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    value = np.asarray(value)
    return [_plain(item) for item in value] if value.dtype == object and value.ndim else value.tolist()
