"""Texts and pairs of texts: tables, lists and folders, batches by length, checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfft.modalities import lazy_names

if TYPE_CHECKING:
    from tfft.modalities.text.examples import TextExamples
    from tfft.modalities.text.load import load_texts, read_texts
    from tfft.modalities.text.modality import TEXT
    from tfft.modalities.text.report import TextReport

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "TEXT": "modality",
        "TextExamples": "examples",
        "TextReport": "report",
        "load_texts": "load",
        "read_texts": "load",
    },
)

__all__ = [
    "TEXT",
    "TextExamples",
    "TextReport",
    "load_texts",
    "read_texts",
]
