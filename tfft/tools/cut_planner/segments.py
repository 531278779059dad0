"""Segments of a model between blocks: tensors across each cut, and the work in front of it.

Implementation notes: one walk over the graph covers all cuts, without changing what trains.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.backbones.base import Block, blocks_of
from tfft.backbones.savedmodel.block_graph import count_multiply_adds
from tfft.errors import BackboneError
from tfft.features import litert, split_model
from tfft.features.functional_graph import Step, ancestors, descendants, divide, flatten, steps_of
from tfft.keras_compat import flatten_layers, with_constants
from tfft.layers.raw_input import RawInput

FRONT, TOKENS = "(pixels)", "(tokens)"  # the cut in front of the first block; no block has such a name
# What stays in a graph that was made flat where there are loops.
_LOOPS = {"While", "StatelessWhile", "LoopCond", "PartitionedCall", "StatefulPartitionedCall"}


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """The part of a model between two cuts that follow each other.

    Attributes:
        net: Functional model of the part, or None where nothing is computed.
        takes: Tensors of the flat model that enter, in the order of the part's inputs.
        gives: Tensors of the flat model that the part gives.
    """

    net: keras.Model | None
    takes: tuple[keras.KerasTensor, ...]
    gives: tuple[keras.KerasTensor, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Pieces:
    """A model taken apart at all of its cuts.

    Attributes:
        flat: The whole model, from :func:`tfft.features.functional_graph.flatten`.
        cuts: Names: :data:`FRONT`, or :data:`TOKENS` of texts, then the blocks, each of which ends a prefix.
        refused: For each cut why :func:`tfft.features.split_frozen` would not make it, or an empty string.
        crossing: For each cut the tensors of the flat model that a suffix starts from.
        pieces: From each cut to the next, the last one from the last cut to the end.
        inside: For each cut the keys of the calls in front of it.
    """

    flat: keras.Model
    cuts: tuple[str, ...]
    refused: tuple[str, ...]
    crossing: tuple[tuple[keras.KerasTensor, ...], ...]
    pieces: tuple[Piece, ...]
    inside: tuple[Set[int], ...]

    @property
    def latest(self) -> int:
        """Position of the last cut that what trains now allows; 0 where it allows none."""
        return max((k for k, why in enumerate(self.refused) if not why), default=0)

    def network(self, cut: int) -> Piece:
        """Return the part between the first cut, behind the preprocessing, and another."""
        return _piece(self.flat, self.crossing[cut], self.inside[0])

    def suffix(self, cut: int) -> tuple[keras.Model, tuple[keras.KerasTensor, ...]]:
        """Return the part behind a cut, and the tensors of the flat model that it takes."""
        first, second = divide(self.flat, self.inside[cut], ("prefix", "suffix"))
        return second, tuple(first.outputs)


def take_apart(model: keras.Model, *, ignore_dropout: bool = False) -> Pieces:
    """Divide a model at every block.

    Args:
        model: Functional or sequential.
        ignore_dropout: As in :func:`tfft.features.split_frozen`.

    Returns:
        The pieces. They share the model's variables; nothing was changed.

    Raises:
        BackboneError: If the model has no blocks, or Keras knows no graph of it.
    """
    flat = flatten(model)
    blocks = blocks_of(model)
    if not any(block.variables for block in blocks):
        raise BackboneError(
            f"{model.name!r} has no blocks to cut at: none of its layers has variables. Expected a model with a "
            "backbone, such as tfft.build gives."
        )
    steps = steps_of(flat)
    raw = [s for s in steps if isinstance(s.operation, RawInput)]
    texts = any(s.operation.mask is not None for s in raw)
    inside, refused = [ancestors(steps, raw)], ["only tokens" if texts else "only pixels"]
    for end in range(1, len(blocks) + 1):
        keys, why = _in_front(model, flat, steps, blocks[:end], ignore_dropout)
        inside.append(keys | inside[0])
        refused.append(why)
    crossing = [_crossing(flat, steps, keys) for keys in inside]
    ends = [*crossing[1:], tuple(flat.outputs)]
    pieces = [_piece(flat, ends[k], keys) for k, keys in enumerate(inside)]
    names = (TOKENS if texts else FRONT, *(block.name for block in blocks))
    return Pieces(flat, names, tuple(refused), tuple(crossing), tuple(pieces), tuple(inside))


def _in_front(
    model: keras.Model, flat: keras.Model, steps: Sequence[Step], before: Sequence[Block], ignore_dropout: bool
) -> tuple[set[int], str]:
    """Find what is in front of a cut, and why split() refuses to cut there."""
    known = {id(part) for block in before for layer in block.layers for part in flatten_layers(layer)}
    late = descendants(steps, [s for s in steps if s.variables and id(s.operation) not in known])
    early = [s for s in steps if s.key not in late]
    training = [block.name for block in before if block.trainable_parameters]
    # A block that trains would be frozen by whoever cuts behind it, and then its statistics rest as well.
    moving = [] if training else [s for s in early if split_model.moves(s)]
    random = [s for s in early if split_model.is_random(s)]
    if ignore_dropout:
        ignored = split_model.backbone_dropout(model, early)
        random = [s for s in random if s.key not in ignored]
    needed = ancestors(early, [s for s in early if s.variables])
    behind = descendants(steps, [s for s in random if s.key not in needed])  # the head's dropout stays in the suffix
    inside = {s.key for s in early if s.key not in behind}
    split_model.leave_growth_to_suffix(flat, steps, inside)
    unsteady = [s for s in random if s.key in needed]
    if training:
        others = f" and {len(training) - 1} more train" if len(training) > 1 else " trains"
        return inside, f"{training[0]}{others}"
    if moving:
        return inside, f"the statistics of {moving[0].name} move"
    if unsteady:
        return inside, f"{unsteady[0].name} draws random numbers (dropout)"
    if not any(s.variables for s in early):
        return inside, "a block in front of it is used again behind it"
    return inside, ""


def _crossing(flat: keras.Model, steps: Sequence[Step], inside: Set[int]) -> tuple[keras.KerasTensor, ...]:
    """The tensors that :func:`tfft.features.functional_graph.divide` would hand on, in its order."""
    wanted = {id(t) for s in steps if s.key not in inside for t in s.inputs} | {id(t) for t in flat.outputs}
    crossing = [t for s in steps if s.key in inside for t in s.outputs if id(t) in wanted]
    return (*crossing, *(t for t in flat.inputs if id(t) in wanted))


def _piece(flat: keras.Model, gives: Sequence[keras.KerasTensor], inside: Set[int]) -> Piece:
    """Make the piece from a cut to the given tensors."""
    whole = keras.Model(flat.input, gives[0] if len(gives) == 1 else list(gives))
    if all(s.key in inside for s in steps_of(whole)):
        return Piece(None, (), tuple(gives))
    first, net = divide(whole, inside, ("before", "piece"))
    return Piece(net, tuple(first.outputs), tuple(gives))


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """Shapes and FLOP of the pieces, from running them once on an example.

    Attributes:
        functions: For each piece its function for any number of examples, or None where nothing is computed.
        shapes: For each cut the shape of one example and the type of all that crosses it.
        flops: For each piece, per example: two for each multiply-add of a matrix product or convolution.
        loops: Names of the cuts in front of pieces that loop; one round is counted at most.
    """

    functions: tuple[tf.types.experimental.ConcreteFunction | None, ...]
    shapes: tuple[tuple[tuple[tuple[int, ...], np.dtype], ...], ...]
    flops: tuple[int, ...]
    loops: tuple[str, ...]


def look_at(pieces: Pieces, arrays: Sequence[np.ndarray]) -> Look:
    """Run the pieces one after the other on the first of some examples.

    Args:
        pieces: Pieces from :func:`take_apart`.
        arrays: What crosses the first cut, in its order.
    """
    functions: list[tf.types.experimental.ConcreteFunction | None] = []
    shapes, flops, loops = [], [], []
    for at, known in walk(pieces, functions, [a[:1] for a in arrays]):
        crossing = [known[id(t)] for t in pieces.crossing[at]]
        shapes.append(tuple((tuple(v.shape[1:]), np.dtype(v.dtype.as_numpy_dtype)) for v in crossing))
        piece, count, looping = pieces.pieces[at], 0, False
        if piece.net is None:
            functions.append(None)
        else:
            made = litert.trace(piece.net, [(None, *known[id(t)].shape[1:]) for t in piece.takes])
            functions.append(made)
            count, looping = _flops(piece.net, made)
        flops.append(count)
        loops += [pieces.cuts[at]] if looping else []
    return Look(tuple(functions), tuple(shapes), tuple(flops), tuple(loops))


def walk(
    pieces: Pieces, functions: Sequence[Callable[..., Any] | None], arrays: Sequence[np.ndarray]
) -> Iterator[tuple[int, dict[int, tf.Tensor]]]:
    """Yield for each cut its position and what crosses it, by the identity of the flat model's tensors.

    Args:
        pieces: Pieces from :func:`take_apart`.
        functions: Functions of the pieces; each is asked for after its cut was yielded.
        arrays: What crosses the first cut, in its order.
    """
    known = {id(t): tf.constant(a) for t, a in zip(pieces.crossing[0], arrays, strict=True)}
    for at, piece in enumerate(pieces.pieces):
        known = {id(t): known[id(t)] for t in pieces.crossing[at]}
        yield at, known
        function = functions[at]
        if function is not None:
            results = function(*(known[id(t)] for t in piece.takes))
            known = {**known, **{id(t): v for t, v in zip(piece.gives, results, strict=True)}}


def _flops(net: keras.Model, function: tf.types.experimental.ConcreteFunction) -> tuple[int, bool]:
    own = sum(getattr(layer, "flops", None) or 0 for layer in net.layers)
    try:
        with litert.quiet():  # calls are inlined, and so the sizes inside of them are known
            graph = with_constants(function).graph
    except Exception:  # what cannot be a constant, a lookup table for one; then blocks count for themselves
        return 2 * (own + count_multiply_adds(function.graph)), False
    kinds = {op.type for op in graph.get_operations()}
    return 2 * (count_multiply_adds(graph) or own), bool(kinds & _LOOPS)
