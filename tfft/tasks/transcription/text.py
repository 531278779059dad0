"""Transcripts as text: normalization, alphabet and numbers. Knows no framework."""

from __future__ import annotations

import collections
import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np

from tfft.errors import PlanError, join_names, raise_problems

LetterCase = Literal["lower", "keep"]
Punctuation = Literal["drop", "keep"]
CASES, MARKS = ("lower", "keep"), ("drop", "keep")

MOST_CHARACTERS = 400  # of an alphabet: syllabaries have some hundred, Chinese has thousands
PADDING = -1
STRANGE = "\ufffd"  # in place of a character outside of the alphabet

_APOSTROPHES = {"\u2019": "'", "\u02bc": "'"}
_SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Normalization:
    """How transcripts are written before a model learns them, or is measured on them.

    Text is always in Unicode NFC, with single spaces between words and none at the ends.

    Attributes:
        letter_case: ``"lower"`` for lowercase, ``"keep"`` for case as written.
        punctuation: ``"drop"`` removes punctuation and symbols: within a word an apostrophe stays, and other marks
            divide it. ``"keep"`` leaves them.
    """

    letter_case: LetterCase = "lower"
    punctuation: Punctuation = "drop"

    def __post_init__(self) -> None:
        problems = []
        for name, valid in (("letter_case", CASES), ("punctuation", MARKS)):
            if (value := getattr(self, name)) not in valid:
                problems.append(f"{name}: Expected {join_names(valid)}. Received: {value!r}")
        raise_problems(PlanError, "The normalization cannot be used", problems)

    def __call__(self, text: str) -> str:
        """Return a text as the model writes it.

        Example:
            >>> Normalization()("Well-known, isn't it?")
            "well known isn't it"
        """
        found = unicodedata.normalize("NFC", text)
        if self.letter_case == "lower":
            found = unicodedata.normalize("NFC", found.lower())
        if self.punctuation == "drop":
            found = "".join(_APOSTROPHES.get(one, one) for one in found)
            found = "".join(_kept(found, at) for at in range(len(found)))
        return " ".join(found.split())

    @property
    def words(self) -> str:
        """Description for a person."""
        case = "lowercase" if self.letter_case == "lower" else "case as written"
        marks = "without punctuation" if self.punctuation == "drop" else "with punctuation"
        return f"{case}, {marks}, Unicode NFC, single spaces"


def _kept(text: str, at: int) -> str:
    """Return a character of a text without punctuation: itself, or a space for a mark."""
    one = text[at]
    if one == "'" and 0 < at < len(text) - 1 and text[at - 1].isalnum() and text[at + 1].isalnum():
        return one
    return " " if unicodedata.category(one)[0] in "PS" else one


def alphabet(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the characters that occur in texts, sorted; the space is first."""
    return tuple(sorted({character for text in texts for character in text}))


def encode(texts: Sequence[Sequence[str]], characters: Sequence[str]) -> np.ndarray:
    """Return the numbers of characters, int32 [N, L], L of the longest text, at least 1.

    Args:
        texts: Texts, or sequences of characters.
        characters: Alphabet in the order of the numbers.

    Returns:
        -1 for padding, ``len(characters)`` for a character outside of the alphabet.
    """
    number = {name: at for at, name in enumerate(characters)}
    labels = np.full((len(texts), max(1, max(map(len, texts), default=0))), PADDING, np.int32)
    for row, text in enumerate(texts):
        labels[row, : len(text)] = [number.get(one, len(characters)) for one in text]
    return labels


def decode(row: np.ndarray, characters: Sequence[str]) -> str:
    """Return the text of numbers [L] from :func:`encode`, whatever else is in the row.

    A character outside of the alphabet becomes U+FFFD.
    """
    names = [*characters, STRANGE]
    return "".join(names[at] for at in row.tolist() if 0 <= at < len(names))


def outside(texts: Sequence[str], characters: Sequence[str]) -> str:
    """Return the characters of texts outside of an alphabet with their numbers, in words; empty without any."""
    known = set(characters)
    counts = collections.Counter(one for text in texts for one in text if one not in known)
    return join_names((f"{one!r} ({count})" for one, count in counts.most_common()), limit=_SHOWN)


def least_frames(text: Sequence[str]) -> int:
    """Return the least number of frames for a text in CTC: one per character, and one between two equal ones."""
    return len(text) + sum(one == other for one, other in zip(text, text[1:], strict=False))
