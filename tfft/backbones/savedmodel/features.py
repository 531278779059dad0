"""Which tensor of a SavedModel's graph becomes the features: :func:`choose_features`.

An output by its key, the end of a block by its name, or, where the output is a classifier, what goes into its last
layer: the probabilities of the publisher's classes say little about other classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import tensorflow as tf

from tfft.backbones.savedmodel.classifier import PROBABILITIES, Classifier, find_classifier, last_product
from tfft.backbones.savedmodel.endpoint import choose_output, output_keys, output_table
from tfft.backbones.savedmodel.graph import FlatGraph
from tfft.backbones.savedmodel.layouts import TURN, channels_come_first, turned
from tfft.backbones.savedmodel.partition import Analysis, Piece, find_pieces, match_pieces
from tfft.backbones.savedmodel.running import run_graph
from tfft.errors import BackboneError, did_you_mean, join_names


@dataclasses.dataclass(frozen=True, eq=False)
class Features:
    """The chosen tensor.

    Attributes:
        analysis: Analysis of the graph up to it.
        name: Key of the output, or name of the block; empty where there is only one output.
        position: Position of the output behind it among the tensors that the SavedModel gives.
        shape: As far as it is known.
        notes: What a user needs to know of the choice, one sentence each.
        whole: Analysis of the graph up to that output.
        pieces: All blocks up to that output, where the end of one was chosen.
        channels_first: Whether the tensor in the SavedModel has its channels first; ``analysis`` turns it.
        as_given: Whether it is the output as the SavedModel gives it, but for the order of its axes.
    """

    analysis: Analysis
    name: str
    position: int
    shape: tuple[int | None, ...] | None
    notes: tuple[str, ...]
    whole: Analysis
    pieces: Sequence[Piece] = ()
    channels_first: bool = False
    as_given: bool = False

    @property
    def inside(self) -> bool:
        """Whether it is another tensor than the output: one before it, or the output with its axes turned."""
        return self.analysis is not self.whole

    def run(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Compute the features and the output of the SavedModel in the flat graph."""
        return run_graph(self.analysis.flat, [self.analysis.output, self.whole.output], tensors)

    def in_training(self, flat: FlatGraph) -> Analysis:
        """Return the analysis of the graph for training up to the same tensor.

        Raises:
            NoMatch: Where that graph has no such tensor.
        """
        found = self._in_training(Analysis(flat, flat.outputs[self.position]))
        return turned(found) if self.channels_first else found

    def _in_training(self, whole: Analysis) -> Analysis:
        if not self.inside:
            return whole
        if self.pieces:
            matched = match_pieces(self.whole, self.pieces, whole)
            (end,) = (piece.end for piece in matched if piece.name == self.name)
            return Analysis(whole.flat, end)
        found = None if self.as_given else find_classifier(whole)
        return whole if found is None else Analysis(whole.flat, found.features)


def choose_features(
    flat: FlatGraph, output: str | None, prefer: Sequence[str] = (), names: Mapping[str, str] | None = None
) -> Features:
    """Choose the features of a graph.

    Args:
        flat: The graph.
        output: Key of an output, name of a block, ``"probabilities"`` for what a classifier gives, or None.
        prefer: Keys of outputs that are taken, where there are, before the one called ``default``.
        names: Names for keys that are numbers; both are taken.

    Raises:
        BackboneError: When there are several outputs and none is chosen, or there is no such output or block.
    """
    chosen = _choose(flat, output, prefer, names or {})
    if not channels_come_first(chosen.analysis):
        return chosen
    shape = chosen.shape and tuple(chosen.shape[axis] for axis in TURN)
    note = "Its feature maps have their channels first; they are turned, so that the channels are the last axis."
    return dataclasses.replace(
        chosen,
        analysis=turned(chosen.analysis),
        shape=shape,
        notes=(*chosen.notes, note),
        channels_first=True,
        as_given=not chosen.inside,
    )


def _choose(flat: FlatGraph, output: str | None, prefer: Sequence[str], names: Mapping[str, str]) -> Features:
    named = output is not None and output in (*output_keys(flat.structure), *names.values())
    wanted = output if named else _one_classifier(flat, prefer)
    position, key, note = choose_output(flat.structure, wanted, prefer, names)
    whole = Analysis(flat, flat.outputs[position])
    declared = [t for t in tf.nest.flatten(flat.structure, expand_composites=True) if t is not None][position].shape
    notes = (note,) if note else ()
    plain = Features(whole, key, position, _known(declared), notes, whole)
    if named:
        return plain
    if output is not None and output != PROBABILITIES:
        return _end_of_block(plain, output)
    found = find_classifier(whole)
    numbers = whole.tensor(whole.output).dtype.is_floating
    if found is None and not numbers:
        raise BackboneError(
            f"The model gives no floating-point numbers, so no features. It has: {output_table(flat.structure)}. Take "
            f"the end of a block with output=: {join_names([piece.name for piece in find_pieces(whole)])}."
        )
    if output == PROBABILITIES:
        if found is None or not numbers:
            raise BackboneError(
                f"output={PROBABILITIES!r} is for a model that ends in a classifier with Softmax or Sigmoid, which was "
                f"not found in this one. It has: {output_table(flat.structure)}."
            )
        return plain
    return plain if found is None else _before(plain, found)


def _one_classifier(flat: FlatGraph, prefer: Sequence[str]) -> str | None:
    """Key of the probabilities where all other outputs are the scores that they are made of."""
    keys = output_keys(flat.structure)
    if len(keys) < 2 or len(keys) != len(flat.outputs) or {*prefer, "", "default"}.intersection(keys):
        return None
    ends = [Analysis(flat, ref) for ref in flat.outputs]
    floats = all(one.tensor(one.output).dtype.is_floating for one in ends)
    if not floats or len({last_product(one) for one in ends}) > 1:
        return None
    return next((key for key, one in zip(keys, ends, strict=True) if find_classifier(one) is not None), None)


def _end_of_block(plain: Features, block: str) -> Features:
    pieces = find_pieces(plain.whole)
    names = [piece.name for piece in pieces]
    if block not in names:
        outputs = [key for key in output_keys(plain.whole.flat.structure) if key]
        raise BackboneError(
            f"The model has no output {block!r}.{did_you_mean(block, [*outputs, *names])} It has: "
            f"{output_table(plain.whole.flat.structure)}. The end of a block can be taken as well: {join_names(names)}."
        )
    end = pieces[names.index(block)].end
    if end == plain.whole.output:
        return dataclasses.replace(plain, name=block)
    analysis = Analysis(plain.whole.flat, end)
    shape = _known(analysis.tensor(end).shape)
    return dataclasses.replace(plain, analysis=analysis, name=block, shape=shape, pieces=pieces)


def _before(plain: Features, found: Classifier) -> Features:
    what = f"the classifier {found.kernel.rsplit('/', 1)[0]!r} ({found.activation})"
    if not found.learned:
        note = f"The model is {what} on its own inputs, so its probabilities are its only features."
        return dataclasses.replace(plain, notes=(*plain.notes, note))
    analysis = Analysis(plain.whole.flat, found.features)
    shape = _known(analysis.tensor(found.features).shape)
    gives = "" if found.activation == "ArgMax" else f"output={PROBABILITIES!r} selects its output, "
    note = (
        f"The model ends in {what}; its features are the input of that "
        f"classifier{'' if shape is None else f', {shape}'}. "
        f"{gives}output= with a block name {'selects ' * (not gives)}the end of that block."
    )
    return dataclasses.replace(plain, analysis=analysis, shape=shape, notes=(*plain.notes, note))


def _known(shape: tf.TensorShape) -> tuple[int | None, ...] | None:
    return None if shape.rank is None else tuple(shape.as_list())
