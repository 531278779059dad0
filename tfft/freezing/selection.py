"""Selection and freezing of blocks: :func:`select`, :func:`unfreeze`, :func:`freeze`.

Implementation notes: a changed flag takes effect in Keras only after compiling again.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Literal

import keras

from tfft.backbones.base import Backbone, Block, blocks_of, is_opened, names_of
from tfft.backbones.savedmodel.variables import kind_of
from tfft.errors import BlockError, did_you_mean, join_names, raise_problems
from tfft.freezing.batch_norm import batch_norms, has_statistics, is_norm
from tfft.keras_compat import flatten_layers, own_weights, recompile
from tfft.layers.lora import pairs_of, updated_layers

Blocks = int | float | str | slice | Sequence[str] | Sequence[Block]
BatchNorm = Literal["fixed", "train"]

Kind = Literal["norm", "bias"]

KINDS = ("norm", "bias")
_LOG = logging.getLogger("tfft")


def select(model: keras.Model | Backbone, blocks: Blocks) -> list[Block]:
    """Return the selected blocks of a backbone, in the order of computation.

    Use it to inspect a selection before :func:`unfreeze` uses it.

    Args:
        model: A Keras model (the backbone inside it is found), or a backbone.
        blocks: One of

            - an int n: the last n blocks; 0 means none;
            - a float f, 0 < f <= 1: the fewest last blocks that together hold at least that share
              of the backbone's parameters (so at least one block; ``1.0`` is every block that holds any);
            - a slice: ``slice(2, 5)`` as in a Python list;
            - ``"all"`` or ``"none"``;
            - ``"norm"`` or ``"bias"``: the blocks that hold such variables;
            - a block's name, or a regular expression: the blocks whose whole name matches it or, if
              there is none, those in whose name it is found;
            - a list of names, expressions or blocks. ``["norm"]`` means a block of that name.

    Returns:
        The chosen blocks; empty only where ``blocks`` says none.

    Raises:
        BlockError: If the selection means no block; the message lists the blocks there are.

    Example:
        >>> [block.name for block in tfft.freezing.select(model, 2)]
        ['block15', 'head']
    """
    every = _blocks(model)
    if isinstance(blocks, bool) or blocks is None:
        raise BlockError(f"blocks must be an int, a float, a slice, a name or a list of names, received {blocks!r}.")
    if isinstance(blocks, int):
        return _last(every, blocks)
    if isinstance(blocks, float):
        return _share(every, blocks)
    if isinstance(blocks, slice):
        chosen = every[blocks]
        if not chosen:
            raise BlockError(
                f"{blocks} matches none of the {len(every)} blocks: {join_names(names_of(every), limit=60)}."
            )
        return chosen
    if isinstance(blocks, str):
        return _named(every, blocks)
    if isinstance(blocks, Sequence):
        return _listed(every, blocks)
    raise BlockError(
        f"blocks must be an int, a float, a slice, a name or a list of names, received {type(blocks).__name__}."
    )


def unfreeze(
    model: keras.Model, blocks: Blocks, *, only: Kind | None = None, batch_norm: BatchNorm | None = None
) -> keras.Model:
    """Make the chosen blocks of the backbone trainable, freeze the others and keep the head trainable.

    Use it between two calls of ``fit``, on any Keras model. Everything outside of the backbone is
    made trainable; a model without a backbone inside is all backbone, its last layer the last block.
    The choice lives in the layers' config, so a reloaded ``.keras`` file is frozen the same way.

    A model that was compiled is compiled again with the same loss and metrics and a fresh optimizer
    of the same settings, because Keras silently ignores a changed ``trainable`` after a ``fit``.
    Where that cannot be done (a custom ``compile``, an optimizer Keras cannot rebuild) the model is
    left uncompiled, so that ``fit`` asks for ``compile``. Compile yourself to change the rate.

    Args:
        model: The model; changed in place.
        blocks: Which blocks train, as :func:`select` takes it. ``"norm"`` and ``"bias"`` train only
            the normalization layers or the bias variables, in all blocks. Of a block with low-rank updates
            (:func:`tfft.freezing.add_lora`) only these train.
        only: ``"norm"`` or ``"bias"``: train no more than that of the chosen blocks.
        batch_norm: ``"fixed"``: BatchNormalization keeps its statistics, scale and offset also in the
            blocks that train (right for small data); ``"train"``: they follow the new data. None:
            fixed in Keras layers; blocks of a SavedModel stay as ``load_backbone`` opened them, where
            fixed keeps the statistics only. With ``"norm"``, BatchNormalization layers of Keras train
            wholly: Keras binds scale and statistics to one flag.

    Returns:
        The same model.

    Raises:
        BlockError: If the selection means no block, nothing in it can train, or a block of a SavedModel
            was opened for the other BatchNorm mode.

    Example:
        >>> tfft.unfreeze(model, 3, only="bias")    # the biases of the last three blocks
        >>> tfft.unfreeze(model, 3)
        >>> model.compile(keras.optimizers.Adam(1e-4), loss=..., metrics=["accuracy"])
        >>> model.fit(train)
    """
    network = model.model if isinstance(model, Backbone) else model
    if batch_norm not in ("fixed", "train", None):
        raise BlockError(f"batch_norm must be 'fixed' or 'train', received {batch_norm!r}.")
    kind = _kind(blocks, only)
    wanted = select(model, blocks)
    lost = set_flags(model, wanted, kind, batch_norm)
    if lost:
        again = f"{blocks!r}" if only is None else f"{blocks!r}, only={only!r}"
        warnings.warn(
            f"Parts of {join_names(dict.fromkeys(lost))} are frozen inside one layer. Keras does not store this in a "
            f".keras file: after loading, call tfft.unfreeze(model, {again}) again before training.",
            UserWarning,
            stacklevel=2,
        )
    compile_again(network)
    return model


def set_flags(
    model: keras.Model | Backbone, wanted: Sequence[Block], kind: str = "all", batch_norm: str | None = None
) -> list[str]:
    """Set every flag as :func:`unfreeze` does, without compiling again.

    Args:
        model: Changed in place.
        wanted: The blocks that train.
        kind: ``"norm"`` or ``"bias"`` for no more than that of them.
        batch_norm: As for :func:`unfreeze`.

    Returns:
        Names of layers whose flags a ``.keras`` file cannot hold.

    Raises:
        BlockError: As :func:`unfreeze`.
    """
    every = _blocks(model)
    chosen = {id(layer) for block in wanted for layer in block.layers}
    updated = [block.name for block in every if has_updates(block)]
    both = [block.name for block in wanted if block.name in updated]
    if kind in KINDS and both:
        raise BlockError(
            f"{join_names(both)} have low-rank updates, and nothing else trains in such blocks. "
            f"Received: only={kind!r}. Call tfft.freezing.merge_lora(model) first."
        )
    _check_modes(every, chosen, batch_norm)
    set_trainable(model.model if isinstance(model, Backbone) else model, True)  # opens the containers around the blocks
    lost: list[str] = []
    for block in every:
        of_native = "lora" if block.name in updated else kind
        for layer in block.layers:
            if is_opened(layer):
                _set_opened(layer, kind if id(layer) in chosen else None)
            elif id(layer) not in chosen:
                set_trainable(layer, False)
            else:
                _free_native(layer, of_native, batch_norm == "train", lost)
    _check_effect(wanted, kind)
    return lost


def has_updates(block: Block) -> bool:
    """Whether a block has low-rank updates."""
    return any(True for layer in block.layers for _ in updated_layers(layer))


def freeze(model: keras.Model) -> keras.Model:
    """Freeze every block of the backbone, so that only the head trains.

    Args:
        model: Any Keras model; changed in place, compiled again as :func:`unfreeze` does.

    Returns:
        The same model.

    Example:
        >>> tfft.freeze(model)
    """
    return unfreeze(model, "none")


def _blocks(model: keras.Model | Backbone) -> list[Block]:
    if isinstance(model, Backbone):
        return model.blocks
    network = model
    if not isinstance(network, keras.Model):
        raise BlockError(f"Expected a keras.Model or a tfft backbone, received {type(model).__name__}.")
    if not network.built:
        raise BlockError(f"The model {network.name!r} has no variables yet: call it once, or model.build(input_shape).")
    return blocks_of(network)


def _kind(blocks: Blocks, only: str | None) -> str:
    named = blocks if isinstance(blocks, str) and blocks in KINDS else None
    if only not in (*KINDS, None):
        raise BlockError(f"only must be 'norm', 'bias' or None, received {only!r}.")
    if named and only and only != named:
        raise BlockError(f"blocks={blocks!r} and only={only!r} contradict each other; with only=, blocks are counted.")
    return named or only or "all"


def _last(every: list[Block], n: int) -> list[Block]:
    if 0 <= n <= len(every):
        return every[len(every) - n :]
    raise BlockError(
        f"blocks={n} asks for the last {n} blocks, but the backbone has {len(every)}: "
        f"{join_names(names_of(every), limit=60)}. Give 0 to {len(every)}, or 'all'."
    )


def _share(every: list[Block], share: float) -> list[Block]:
    if not 0 < share <= 1:
        raise BlockError(
            f"A float is a share of the parameters, above 0 and at most 1. Received: {share}. Use an int for a count."
        )
    sizes = [block.parameters for block in every]
    wanted, held, start = share * sum(sizes), 0, len(every)
    while start > 0 and held < wanted:
        start -= 1
        held += sizes[start]
    return every[start:]


def _named(every: list[Block], text: str) -> list[Block]:
    if text == "all":
        return every
    if text == "none":
        return []
    if text in KINDS:
        holding = [block for block in every if any(_holds(layer, text) for layer in block.layers)]
        if not holding:
            raise BlockError(f"No block holds {text} variables. Blocks: {join_names(names_of(every), limit=60)}.")
        return holding
    found = _match(every, text)
    if isinstance(found, str):
        raise BlockError(found)
    return found


def _match(every: list[Block], text: str) -> list[Block] | str:
    names = names_of(every)
    if text in names:
        return [every[names.index(text)]]
    try:
        pattern = re.compile(text)
    except re.error as error:
        known = join_names(names, limit=60)
        return f"{text!r} is neither a block nor a valid regular expression ({error}). Blocks: {known}."
    for matches in (pattern.fullmatch, pattern.search):
        found = [block for block in every if matches(block.name)]
        if found and text:
            return found
    return f"{text!r} matches no block.{did_you_mean(text, names)} Blocks: {join_names(names, limit=60)}."


def _listed(every: list[Block], wanted: Sequence[str | Block]) -> list[Block]:
    chosen: set[str] = set()
    problems = []
    names = names_of(every)
    for one in wanted:
        if isinstance(one, Block):
            if one.name in names:
                chosen.add(one.name)
            else:
                problems.append(
                    f"the block {one.name!r} does not belong to this model. Blocks: {join_names(names, limit=60)}."
                )
            continue
        if not isinstance(one, str):
            problems.append(f"a list must hold names of blocks, received {one!r}.")
            continue
        found = _match(every, one)
        if isinstance(found, str):
            problems.append(found)
        else:
            chosen.update(names_of(found))
    raise_problems(BlockError, "The selection of blocks cannot be used", problems)
    return [block for block in every if block.name in chosen]


def _holds(layer: keras.layers.Layer, kind: str) -> bool:
    if is_opened(layer):
        return any(kind_of(name) == kind for name in layer.variable_names)
    return any(_keeps(sub, variable, kind, True) for sub in flatten_layers(layer) for variable in own_weights(sub))


def _keeps(layer: keras.layers.Layer, variable: keras.Variable, kind: str, batch_norm: bool) -> bool:
    """Whether a variable of a Keras layer belongs to a kind of variables."""
    if kind == "lora":
        return any(variable is v for pair in pairs_of(layer) for v in (pair.first, pair.second))
    if kind == "norm":
        return is_norm(layer)
    fixed = isinstance(layer, keras.layers.BatchNormalization) and not batch_norm
    return variable.name in ("bias", "beta") and not fixed


def _check_modes(every: Sequence[Block], chosen: set[int], batch_norm: str | None) -> None:
    problems = []
    for block in every:
        for layer in block.layers:
            mode = getattr(layer, "batch_norm", None)
            if id(layer) in chosen and is_opened(layer) and has_statistics(layer) and batch_norm not in (None, mode):
                problems.append(f"{block.name!r} was opened with batch_norm={mode!r}")
    if problems:
        fix = (
            f"Open the backbone with load_backbone(..., batch_norm={batch_norm!r}): the graph that runs depends on it."
        )
        raise_problems(BlockError, f"batch_norm={batch_norm!r} does not fit the SavedModel's blocks. {fix}", problems)


def _check_effect(wanted: Sequence[Block], kind: str) -> None:
    if wanted and not any(layer.trainable_weights for block in wanted for layer in block.layers):
        if kind in KINDS:
            raise BlockError(
                f"The chosen blocks ({join_names(names_of(wanted))}) hold no {kind} variables that can train. "
                "Choose other "
                "blocks, or leave out only=."
            )
        if not any(block.variables for block in wanted):
            raise BlockError(
                f"Nothing in the chosen blocks can train ({join_names(names_of(wanted))}): they hold no variables. The "
                "weights of a graph of constants become variables with load_backbone(..., constants='trainable'); "
                "otherwise train the head alone (unfreeze='none')."
            )
        raise BlockError(
            f"Nothing in the chosen blocks can train ({join_names(names_of(wanted))}): all of their variables are "
            "fixed, as the model was saved or by batch_norm='fixed'. Choose other blocks, or 'none'."
        )


def set_trainable(layer: keras.layers.Layer, value: bool) -> None:
    """Set the flag of a layer, of all layers inside it and of all their variables.

    Assigning a value that the flag already has does nothing at all in Keras on TensorFlow, so
    ``backbone.trainable = True`` leaves layers frozen that were frozen one by one: go there and back.
    """
    layer.trainable = not value
    layer.trainable = value


def compile_again(model: keras.Model) -> None:
    """Compile a compiled model again with the same settings and a fresh optimizer.

    Where that cannot be done the model is left uncompiled, so that ``fit`` asks for ``compile``.
    """
    if not model.compiled:
        return
    try:
        recompile(model)
    except Exception as error:  # whatever it is: an uncompiled model makes fit ask for compile, never a silent no-op
        model.compiled = False
        model.train_function = None
        _LOG.info("tfft: %s must be compiled again before training: %s", model.name, error)
    else:
        _LOG.info("tfft: compiled %s again: its trainable variables changed, the optimizer state is reset", model.name)


def _configured(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield the layers whose ``trainable`` flag Keras writes into a ``.keras`` file.

    That is the layer itself and, if it is a graph of layers, those of the graph; the parts of any
    other composite layer are rebuilt by its constructor, with the flag of the whole.
    """
    yield layer
    if isinstance(layer, keras.Model):
        for sub in layer.layers:
            yield from _configured(sub)


def _set_opened(layer: keras.layers.Layer, kind: str | None) -> None:
    layer.set_trainable_variables(kind or "all")  # before the flag: only a flag that changes reaches the variables
    set_trainable(layer, kind is not None)
    if kind and not layer.trainable_weights:
        set_trainable(layer, False)


def _free_native(layer: keras.layers.Layer, kind: str, batch_norm: bool, lost: list[str]) -> None:
    """Unfreeze one Keras layer; append its name to ``lost`` if a .keras file cannot store the result."""
    set_trainable(layer, True)
    saved = {id(sub) for sub in _configured(layer)}
    if kind == "all":
        for norm in [] if batch_norm else batch_norms(layer):
            set_trainable(norm, False)
            lost += [] if id(norm) in saved else [layer.name]
        return
    partly = False
    for sub in flatten_layers(layer):
        mine = [v for v in own_weights(sub) if v.trainable]
        kept = [v for v in mine if _keeps(sub, v, kind, batch_norm)]
        if mine and not kept and not flatten_layers(sub, include_self=False):
            set_trainable(sub, False)
            partly |= id(sub) not in saved
            continue
        for variable in mine:
            variable.trainable = any(variable is v for v in kept)
        partly |= 0 < len(kept) < len(mine) or (len(kept) < len(mine) and sub is not layer)
    if not layer.trainable_weights:
        set_trainable(layer, False)
    elif partly:
        lost.append(layer.name)
