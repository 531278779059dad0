"""Checks of recordings with transcripts."""

from __future__ import annotations

import collections
from collections.abc import Iterator

import numpy as np

from tfft.data.examples import Splits
from tfft.inspection.findings import Finding, Item
from tfft.modalities.audio.checks import recording_findings
from tfft.tasks.transcription.data import TranscribedRecordings
from tfft.tasks.transcription.text import alphabet, outside

_FAST, _SLOW = 30.0, 1.0  # characters per second; read speech has 10 to 20
_RARE = 3
_SURE = 3.0  # seconds below which a low rate means little


def transcript_findings(splits: Splits[TranscribedRecordings]) -> Iterator[Finding]:
    """Yield findings about recordings and their transcripts, without reading files again.

    Args:
        splits: Recordings with transcripts.
    """
    yield from recording_findings(splits)  # type: ignore[arg-type]
    train, held_out = splits.train, splits.validation
    # A model of tokens has no alphabet: what its vocabulary does not cover is told when transcripts become tokens.
    if train.class_names and (strange := outside(held_out.texts, train.class_names)):
        yield Finding(
            "alphabet", "warning", f"held-out transcripts have characters that no training transcript has: {strange}",
            "they count as errors; check their spelling, or add training examples",
        )  # fmt: skip
    yield from _rates(splits)
    rare = [name for name, count in train.counts.items() if count < _RARE]
    if rare:
        items = tuple(Item(repr(name), _first(train, name)) for name in rare)
        yield Finding(
            "rare", "note", f"{len(rare)} characters occur fewer than {_RARE} times",
            "a model hardly learns them; check their spelling", items,
        )  # fmt: skip
    letters = alphabet(train.texts)
    if any(map(str.isdigit, letters)) and any(map(str.isalpha, letters)):
        yield Finding(
            "digits",
            "note",
            "some transcripts have digits",
            "write numbers as they are spoken, or all of them in digits",
        )
    known = collections.Counter(train.texts)
    again = sum(text in known for text in held_out.texts)
    if again:
        yield Finding(
            "sentences", "note", f"held-out transcripts that are also training transcripts: {again} of {len(held_out)}",
            "the scores do not show how well the model does on new sentences; group= can keep equal ones together",
        )  # fmt: skip


def _rates(splits: Splits[TranscribedRecordings]) -> Iterator[Finding]:
    fast, slow = [], []
    for part in splits.parts.values():
        seconds = np.array([fact.seconds for fact in part.facts])
        for at, text in enumerate(part.texts):
            rate = len(text) / seconds[at]
            item = Item(part.sources[at], f"has {rate:.1f} characters per second: {text[:40]!r}")
            if rate > _FAST:
                fast.append(item)
            elif rate < _SLOW and seconds[at] > _SURE:
                slow.append(item)
    for kind, items, words in (("fast", fast, "long"), ("slow", slow, "short")):
        if items:
            yield Finding(
                kind, "warning", f"{len(items)} recordings have a transcript that is very {words} for them",
                "check whether it belongs to another recording", tuple(items),
            )  # fmt: skip


def _first(part: TranscribedRecordings, character: str) -> str:
    return next((f"in {place}" for place, text in zip(part.sources, part.texts, strict=True) if character in text), "")
