"""Checks of labelled texts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfft import registry
from tfft.data import Splits
from tfft.inspection.classes import imbalance_findings, similar_names
from tfft.inspection.findings import Finding, Item, Level, counted
from tfft.modalities.text.examples import TextExamples

_LONG = 20_000  # characters; longer than the input of any encoder
_FEW = 10
# UTF-8 that was decoded as Latin-1 and saved again: "Ã©" instead of "é".
_MOJIBAKE = re.compile("Ã[\x80-\xbf©¨¼¶¤±§]|â€[™œ\x9d“”¦]|Â[ ©®°]")
_MARKUP = re.compile(r"</?(p|br|div|span|a|b|i|td|tr|li)\b[^>]*>|&(amp|lt|gt|quot|nbsp|#\d+);", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def text_findings(splits: Splits[TextExamples]) -> Iterator[Finding]:
    """Yield findings about texts from :func:`load_texts`.

    Args:
        splits: Both parts.
    """
    yield from _findings(splits, {"train": splits.train, "validation": splits.validation}, text_counts(splits))


def text_counts(splits: Splits[TextExamples]) -> dict[str, dict[str, int]]:
    """Return the number of texts per class, by part; of all texts if labels are not classes."""
    return {"train": _counts(splits.train, splits), "validation": _counts(splits.validation, splits)}


def _counts(part: TextExamples, splits: Splits[TextExamples]) -> dict[str, int]:
    task = registry.task(splits.task)
    return task.counts(part.labels, splits.class_names) if task.exclusive_classes else {"texts": len(part)}


def _findings(
    splits: Splits[TextExamples], parts: Mapping[str, TextExamples], counts: Mapping[str, Mapping[str, int]]
) -> Iterator[Finding]:
    unusable = [Item(one.path, one.reason) for one in splits.skipped]
    remedy = "fill in the fields or remove the rows; training skips them"
    yield from counted(unusable, "unusable", "error", "rows cannot be used", remedy)
    rows = [
        (part, place, text, label.tobytes() if isinstance(label, np.ndarray) else label)
        for part, own in parts.items()
        for place, text, label in zip(own.places, _whole(own), own.labels, strict=True)
    ]
    yield from _repeats(rows)
    yield from spelling_findings([(place, text) for _, place, text, _ in rows])
    long = [Item(place) for _, place, text, _ in rows if len(text) > _LONG]
    words = f"texts are longer than {_LONG:,} characters"
    yield from counted(long, "long-text", "warning", words, "only the beginning is used; split them")
    yield from similar_names(splits.class_names)
    if registry.task(splits.task).exclusive_classes:
        total = Counter(counts["train"]) + Counter(counts["validation"])
        few = [Item(name, f"has {total[name]}") for name in splits.class_names if total[name] < _FEW]
        words = f"classes have fewer than {_FEW} examples"
        yield from counted(few, "few", "warning", words, "add examples, or use plan='setfit'")
        yield from imbalance_findings(total)


def _whole(part: TextExamples) -> Sequence[str]:
    if part.pairs is None:
        return list(part.texts)
    return [f"{one}\0{other}" for one, other in zip(part.texts, part.pairs, strict=True)]


def _repeats(rows: Sequence[tuple[str, str, str, Any]]) -> Iterator[Finding]:
    seen: dict[str, list[int]] = defaultdict(list)
    for at, (_, _, text, _) in enumerate(rows):
        seen[" ".join(text.casefold().split())].append(at)
    several = [group for group in seen.values() if len(group) > 1]
    conflicts, leaks, same = [], [], []
    for first, *others in several:
        for at in others:
            item = Item(rows[at][1], "has the text of", rows[first][1])
            if rows[at][3] != rows[first][3]:
                conflicts.append(item)
            elif rows[at][0] == rows[first][0]:
                same.append(item)
            if rows[at][0] != rows[first][0]:
                leaks.append(item)
    words = "texts are on both sides of the split: memorized examples inflate the score"
    yield from counted(leaks, "leak", "warning", words, "remove them on one side")
    words = "equal texts have different labels"
    yield from counted(conflicts, "conflict", "warning", words, "decide on one label and remove the other")
    words = "texts occur more than once"
    yield from counted(same, "copy", "note", words, "remove all but one; they stay on one side of the split")


def spelling_findings(rows: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    """Yield findings about texts that are empty, wrongly decoded or full of markup.

    Args:
        rows: Place and text of each example.
    """
    looks: tuple[tuple[str, Level, str, str, Callable[[str], Any]], ...] = (
        ("empty-text", "warning", "texts have no visible character", "remove them", lambda t: not t.strip()),
        ("mojibake", "warning", "texts look like UTF-8 that was read as another encoding (Ã© for é)",
         "read the source again with encoding='utf-8'", _MOJIBAKE.search),
        ("replaced", "warning", "texts have � where a character was lost", "read the source in its own encoding",
         lambda t: "\ufffd" in t),
        ("markup", "warning", "texts contain HTML", "remove it, unless requests have it too", _MARKUP.search),
        ("control", "warning", "texts have control characters", "remove them", _CONTROL.search),
    )  # fmt: skip
    for kind, level, words, remedy, odd in looks:
        places = [Item(place) for place, text in rows if odd(text.replace("\0", " "))]
        yield from counted(places, kind, level, words, remedy)
