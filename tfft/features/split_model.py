"""Split of a model into a constant frozen prefix and a trainable suffix.

Implementation notes: dropout and moving statistics can make a frozen part vary during training.
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
from tfft.layers.raw_input import RawInput


def split_frozen(
    model: keras.Model, *, cut: str | None = None, ignore_dropout: bool = False
) -> tuple[keras.Model, keras.Model]:
    """Split a model into its frozen prefix and its trainable suffix, which share its variables.

    Use it to compute the frozen part once, with :func:`tfft.features.extract`, and to train the suffix on the features:
    every step updates the variables of the model itself, so that afterwards the model is trained. ``suffix(prefix(x))``
    equals ``model(x)``, also in ``fit``.

    The prefix ends before the first trainable layer: for feature extraction it contains the whole backbone with its
    pooling.

    Args:
        model: Functional or sequential model; from :func:`tfft.build`, after :func:`tfft.unfreeze`, or any other.
        cut: Name of the backbone block that ends the prefix; it may end earlier than necessary, not later.
        ignore_dropout: Whether to run the prefix without its dropout instead of raising an error. The frozen part then
            behaves in training as in inference.

    Returns:
        ``(prefix, suffix)``, both functional and not compiled. The prefix takes the inputs of the model. It returns one
        tensor, or a list if the suffix needs more, such as the inputs that transformer blocks use directly; the suffix
        takes the outputs of the prefix and returns those of the model.

    Raises:
        BackboneError: If there is no such block, nothing is frozen or nothing trains, or the frozen part varies in
            training because of dropout or moving statistics.

    Example:
        >>> prefix, suffix = tfft.features.split_frozen(model)
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
            f"{model.name!r} has no frozen part to precompute: its first layer with variables, {first!r}, trains. "
            "Freeze the first blocks: tfft.unfreeze(model, n) trains the last n only."
        )
    leave_growth_to_suffix(flat, steps, inside)
    return divide(flat, inside, (f"{model.name}_prefix", f"{model.name}_suffix"), _masks(steps, inside))


def split_head(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a model before its head, independent of the trainable blocks.

    Use it for a linear probe: the backbone in inference mode, and the head alone.

    Args:
        model: Model with one head of tfft.

    Returns:
        ``(prefix, suffix)``: from the model's inputs to features [B, width], and from there to logits.

    Raises:
        PlanError: If the model has no head of tfft.
        BackboneError: If the model is not functional.

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
    """Return the keys of the random calls in the backbone; the head's dropout stays."""
    needed = ancestors(early, [s for s in early if s.variables])
    backbone = find_backbone(model)
    own = set() if backbone is model else {id(part) for part in flatten_layers(backbone)}
    return {s.key for s in early if not moves(s) and (s.key in needed or id(s.operation) in own)}


def split_steady(model: keras.Model) -> tuple[keras.Model, keras.Model, str]:
    """Implement :func:`split_frozen` without the dropout of the frozen part, which a note reports.

    Returns:
        Prefix, suffix, and the note; empty if the prefix has no dropout.

    Raises:
        BackboneError: As in :func:`split_frozen`, for example for moving statistics.
    """
    try:
        return *split_frozen(model), ""
    except BackboneError:
        prefix, suffix = split_frozen(model, ignore_dropout=True)
    names = [s.name for s in steps_of(prefix) if is_random(s)]
    return prefix, suffix, f"frozen layers run in inference mode, without dropout ({join_names(names, limit=3)})"


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
    """Return the names of the blocks before the first trainable one."""
    names = []
    for block in blocks_of(model):
        if block.trainable_parameters:
            break
        names.append(block.name)
    return names


def is_random(step: Step) -> bool:
    """Whether a call draws random numbers in training, such as dropout."""
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
    """Whether a call updates variables in training without a gradient, such as statistics."""
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
    """Move calls at the end of the prefix that only enlarge data, such as padding, into the suffix."""
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
    """Return the calls after the tokenizer that read no variable and whose result the suffix needs.

    The suffix recomputes tensors that depend on tokens alone, such as masks: storing them takes space, and after the
    end of a text they are not always 0.
    """
    tokens = [s for s in steps if isinstance(s.operation, RawInput) and s.operation.mask is not None]
    bound = descendants(steps, [s for s in steps if s.variables])
    free = descendants(steps, tokens) - bound - {s.key for s in tokens}
    wanted = {id(t) for s in steps if s.key not in inside for t in s.inputs}
    ends = [s for s in steps if s.key in free & inside and any(id(t) in wanted for t in s.outputs)]
    return ancestors(steps, ends) & free


def example_bytes(tensors: Sequence[keras.KerasTensor]) -> int | None:
    """Return the bytes of one example; None if a size is unknown."""
    total = 0
    for tensor in {id(t): t for t in tensors}.values():
        if None in tensor.shape[1:]:
            return None
        total += math.prod(tensor.shape[1:]) * tf.as_dtype(tensor.dtype).size
    return total
