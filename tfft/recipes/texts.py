"""Labelled texts as a recipe takes them: :func:`gather_texts`, :func:`gather_tagged` and what is asked of both.

Hides how texts become what the rest of a recipe asks for, and how many of them are longer than a backbone reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft import registry
from tfft.backbones.base import Backbone
from tfft.config import Plan, SharedSettings
from tfft.data import TaggedSplits, TextExamples, TextSplits, from_tagged, from_texts, text_lengths
from tfft.errors import PlanError, raise_problems
from tfft.recipes.gathered import Gathered, by_class

_COUNTED = 20_000  # texts that are cut into pieces to see how many are too long


def gather_texts(splits: TextSplits, name: str, wishes: SharedSettings) -> Gathered:
    """Makes labelled texts what a recipe takes.

    Args:
        splits: the texts.
        name: of the data, for the plan.
        wishes: of the user.
    """
    train, held_out = splits.train, splits.validation

    def training(_: Any, plan: Plan, epoch: tf.Variable) -> tf.data.Dataset:
        settings = {"batch_size": plan.batch_size, "seed": plan.seed, "epoch": epoch, "sampling": plan.sampling}
        return from_texts(train, shuffle=True, **settings)

    counted = {"counts": (), "unseen": ()}
    if registry.task(splits.task).exclusive_classes:
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
        name=name,
        fingerprint=lambda: f"{train.fingerprint()} {held_out.fingerprint()}",
        task=splits.task,
        texts=train,
        lengths=text_lengths(train),
        report=str(splits.report),
        apart=wishes.group is not None,
    )


def check_supported(wishes: SharedSettings) -> None:
    """Refuses settings that mean nothing for the task that was asked for.

    Raises:
        PlanError: naming all of them.
    """
    task = registry.asked_task(wishes.task)
    raise_problems(PlanError, "These settings cannot be used", [] if task is None else list(task.unsupported(wishes)))


def gather_tagged(splits: TaggedSplits, name: str) -> Gathered:
    """Makes sentences whose words are tagged what a recipe takes.

    Args:
        splits: the sentences.
        name: of the data, for the plan.
    """
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
        name=name,
        fingerprint=lambda: f"{train.fingerprint()} {held_out.fingerprint()}",
        task="token_classification",
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
