"""Reader of sentences with tagged words: :data:`TAGGED_WORDS`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tfft.modalities.text.modality import TextModality
from tfft.registry import Match

if TYPE_CHECKING:
    from tfft.tasks.token_classification.data import TokenExamples


class TaggedWords(TextModality):
    """Texts with one tag per word."""

    item = "sentence"
    items = "tagged words"

    def matches(self, source: Any, settings: Mapping[str, Any]) -> Match | None:
        """Accept any source, since it is used only if the task is named."""
        return Match("tagged words", _load, frozenset({"text", "label", "task", "validation", "seed"}), 3)

    def read_labelled(self, source: Any, class_names: Sequence[str], settings: Mapping[str, Any]) -> TokenExamples:
        """Read a file of tagged sentences."""
        from tfft.tasks.token_classification.data import read_tagged

        return read_tagged(source, class_names, **_lists(settings))

    def is_split(self, source: Any) -> bool:
        """Return False: a single file is not split."""
        return False


def _load(source: Any, *, validation: float = 0.2, seed: int = 0, **settings: Any) -> Any:
    from tfft.tasks.token_classification.data import load_tagged

    pair = isinstance(source, (tuple, list)) and len(source) == 2
    if pair and all(isinstance(part, (str, os.PathLike)) for part in source):
        source = {"train": source[0], "validation": source[1]}
    return load_tagged(source, validation=validation, seed=seed, **_lists(settings))


def _lists(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The names of the lists in JSON lines, which are columns elsewhere."""
    names = {"words": settings.get("text"), "tags": settings.get("label")}
    return {name: value for name, value in names.items() if value is not None}


TAGGED_WORDS = TaggedWords()
