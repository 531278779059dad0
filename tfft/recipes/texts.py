"""Labelled texts as a recipe takes them: :func:`gather_texts`, :func:`gather_tagged` and what is asked of both.

Hides which forms of data hold texts, and how a table becomes what the rest of a recipe asks for.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.data import TextExamples, from_tagged, from_texts, load_tagged, load_texts, text_lengths
from tfft.errors import PlanError, listed
from tfft.plans import Wishes
from tfft.recipes.gathered import Gathered, by_class
from tfft.specs import Plan

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
_COUNTED = 20_000  # texts that are cut into pieces to see how many are too long


def is_text_data(data: Any, wishes: Wishes) -> bool:
    """Tells whether data holds texts: a table, lists of strings, a folder of text files, or columns were named."""
    if any(getattr(wishes, name) is not None for name in ("text", "label", "separator")):
        return True
    if isinstance(data, (str, os.PathLike)):
        path = Path(data).expanduser()
        return path.suffix.lower() in TABLES or (path.is_dir() and _holds_texts(path))
    if isinstance(data, (tuple, list)) and len(data) == 2 and not isinstance(data[0], tf.data.Dataset):
        if all(isinstance(part, (str, os.PathLike)) for part in data):
            return Path(data[0]).suffix.lower() in TABLES
        return _are_texts(data[0])
    return hasattr(data, "columns") and hasattr(data, "iloc")  # a DataFrame, without importing pandas


def gather_texts(data: Any, wishes: Wishes) -> Gathered:
    """Reads labelled texts, splits them and makes them what a recipe takes.

    Args:
        data: as :func:`tfft.data.load_texts` takes it.
        wishes: columns, task, share to hold out, seed.

    Raises:
        DataError: listing everything that is wrong with the data.
    """
    named = {name: getattr(wishes, name) for name in ("text", "label") if getattr(wishes, name) is not None}
    splits = load_texts(
        data, **named, task=wishes.task, separator=wishes.separator, group=wishes.group,
        validation=wishes.validation, seed=wishes.seed,
        strict=wishes.strict,
    )  # fmt: skip
    train, held_out = splits.train, splits.validation

    def training(_: Any, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        settings = {"batch_size": plan.batch_size, "seed": plan.seed, "epoch": epoch, "sampling": plan.sampling}
        return from_texts(train, shuffle=True, **settings)

    counted = {"counts": (), "unseen": ()}
    if splits.task == "classification":
        counted = by_class(splits.class_names, train.labels, held_out.labels)
    return Gathered(
        class_names=tuple(splits.class_names or ()),
        examples=len(train),
        held_out=len(held_out),
        **counted,
        origin=splits.split_from,
        skipped=tuple(splits.skipped),
        image_side=None,
        training=training,
        validation=lambda _, batch_size: from_texts(held_out, batch_size=batch_size),
        ordered=lambda _: ((train.inputs, train.labels), (held_out.inputs, held_out.labels)),
        probe=(),
        name=os.fspath(data) if isinstance(data, (str, os.PathLike)) else "texts given in memory",
        fingerprint=lambda: f"{train.fingerprint()} {held_out.fingerprint()}",
        task=splits.task,
        texts=train,
        lengths=text_lengths(train),
        report=str(splits.report),
        apart=wishes.group is not None,
    )


def gather_tagged(data: Any, wishes: Wishes) -> Gathered:
    """Reads sentences whose words are tagged, splits them and makes them what a recipe takes.

    Args:
        data: as :func:`tfft.data.load_tagged` takes it, or two files in a pair.
        wishes: names of the lists in JSON lines, share to hold out, seed.

    Raises:
        DataError: listing everything that is wrong with the data.
        PlanError: for settings that mean nothing for tags.
    """
    unusable = [name for name in ("class_weight", "sampling", "separator") if getattr(wishes, name)]
    if unusable:
        raise PlanError(f"{listed(unusable)} mean nothing where each word has a tag. Leave them out.")
    files = isinstance(data, (tuple, list)) and all(isinstance(part, (str, os.PathLike)) for part in data)
    if files and len(data) == 2:
        data = {"train": data[0], "validation": data[1]}
    named = {"words": wishes.text, "tags": wishes.label}
    splits = load_tagged(
        data, **{name: value for name, value in named.items() if value is not None},
        validation=wishes.validation, seed=wishes.seed,
    )  # fmt: skip
    train, held_out = (
        TextExamples(part.inputs, None, part.labels, splits.tag_names, ()) for part in (splits.train, splits.validation)
    )
    counts = ", ".join(f"{name} {count:,}" for name, count in splits.train.counts.items())

    def training(_: Any, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        return from_tagged(splits.train, batch_size=plan.batch_size, shuffle=True, seed=plan.seed, epoch=epoch)

    return Gathered(
        class_names=splits.tag_names,
        examples=len(train),
        held_out=len(held_out),
        counts=(),
        unseen=(),
        origin=splits.split_from,
        skipped=(),
        image_side=None,
        training=training,
        validation=lambda _, batch_size: from_tagged(splits.validation, batch_size=batch_size),
        ordered=lambda _: ((train.inputs, train.labels), (held_out.inputs, held_out.labels)),
        probe=(),
        name=os.fspath(data) if isinstance(data, (str, os.PathLike)) else "texts given in memory",
        fingerprint=lambda: f"{train.fingerprint()} {held_out.fingerprint()}",
        task="tokens",
        texts=train,
        report="\n".join((f"words: {splits.train.words:,} ({counts})", *splits.notes)),
    )


def check_takes_texts(backbone: Backbone, data: Gathered) -> None:
    """Raises PlanError where texts meet a backbone that takes something else, or images one that takes texts."""
    takes_text = backbone.text_spec is not None
    if takes_text == (data.texts is not None) or data.is_ready:
        return
    others = "images" if data.audio is None else "recordings"
    has, wants = ("texts", "something else") if data.texts is not None else (others, "texts")
    fix = "tfft.list_backbones(kind='text') shows some that take texts" if data.texts is not None else "give texts"
    raise PlanError(f"The data holds {has}, and the backbone {backbone.name!r} takes {wants}: {fix}.")


def truncation_note(backbone: Backbone, data: Gathered) -> str:
    """Says how many texts are longer than what is read of them; empty where nothing is cut."""
    if backbone.tokenizer is None or data.texts is None:
        return ""
    lengths = piece_lengths(backbone, data.texts)
    limit = backbone.tokenizer.max_length
    full = int((lengths >= limit).sum())
    text = f"text: {np.median(lengths):.0f} pieces in the middle, {lengths.max()} at most, of {limit} that are read"
    if full:
        text += (
            f"; {full} of {len(lengths)} texts ({full / len(lengths):.1%}) fill all of them and may be cut off: "
            f"max_length reads more, up to {backbone.text_spec.max_length}"
        )
    return text


def piece_lengths(backbone: Backbone, texts: TextExamples, batch: int = 1024) -> np.ndarray:
    """Returns the number of pieces of (at most 20,000) texts, as the tokenizer cuts them."""
    tokenizer = backbone.tokenizer
    step = max(1, len(texts) // _COUNTED)
    columns: Sequence[np.ndarray] = [texts.texts[::step]]
    if texts.pairs is not None:
        columns = [*columns, texts.pairs[::step]]
    found = []
    for at in range(0, len(columns[0]), batch):
        parts = [tf.constant(column[at : at + batch]) for column in columns]
        found.append(tokenizer(parts if len(parts) > 1 else parts[0])[tokenizer.mask].numpy().sum(axis=-1))
    return np.concatenate(found)


def _are_texts(values: Any) -> bool:
    """Whether values are strings, looking at the first few; pairs of texts are a pair of lists."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__") or not len(values):
        return False
    if isinstance(values, np.ndarray) and values.ndim != 1:
        return False
    return all(isinstance(value, str) for value in list(values[:5]))


def _holds_texts(folder: Path) -> bool:
    """Whether a folder has tables, or folders of mostly .txt files: a note among photos makes no texts of them."""
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in TABLES:
            return True
        if entry.is_dir() and not entry.name.startswith("."):
            inside = sorted(entry.iterdir())[:50]
            if _mostly_texts(inside):
                return True
            if any(inner.is_dir() and _mostly_texts(list(inner.iterdir())[:50]) for inner in inside):
                return True
    return False


def _mostly_texts(paths: Sequence[Path]) -> bool:
    files = [path.suffix.lower() for path in paths if path.is_file() and not path.name.startswith(".")]
    return 2 * files.count(".txt") > len(files)
