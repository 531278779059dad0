"""Token classification: one tag per word of a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from tfft.registry import Evaluator, FeatureLevel, Modality, ScoreDisplay, Task
from tfft.tasks.token_classification.entities import OUTSIDE, Entity, entities

if TYPE_CHECKING:
    from tfft.heads import Head

__all__ = ["OUTSIDE", "TOKEN_CLASSIFICATION", "Entity", "TokenClassification", "entities"]


class TokenClassification(Task):
    """One tag per word, such as entities or parts of speech."""

    name: ClassVar[str] = "token_classification"
    head_kind: ClassVar[str] = "tokens"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    feature_level: ClassVar[FeatureLevel] = "sequence"
    solves_head: ClassVar[bool] = False
    head_reason: ClassVar[str] = "trained: it can be computed where a text has one label, and here each word has one"
    caches_features: ClassVar[bool] = False

    @property
    def reader(self) -> Modality | None:
        """The reader of files with words and tags."""
        from tfft.tasks.token_classification.reader import TAGGED_WORDS

        return TAGGED_WORDS

    def class_names(self, values: Sequence[Any]) -> tuple[str, ...]:
        """Return the tags that occur, ``"O"`` first."""
        tags = {tag for sentence in values for tag in sentence}
        return tuple(sorted(tags, key=lambda tag: (tag != OUTSIDE, tag)))

    def encode(self, values: Sequence[Any], class_names: Sequence[str]) -> np.ndarray:
        """Return int32 [N, W], W the words of the longest sentence, -1 for padding."""
        number = {name: at for at, name in enumerate(class_names)}
        labels = np.full((len(values), max(map(len, values), default=0)), -1, np.int32)
        for row, tags in enumerate(values):
            labels[row, : len(tags)] = [number[tag] for tag in tags]
        return labels

    def counts(self, labels: np.ndarray, class_names: Sequence[str]) -> dict[str, int]:
        """Return the number of words with each tag."""
        totals = np.bincount(labels[labels >= 0], minlength=len(class_names))
        return dict(zip(class_names, totals.tolist(), strict=True))

    def head_factory(self) -> Callable[..., Head]:
        """Return :func:`tfft.heads.token_classification`."""
        from tfft.tasks.token_classification.head import token_classification

        return token_classification

    def make_head(self, class_names: Sequence[str], **settings: Any) -> Head:
        """Make the head for a configuration."""
        return self.head_factory()(class_names, **settings)

    def head_class(self) -> type[Head]:
        """Return the class of its heads."""
        from tfft.tasks.token_classification.head import TokenClassificationHead

        return TokenClassificationHead

    def unsupported(self, config: Any) -> Iterator[str]:
        """Report settings for one label per example."""
        for name in ("class_weight", "sampling", "separator"):
            if getattr(config, name, None):
                yield f"{name} does not apply where each word has a tag: leave it out"

    def evaluator(self, head: Head) -> Evaluator:
        """Return a new object that counts words and entities."""
        from tfft.tasks.token_classification.evaluator import TagEvaluator

        return TagEvaluator(head)

    def score_display(self, metric: str) -> ScoreDisplay:
        """Score entities where tags are those of entities, else words."""
        if metric != "f1":
            return super().score_display(metric)
        details = "accuracy of words {accuracy:.4f}"
        return ScoreDisplay("entity F1", row="type", table="per type of entity", details=details)

    def format_prediction(self, name: str, outputs: Mapping[str, Any]) -> str:
        """Return the sentence with a tag after each word that has one."""
        if "tags" not in outputs:
            return super().format_prediction(name, outputs)
        return " ".join(word if tag == OUTSIDE else f"{word}/{tag}" for word, tag in outputs["tags"])

    def sample_labels(self, head: Head, scores: np.ndarray) -> np.ndarray:
        """Return the number of the largest score of each word; the last word of every other sentence is padding."""
        labels = scores.argmax(-1).astype("int32")
        labels[::2, -1] = -1
        return labels

    def score_served(self, head: Head, outputs: Mapping[str, np.ndarray], labels: np.ndarray) -> Mapping[str, float]:
        """Return the share of labelled words whose served tag is right."""
        names, labelled = np.array(head.class_names, dtype=bytes), labels >= 0
        return {"accuracy": float(np.mean(outputs["label"][labelled] == names[labels[labelled]]))}


TOKEN_CLASSIFICATION = TokenClassification()
