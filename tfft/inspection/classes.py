"""Checks of classes: similar names, too few examples, imbalance, different classes in the splits."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from tfft.data import Skipped
from tfft.errors import did_you_mean, join_names
from tfft.inspection.findings import Finding, Item, Level
from tfft.io.name_files import composed

_FEW = 10
_UNEVEN, _VERY_UNEVEN = 5, 50  # times as many examples in the largest class as in the smallest


def class_findings(counts: Mapping[str, Mapping[str, int]], skipped: Sequence[Skipped] = ()) -> Iterator[Finding]:
    """Yield findings about the classes of a dataset.

    Args:
        counts: Number of usable examples of each class, by part; the part that is learned from comes first.
        skipped: Files that cannot be used, for the reason why a class is empty.
    """
    train = next(iter(counts.values()))
    yield from similar_names(list(dict.fromkeys(name for part in counts.values() for name in part)))
    for part, own in counts.items():
        where = f" in {part}" if part else ""
        empty = [name for name, count in own.items() if not count]
        if empty:
            remedy = "add examples or remove its folder"
            items = tuple(Item(name, f"has no usable example{where}{_first(name, skipped)}") for name in empty)
            yield Finding("empty-class", "error", f"{len(empty)} classes are empty{where}", remedy, items)
    if len(train) < 2:
        remedy = "a classifier needs two classes or more; expected one folder for each"
        yield Finding("one-class", "error", f"there are {len(train) or 'no'} classes", remedy, class_items(train))
    few = {name: count for name, count in train.items() if 0 < count < _FEW}
    if few:
        remedy = "add examples, or use plan='few_shot'"
        yield Finding("few", "warning", f"{len(few)} classes have fewer than {_FEW} examples", remedy, class_items(few))
    yield from _unmatched(counts)
    yield from imbalance_findings(train)


def _first(name: str, skipped: Sequence[Skipped]) -> str:
    """Says why the first file in the folder of a class is not used."""
    first = next((item for item in skipped if name in map(composed, PurePath(item.path).parts[:-1])), None)
    return "" if first is None else f"; the first file: {first}"


def imbalance_findings(counts: Mapping[str, int]) -> Iterator[Finding]:
    """Yield a finding if classes have very different sizes."""
    full = {name: count for name, count in counts.items() if count}
    pair = uneven_classes(full)
    if pair is None:
        return
    most, least = pair
    share = full[most] / sum(full.values())
    message = (
        f"{most!r} has {full[most] / full[least]:.0f} times as many examples as {least!r}; always predicting {most!r} "
        f"would be right for {share:.0%}"
    )
    remedy = "look at balanced accuracy and F1, and try class_weight='balanced' or sampling='balanced'"
    level: Level = "warning" if full[most] >= _VERY_UNEVEN * full[least] or share > 0.9 else "note"
    yield Finding("imbalance", level, message, remedy, class_items(full))


def uneven_classes(counts: Mapping[str, int]) -> tuple[str, str] | None:
    """Return the largest and the smallest class, of which none is empty; None if their sizes are similar."""
    if len(counts) < 2 or max(counts.values()) < _UNEVEN * min(counts.values()):
        return None
    return max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)


def similar_names(names: Sequence[str]) -> Iterator[Finding]:
    """Yield class names that differ only by case, spaces or Unicode composition."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        alike["".join(c for c in plain if c.isalnum()) or plain.strip()].append(name)
    same = [group for group in alike.values() if len(group) > 1]
    if same:
        items = tuple(Item(join_names(map(repr, group))) for group in same)
        message = "some class names differ only by case, spaces or punctuation"
        yield Finding("class-twins", "warning", message, "merge them if they are one class", items)


def _unmatched(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Finding]:
    (first, train), *rest = counts.items()
    items = []
    for part, own in rest:
        for name in sorted(set(own) - set(train)):
            hint = did_you_mean(name, set(train) - set(own))
            items.append(Item(name, f"is in {part} but not in {first}.{hint}".rstrip(".")))
        items += [Item(name, f"is in {first} but not in {part}") for name in sorted(set(train) - set(own))]
    if items:
        remedy = "give all splits the same classes"
        yield Finding("unmatched-class", "error", "the splits do not have the same classes", remedy, tuple(items))


def class_items(counts: Mapping[str, int]) -> tuple[Item, ...]:
    """Return the classes with their sizes, the smallest first."""
    return tuple(Item(name, f"has {count:,}") for name, count in sorted(counts.items(), key=lambda pair: pair[1]))


def label_text(names: Sequence[str], label: Any) -> str:
    """Return the class names of an example, or its number; nothing for boxes and masks."""
    if np.ndim(label) > 1 or (np.ndim(label) == 1 and len(label) != len(names)):
        return ""
    if np.ndim(label):
        return ", ".join(name for name, on in zip(names, label, strict=True) if on)
    return names[label] if np.asarray(label).dtype.kind != "f" else f"{label:g}"
