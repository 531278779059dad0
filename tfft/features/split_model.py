"""A model in two: the frozen part, whose result never changes, and the part that trains.

Hides which parts of a model are constant while it trains, and why some are not although they are frozen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from tfft import heads
from tfft.backbones.base import blocks_of, find_backbone, names_of
from tfft.errors import BackboneError, did_you_mean, join_names
from tfft.features.functional_graph import Step, ancestors, descendants, divide, flatten, steps_of
from tfft.keras_compat import flatten_layers, seed_generators
from tfft.layers.tokenize import Tokenize


def split_frozen(
    model: keras.Model, *, cut: str | None = None, ignore_dropout: bool = False
) -> tuple[keras.Model, keras.Model]:
    """Divide a model into its frozen prefix and its trainable suffix, which share its variables.

    Use it to compute the frozen part once, with :func:`tfft.features.extract`, and to train the suffix
    on what it gave: every step changes the variables of the model itself, so that afterwards the model
    is trained. ``suffix(prefix(x))`` equals ``model(x)``, in ``fit`` too.

    The prefix reaches as far as nothing trains: the whole backbone and its pooling in feature
    extraction, everything in front of the first trainable layer otherwise.

    Args:
        model: functional or sequential; from :func:`tfft.build`, after :func:`tfft.unfreeze`, or any other.
        cut: name of the backbone's block that ends the prefix; it may end earlier than nothing trains,
            not later.
        ignore_dropout: True runs the prefix without the dropout inside of it, in place of refusing. The
            frozen part then behaves in training as it does in inference.

    Returns:
        ``(prefix, suffix)``, both functional and not compiled. The prefix takes what the model takes. It
        gives one tensor, or a list where the suffix needs more, such as the inputs that transformer
        blocks read themselves; the suffix takes what the prefix gives, and gives what the model gives.

    Raises:
        BackboneError: If there is no such block, nothing is frozen or nothing trains, or the frozen
            part is not constant in training: dropout in it, or statistics that move.

    Example:
        >>> prefix, suffix = tfft.features.split(model)
        >>> features = tfft.features.extract(prefix, train)
        >>> suffix.compile("adam", **tfft.heads.from_model(model).compile_args())
        >>> suffix.fit(features.dataset(shuffle=True), epochs=20, shuffle=False)
    """
    flat = flatten(model)
    steps = steps_of(flat)
    late = descendants(steps, _trainable(model, steps) if cut is None else _after_block(model, steps, cut))
    early = [s for s in steps if s.key not in late]
    unsteady = [s for s in early if is_random(s) or moves(s)]
    if ignore_dropout:
        ignored = backbone_dropout(model, early)
        unsteady = [s for s in unsteady if s.key not in ignored]
    changing = descendants(steps, unsteady)
    lost = [s for s in early if s.variables and s.key in changing]
    if lost:
        raise BackboneError(_not_constant(model, unsteady, lost))
    inside = {s.key for s in early if s.key not in changing}
    if not any(s.variables for s in early):
        first = next((s.name for s in steps if s.variables), "none")
        raise BackboneError(
            f"{model.name!r} has no frozen part to run ahead: its first layer with variables, {first!r}, trains. "
            "Freeze the first blocks: tfft.unfreeze(model, n) trains the last n only."
        )
    leave_growth_to_suffix(flat, steps, inside)
    return divide(flat, inside, (f"{model.name}_prefix", f"{model.name}_suffix"), _masks(steps, inside))


def split_head(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Divide a model in front of its head, whatever trains.

    Use it for a linear probe: the features of the backbone as it is in inference, and the head alone.

    Args:
        model: with one head of tfft.

    Returns:
        ``(prefix, suffix)``: from the model's inputs to features [B, width], and from there to logits.

    Raises:
        PlanError: If the model has no head of tfft.
        BackboneError: If Keras does not know the model's graph.

    Example:
        >>> prefix, suffix = split_head(model)
        >>> solved = tfft.features.fit_linear_probe(extract(prefix, train).arrays, labels, tfft.heads.from_model(model))
    """
    heads.from_model(model)
    flat = flatten(model)
    steps = steps_of(flat)
    last = next(s for s in reversed(steps) if isinstance(s.operation, heads.Logits))
    before = next((s for s in steps if any(t is last.inputs[0] for t in s.outputs)), None)
    start = before if before is not None and isinstance(before.operation, keras.layers.Dropout) else last
    inside = ancestors(steps, [s for s in steps if any(t is start.inputs[0] for t in s.outputs)])
    return divide(flat, inside, (f"{model.name}_features", f"{model.name}_head"))


def backbone_dropout(model: keras.Model, early: Sequence[Step]) -> set[int]:
    """Return the keys of the random calls that are the backbone's; the head's dropout is to stay."""
    needed = ancestors(early, [s for s in early if s.variables])
    backbone = find_backbone(model)
    own = set() if backbone is model else {id(part) for part in flatten_layers(backbone)}
    return {s.key for s in early if not moves(s) and (s.key in needed or id(s.operation) in own)}


def split_steady(model: keras.Model) -> tuple[keras.Model, keras.Model, str]:
    """Implement :func:`split_frozen`; dropout inside of what is frozen is left out, and a note says so.

    Returns:
        Prefix, suffix, and the note; empty where there is no dropout in the prefix.

    Raises:
        BackboneError: as :func:`split_frozen`, for statistics that move for one.
    """
    try:
        return *split_frozen(model), ""
    except BackboneError:
        prefix, suffix = split_frozen(model, ignore_dropout=True)
    names = [s.name for s in steps_of(prefix) if is_random(s)]
    return prefix, suffix, f"what is frozen runs as in inference, without its dropout ({join_names(names, limit=3)})"


def _trainable(model: keras.Model, steps: Sequence[Step]) -> list[Step]:
    starts = [s for s in steps if s.trains]
    if not starts:
        raise BackboneError(
            f"Nothing in {model.name!r} trains, so it has no suffix. For the features of the whole model call "
            "tfft.features.extract(model, dataset); to train a part of it, tfft.unfreeze(model, blocks); to cut at a "
            f"block, cut=, one of: {join_names(names_of(blocks_of(model)))}."
        )
    return starts


def _after_block(model: keras.Model, steps: Sequence[Step], cut: str) -> list[Step]:
    blocks = blocks_of(model)
    names = names_of(blocks)
    if cut not in names:
        raise BackboneError(
            f"{model.name!r} has no block {cut!r}.{did_you_mean(cut, names)} Its blocks: {join_names(names, limit=60)}."
        )
    before = blocks[: names.index(cut) + 1]
    known = {id(part) for block in before for layer in block.layers for part in flatten_layers(layer)}
    training = [s.name for s in steps if s.trains and id(s.operation) in known]
    if training:
        earlier = _frozen_names(model)
        fix = f"Cut at one of {join_names(earlier)}, or freeze more." if earlier else "Freeze the first blocks."
        raise BackboneError(
            f"The prefix of {model.name!r} up to {cut!r} would change while training: {join_names(training)} "
            f"train. {fix}"
        )
    return [s for s in steps if s.variables and id(s.operation) not in known]


def _frozen_names(model: keras.Model) -> list[str]:
    """Return the names of the blocks in front of the first that trains."""
    names = []
    for block in blocks_of(model):
        if block.trainable_parameters:
            break
        names.append(block.name)
    return names


def is_random(step: Step) -> bool:
    """Tells whether a call draws random numbers in training, dropout for one."""
    if not isinstance(step.operation, keras.layers.Layer):
        return False
    return any(_draws(part) for part in flatten_layers(step.operation))


def _draws(layer: keras.layers.Layer) -> bool:
    if not seed_generators(layer):
        return False
    rates = [getattr(layer, name, None) for name in ("rate", "dropout", "recurrent_dropout")]
    rates = [rate for rate in rates if isinstance(rate, (int, float))]
    return not rates or any(rates)  # recurrent layers keep a generator that a rate of 0 never asks


def moves(step: Step) -> bool:
    """Tells whether a call changes variables by itself in training, statistics for one, though no gradient does."""
    layer = step.operation
    if not isinstance(layer, keras.layers.Layer):
        return False
    if getattr(layer, "is_tfft_block", False):
        return layer.runs_training_graph
    parts = flatten_layers(layer)
    return any(
        isinstance(part, keras.layers.SpectralNormalization)
        or (isinstance(part, keras.layers.BatchNormalization) and part.trainable)
        for part in parts
    )


def _not_constant(model: keras.Model, unsteady: Sequence[Step], lost: Sequence[Step]) -> str:
    first = unsteady[0]
    if moves(first):
        why = f"{first.name!r} is not frozen and follows the data in training (its statistics move)"
        fix = "Freeze it: tfft.unfreeze(model, ..., batch_norm='fixed')."
    else:
        why = f"{first.name!r} draws random numbers in training (dropout), though its variables are frozen"
        fix = (
            "Run the frozen part without it: ignore_dropout=True. Or build the backbone without dropout, or cut in "
            "front of it with cut=."
        )
    frozen = [s.name for s in lost]
    return (
        f"The frozen part of {model.name!r} is not constant, so it cannot be computed once: {why}; "
        f"{len(frozen)} frozen layers depend on it: {join_names(frozen, limit=3)}. {fix}"
    )


def leave_growth_to_suffix(flat: keras.Model, steps: Sequence[Step], inside: set[int]) -> None:
    """Move calls at the end of the prefix that only make data larger, such as padding, into the suffix."""
    ends = {id(t) for t in flat.outputs}
    for step in reversed(steps):
        given = {id(t) for t in step.outputs}
        if step.key not in inside or step.variables or given & ends:
            continue
        if any(s.key in inside and any(id(t) in given for t in s.inputs) for s in steps):
            continue
        before, after = example_bytes(step.inputs), example_bytes(step.outputs)
        if before is not None and after is not None and after > before:
            inside.discard(step.key)


def _masks(steps: Sequence[Step], inside: set[int]) -> set[int]:
    """Return the calls behind the tokenizer whose result the suffix needs and that read no variable.

    The suffix makes what comes from the pieces alone, such as masks, again: it would take room, and behind the end of
    a text it is not always 0.
    """
    tokens = [s for s in steps if isinstance(s.operation, Tokenize)]
    bound = descendants(steps, [s for s in steps if s.variables])
    free = descendants(steps, tokens) - bound - {s.key for s in tokens}
    wanted = {id(t) for s in steps if s.key not in inside for t in s.inputs}
    ends = [s for s in steps if s.key in free & inside and any(id(t) in wanted for t in s.outputs)]
    return ancestors(steps, ends) & free


def example_bytes(tensors: Sequence[keras.KerasTensor]) -> int | None:
    """Bytes of one example; None where a size is not known."""
    total = 0
    for tensor in {id(t): t for t in tensors}.values():
        if None in tensor.shape[1:]:
            return None
        total += math.prod(tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
    return total
