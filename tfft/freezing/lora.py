"""Low-rank updates (LoRA) of the kernels in blocks: :func:`add_lora` and :func:`merge_lora`.

Implementation notes: blocks of SavedModels and Keras layers implement updates differently.
"""

from __future__ import annotations

import dataclasses
import math
import re
import warnings
from collections.abc import Iterator, Sequence

import keras

from tfft.backbones.base import Backbone, Block, blocks_of, is_opened
from tfft.errors import BlockError, join_names, raise_problems
from tfft.freezing.selection import Blocks, compile_again, has_updates, select, set_flags, set_trainable
from tfft.keras_compat import flatten_layers, saves_graph
from tfft.layers.lora import LowRank, merge_layer, split_of, update_layer, updated_layers

_KINDS = ("norm", "bias", "none")


@dataclasses.dataclass(frozen=True, eq=False)
class _Kernel:
    """Kernel that supports an update."""

    name: str
    layer: keras.layers.Layer
    split: int


def add_lora(
    model: keras.Model,
    blocks: Blocks,
    rank: int = 8,
    *,
    alpha: float | None = None,
    seed: int = 0,
    variables: str | None = None,
) -> keras.Model:
    """Add trainable low-rank updates (LoRA) to the kernels of some blocks.

    Use it for few examples, or if training the whole backbone takes too much memory: the optimizer keeps its state for
    ``rank * (rows + columns)`` values per kernel, not for all of it. The effective kernel is ``W + alpha / rank * A
    B``. B is initially zero, so the model computes the same as before. A convolution's kernel is treated as a matrix of
    [height * width * channels, filters]; depthwise kernels are not supported.

    Only these updates train in the chosen blocks; biases and normalization stay fixed. The other blocks are frozen, and
    the head trains. A later :func:`tfft.unfreeze` unfreezes only the updates of a block that has them. A ``.keras``
    file contains the updates until :func:`merge_lora`. The model is compiled again as by ``unfreeze``. Models built
    from the same layers before, such as those of :func:`tfft.features.split_frozen`, must be built again.

    The method: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021.

    Args:
        model: Any built Keras model; changed in place.
        blocks: Blocks, as in :func:`tfft.freezing.select`. Blocks chosen by name must each have a suitable kernel;
            those chosen by a number, a share, a slice or ``"all"`` are frozen without one.
        rank: Number of columns of A and of rows of B, at least 1. From ``min(rows, columns)`` on, the update has full
            rank.
        alpha: Positive scale of the update. Defaults to ``rank``, so that A B is added unscaled.
        seed: Seed for the initial values of A.
        variables: Regular expression to search in the names of kernels, to select some: ``"query|value"``.

    Returns:
        The same model.

    Raises:
        BlockError: Lists all that is wrong: rank, alpha, seed, unknown blocks, blocks without a fitting kernel (and
            what they have instead), a model that has low-rank updates already.

    Example:
        >>> tfft.freezing.add_lora(model, 3, rank=8)
        >>> model.compile(keras.optimizers.Adam(1e-3), **tfft.heads.from_model(model).compile_args())
        >>> model.fit(train)
        >>> tfft.freezing.merge_lora(model)
    """
    network = model.model if isinstance(model, Backbone) else model
    problems = _number_problems(rank, alpha, seed)
    wanted, kernels = _targets(model, blocks, variables, problems)
    raise_problems(BlockError, "Low-rank updates cannot be added", problems)
    order = [id(block.layers[0]) for block in blocks_of(network)]
    written = {id(layer) for layer in _written_layers(network)}
    inside: list[str] = []
    for block in wanted:
        place = order.index(id(block.layers[0]))
        numbered = [
            (kernel, LowRank(rank, float(alpha or rank), (seed, place, number), kernel.split))
            for number, kernel in enumerate(kernels[block.name])
        ]
        _add(numbered, written, inside)
    if inside:
        warnings.warn(
            f"The low-rank updates in {join_names(dict.fromkeys(inside))} are inside of a layer that a .keras "
            "file does "
            "not describe: it holds them added to the kernels, and after loading the layers have none. A file of a "
            "model that was compiled has to be loaded with compile=False: its optimizer refers to the updates.",
            UserWarning,
            stacklevel=2,
        )
    set_flags(model, wanted)
    compile_again(network)
    _forget_traces(network)
    return model


def merge_lora(model: keras.Model) -> keras.Model:
    """Add the low-rank updates of a model to its kernels and remove them.

    Use it after training: the model then has its original layers and variables, with other values, and the original
    inference cost. The blocks with updates are frozen afterwards; to continue training, call :func:`tfft.unfreeze` or
    :func:`add_lora` again.

    Args:
        model: Model with low-rank updates; changed in place, and compiled again as by ``unfreeze``.

    Returns:
        The same model.

    Raises:
        BlockError: If the model has no low-rank updates.

    Example:
        >>> tfft.freezing.merge_lora(model)
        >>> tfft.export(model, "served/1")
    """
    network = model.model if isinstance(model, Backbone) else model
    blocks = [block for block in blocks_of(network) if has_updates(block)]
    if not blocks:
        raise BlockError(
            f"{network.name!r} has no low-rank updates to merge: tfft.freezing.add_lora(model, blocks) adds them."
        )
    for block in blocks:
        for layer in block.layers:
            for sub in list(updated_layers(layer)):
                if is_opened(sub):
                    sub.merge_low_rank()
                else:
                    merge_layer(sub)
            set_trainable(layer, False)
    compile_again(network)
    _forget_traces(network)
    return model


def _number_problems(rank: int, alpha: float | None, seed: int) -> list[str]:
    problems = []
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        problems.append(f"rank must be an integer of at least 1, received {rank!r}.")
    number = isinstance(alpha, (int, float)) and not isinstance(alpha, bool)
    if alpha is not None and not (number and math.isfinite(alpha) and alpha > 0):
        problems.append(f"alpha must be a number above 0, or None for the rank, received {alpha!r}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        problems.append(f"seed must be an integer of at least 0, received {seed!r}.")
    return problems


def _targets(
    model: keras.Model | Backbone, blocks: Blocks, variables: str | None, problems: list[str]
) -> tuple[list[Block], dict[str, list[_Kernel]]]:
    """Return the blocks to update and their kernels; append problems to ``problems``."""
    try:
        pattern = re.compile(variables or "")
    except re.error as error:
        problems.append(f"variables={variables!r} is not a valid regular expression ({error}).")
        pattern = re.compile("")
    if isinstance(blocks, str) and blocks in _KINDS:
        problems.append(f"blocks={blocks!r} does not select whole blocks; give a count, a share, names or 'all'.")
        return [], {}
    try:
        chosen = select(model, blocks)
    except BlockError as error:
        problems.append(str(error))
        return [], {}
    network = model.model if isinstance(model, Backbone) else model
    updated = [block.name for block in blocks_of(network) if has_updates(block)]
    if updated:
        problems.append(
            f"there are low-rank updates already, in {join_names(updated)}: call tfft.freezing.merge_lora(model) first."
        )
    found = {block.name: [k for k in _kernels(block) if pattern.search(k.name)] for block in chosen}
    empty = [block for block in chosen if not found[block.name]]
    named = isinstance(blocks, (str, Sequence)) and blocks != "all"
    if not updated and (not chosen or (empty and (named or len(empty) == len(chosen)))):
        problems += [_without_kernel(block, variables) for block in empty] or [f"{blocks!r} selects no block."]
    return [block for block in chosen if found[block.name]], found


def _kernels(block: Block) -> list[_Kernel]:
    found: dict[tuple[int, str], _Kernel] = {}
    for layer in block.layers:
        if is_opened(layer):
            every = [_Kernel(name, layer, split) for name, split in layer.kernels().items()]
        else:
            splits = [(sub, split_of(sub)) for sub in _open_parts(layer)]
            every = [_Kernel(f"{sub.name}/kernel", sub, split) for sub, split in splits if isinstance(split, int)]
        found |= {(id(kernel.layer), kernel.name): kernel for kernel in every}
    return list(found.values())


def _open_parts(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return the nested layers of a layer, except those whose kernel another layer rewrites at each step."""
    rewritten = {
        id(part)
        for sub in flatten_layers(layer)
        if isinstance(sub, keras.layers.SpectralNormalization)
        for part in flatten_layers(sub, include_self=False)
    }
    return [sub for sub in flatten_layers(layer) if id(sub) not in rewritten]


def _written_layers(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield a model and the layers in it whose class and settings a ``.keras`` file of the model holds.

    Those are the layers of graphs of layers. A model with a constructor of its own, and any other composite
    layer, makes its parts anew when it is loaded, whatever became of them.
    """
    yield layer
    if saves_graph(layer):
        for sub in layer.layers:
            yield from _written_layers(sub)


def _forget_traces(model: keras.Model) -> None:
    """Make a model and those inside of it trace their steps anew: traced ones know the old variables."""
    for layer in flatten_layers(model):
        if isinstance(layer, keras.Model):
            layer.train_function = layer.test_function = layer.predict_function = None


def _without_kernel(block: Block, variables: str | None) -> str:
    held = [kernel.name for kernel in _kernels(block)]
    if held:
        return f"variables={variables!r} matches no kernel of {block.name!r}. It has: {join_names(held)}."
    parts: list[str] = []
    for layer in block.layers:
        if is_opened(layer):
            shapes = zip(layer.variable_names, layer.weights, strict=True)
            parts += [f"{name} {tuple(v.shape)}" for name, v in shapes]
        else:
            parts += [f"{sub.name} ({split_of(sub)})" for sub in flatten_layers(layer) if sub.weights]
    return (
        f"{block.name!r} has no kernel that a low-rank update fits: those that train and feed a matrix product or a "
        f"convolution that is not depthwise. It has: {join_names(parts)}."
    )


def _add(kernels: Sequence[tuple[_Kernel, LowRank]], written: set[int], inside: list[str]) -> None:
    for layer in {id(kernel.layer): kernel.layer for kernel, _ in kernels}.values():
        mine = {kernel.name: settings for kernel, settings in kernels if kernel.layer is layer}
        if is_opened(layer):
            layer.add_low_rank(mine)
            continue
        (settings,) = mine.values()
        inside += [] if id(layer) in written else [layer.name]
        update_layer(layer, settings, inside=id(layer) not in written)
