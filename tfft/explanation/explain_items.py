"""Evidence in an example for a class: :func:`explain`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.errors import DataError, PlanError, did_you_mean, join_names, quantity
from tfft.exporting import open_served, serving_functions
from tfft.exporting.loader import Served
from tfft.exporting.prediction import RequestItem, reason_of_failure
from tfft.recipes import Run
from tfft.registry import Parts

_BATCH = 32
_PLACES = (
    ("top left", "top", "top right"), ("left", "middle", "right"), ("bottom left", "bottom", "bottom right"),
)  # fmt: skip
GRAD_CAM, OCCLUSION = "Grad-CAM", "occlusion"


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Evidence in one example for and against a class.

    Attributes:
        name: Path of the file; for texts the text, for pairs both.
        class_name: Class that is explained; for regression the name of a target.
        score: Log-odds of the class, or the predicted number.
        method: ``"Grad-CAM"`` or ``"occlusion"``.
        parts: Names of the parts, such as words or spans of time; empty for a heat map.
        relevance: float64 [parts]: by how much the score falls without each part. For a heat map float32 [H, W], from 0
            to 1.
        picture: uint8 [H, W, 3], which a heat map covers; None for other examples.
        probability: Probability of the class; None for regression.
    """

    name: str
    class_name: str
    score: float
    method: str
    parts: tuple[str, ...]
    relevance: np.ndarray
    picture: np.ndarray | None = None
    probability: float | None = None

    def ranked(self, count: int = 3) -> list[tuple[str, float]]:
        """Return the parts that support the class most, then those that contradict it most.

        Args:
            count: Largest number of each.
        """
        if not self.parts:
            return []
        order = np.argsort(-self.relevance, kind="stable")
        chosen = [i for i in order[:count] if self.relevance[i] > 0]
        chosen += [i for i in order[-count:] if self.relevance[i] < 0]
        return [(self.parts[i], float(self.relevance[i])) for i in chosen]

    def scaled(self) -> list[tuple[str, float]]:
        """Return the parts with their relevance divided by the largest one, -1 to 1."""
        strongest = float(np.abs(self.relevance).max(initial=0)) or 1.0
        return [(part, float(value) / strongest) for part, value in zip(self.parts, self.relevance, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; of a heat map the rows and columns of its highest value, from 0 to 1."""
        found: dict[str, Any] = {"name": self.name, "class": self.class_name, "score": self.score}
        if self.probability is not None:
            found["probability"] = self.probability
        found["method"] = self.method
        if self.parts:
            pairs = zip(self.parts, self.relevance.tolist(), strict=True)
            return {**found, "parts": [{"part": part, "relevance": value} for part, value in pairs]}
        row, column = np.unravel_index(self.relevance.argmax(), self.relevance.shape)
        rows, columns = self.relevance.shape
        return {**found, "highest": [float((row + 0.5) / rows), float((column + 0.5) / columns)]}

    @property
    def answer(self) -> str:
        """The class with its probability, or the number."""
        sure = f"{self.score:.4g}" if self.probability is None else f"{self.probability:.3f}"
        return f"{self.class_name} {sure}"

    def __str__(self) -> str:
        title = f"{self.name}: {self.answer}"
        if not self.parts:
            row, column = self.to_dict()["highest"]
            return f"{title}  (mostly {_PLACES[int(3 * row)][int(3 * column)]})"
        return f"{title}  ({', '.join(f'{part} {value:+.2f}' for part, value in self.ranked()) or 'no single part'})"


def explain(
    model: Run | keras.Model | Served | str | os.PathLike[str],
    items: Sequence[Any],
    class_name: str | int | None = None,
) -> list[Explanation]:
    """Explain predictions: which words, regions or moments support a class.

    Each part of an example is left out in turn, and the fall of the class's log-odds is its relevance: words are
    removed from a text (erasure, Li et al. 2016), spans of a recording are silenced, and cells of an image get its mean
    colour (occlusion, Zeiler & Fergus 2014). This needs no gradient, so it works for every model, exported ones too.
    Where two words say the same thing, leaving out one of them may change nothing.

    Images have a finer and faster map where the model is a Keras model with a feature map:
    :func:`tfft.inspection.grad_cam`.

    Args:
        model: Model for classification, multilabel or regression: a run, its folder, a Keras model, a ``.keras`` file,
            an exported model or its folder.
        items: Paths of images or recordings; texts, or pairs of texts.
        class_name: Class to explain, by name or number. Defaults to the most probable one of each example.

    Returns:
        One explanation per item, in order.

    Raises:
        DataError: If an item cannot be used, or the task has no class to explain.
        PlanError: If there is no such class.

    Example:
        >>> [found] = tfft.explain("runs/reviews", ["a dull story, but finely acted"])
        >>> print(found)  # the class, its probability, and the words that support or contradict it most
    """
    served = _served(model)
    taken = served.asked()
    kind = registry.modality(taken.modality)
    read = list(kind.read_items(items, taken.spec))
    if bad := [f"{item.name}: {item.error}" for item in read if item.error is not None]:
        raise DataError(f"{quantity(len(bad), 'item')} cannot be explained: {join_names(bad, limit=5)}.")
    column = None if class_name is None else _column(served, class_name)
    return [_explained(served, kind, item, taken.spec, column) for item in read]


def _served(model: Run | keras.Model | Served | str | os.PathLike[str]) -> Served:
    if isinstance(model, Served):
        return model
    if isinstance(model, Run):
        model = model.model
    return serving_functions(model) if isinstance(model, keras.Model) else open_served(model)


def _column(served: Served, class_name: str | int) -> int:
    """Return the number of a class."""
    names = served.class_names
    if isinstance(class_name, str):
        if class_name not in names:
            known = f"Its classes: {join_names(names)}." if names else "It has no class names: pass a class number."
            raise PlanError(f"{served.place} has no class {class_name!r}.{did_you_mean(class_name, names)} {known}")
        return names.index(class_name)
    return class_name


def _explained(
    served: Served, kind: registry.Modality, item: RequestItem, spec: Any, column: int | None
) -> Explanation:
    """Explain one item: with a heat map if its model has one, else by leaving out parts."""
    try:
        scores, outputs = _scores(served, item.values[:1])
    except tf.errors.OpError as error:  # the model decodes files itself
        raise DataError(f"{item.name} cannot be explained: {reason_of_failure(error).rstrip('.')}.") from error
    column = int(scores[0].argmax()) if column is None else column
    if not 0 <= column < scores.shape[1]:
        raise PlanError(f"Expected a class from 0 to {scores.shape[1] - 1}. Received: {column}.")
    names = served.class_names
    probabilities = outputs.get("probabilities")
    found = Explanation(
        name=item.name if item.pair is None else f"{item.name} | {item.pair}",
        class_name=names[column] if column < len(names) else str(column),
        score=float(scores[0, column]), method=GRAD_CAM, parts=(), relevance=np.zeros(0),
        probability=None if probabilities is None else float(probabilities[0, column]),
    )  # fmt: skip
    mapped = None if served.model is None else kind.heatmap(served.model, item.values[0], column)
    if mapped is not None:
        return dataclasses.replace(found, picture=mapped[0], relevance=mapped[1])
    parts = kind.parts(item.values[0], spec)
    if parts is None:
        raise DataError(f"Predictions for {kind.items} cannot be explained: they have no parts to leave out.")
    fall = _without_parts(served, parts, column)
    if parts.grid is None or parts.picture is None:
        return dataclasses.replace(found, method=OCCLUSION, parts=parts.names, relevance=fall)
    heat = _heat_on_image(fall.reshape(parts.grid), parts.picture)
    return dataclasses.replace(found, method=OCCLUSION, picture=parts.picture, relevance=heat)


def _without_parts(served: Served, parts: Parts, column: int) -> np.ndarray:
    """Return by how much the score of a class falls without each part, float64 [parts]."""
    values = [parts.whole, *parts.without]
    found = [_scores(served, values[i : i + _BATCH])[0][:, column] for i in range(0, len(values), _BATCH)]
    whole, *without = np.concatenate(found)
    return whole - np.array(without, np.float64)


def _scores(served: Served, values: Sequence[Any]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the scores of all classes, float64 [B, classes], and the outputs."""
    outputs = served.predict(values)
    scores = registry.task_or_plain(served.task).class_scores(outputs)
    if scores is None:
        known = [name for name in registry.task_names() if is_explained(name)]
        raise DataError(
            f"Predictions of the task {served.task!r} cannot be explained. Expected a model for {join_names(known)}."
        )
    return scores, outputs


def is_explained(name: str) -> bool:
    """Whether predictions of a task can be explained, by its name."""
    return type(registry.task_or_plain(name)).class_scores is not registry.Task.class_scores


def _heat_on_image(fall: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the evidence for a class in the cells of a grid as a map on the image, float32 [H, W] from 0 to 1."""
    cells = np.maximum(fall, 0)
    cells = cells / max(cells.max(), np.finfo(np.float64).tiny)
    resized: np.ndarray = tf.image.resize(cells[..., None].astype(np.float32), picture.shape[:2]).numpy()
    return np.clip(resized[..., 0], 0, 1)
