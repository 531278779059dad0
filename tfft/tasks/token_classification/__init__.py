"""Token classification: each word of a sentence has a tag."""

from __future__ import annotations

from typing import ClassVar

from tfft.registry import FeatureLevel, Modality, Task


class TokenClassification(Task):
    """A tag for each word: names of people and places, parts of speech."""

    name: ClassVar[str] = "token_classification"
    head_kind: ClassVar[str] = "tokens"
    modalities: ClassVar[frozenset[str]] = frozenset({"text"})
    feature_level: ClassVar[FeatureLevel] = "sequence"
    solves_head: ClassVar[bool] = False
    caches_features: ClassVar[bool] = False

    @property
    def reader(self) -> Modality | None:
        """Reads files of words and their tags."""
        from tfft.tasks.token_classification.reader import TAGGED_WORDS

        return TAGGED_WORDS


TOKEN_CLASSIFICATION = TokenClassification()
