"""Makes the Keras layers from the pieces of a graph: variables, tables, both graphs, regularizers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras

from tfft.backbones.savedmodel.block_graph import START, BlockGraph
from tfft.backbones.savedmodel.graph import FlatGraph, flatten
from tfft.backbones.savedmodel.layer import SavedModelBlock
from tfft.backbones.savedmodel.partition import Analysis, Piece, piece_graph, variable_paths
from tfft.backbones.savedmodel.resources import check_carried, resource_contents
from tfft.backbones.savedmodel.scan import check_graph
from tfft.backbones.savedmodel.variables import VariableSpec

# Older versions of Keras and code by hand make statistics with the flag of a weight.
_STATISTIC = re.compile(r"(^|[/._])(moving|running)_?(mean|avg|average|var|variance)(_\d+)?$", re.I)


class Maker:
    """Builds the layers of one opened model.

    Args:
        loaded: The restored SavedModel, for its lists of variables and its regularization losses.
        inference: Its graph for inference.
        training: Its graph for training, or None.
        trusted: Whether graphs that fail the scan are used all the same.
        output_shape: Shape of the model's output as the publisher declared it; None if unknown.
        trainable: False keeps every variable fixed for good.
    """

    def __init__(
        self,
        loaded: Any,
        inference: Analysis,
        training: Analysis | None,
        trusted: bool,
        output_shape: tuple[int | None, ...] | None,
        trainable: bool = True,
    ) -> None:
        self._output_shape, self._may_train = output_shape, trainable
        self._loaded, self._inference, self._training, self._trusted = loaded, inference, training, trusted
        listed = getattr(loaded, "trainable_variables", None)
        self._listed = None if listed is None else {id(v) for v in listed}
        self._regularizers = self._flat_regularizers(loaded)
        graphs = [a.flat for a in (training, inference) if a is not None]  # the inference graph's names win
        self._paths = {id(g.variables[p]): path for g in graphs for p, path in variable_paths(g).items()}
        self._sources: dict[str, list[Any]] = {}
        self._wiring: list[tuple[bool, list[int]]] = []

    def _raw_inputs(self, pieces: Sequence[Piece], matched: Sequence[Piece] | None, index: int) -> list[str]:
        """Return the model inputs (placeholders of the inference graph) that a block reads, in order."""
        placeholders = self._inference.flat.inputs
        used = set(pieces[index].inputs)
        if matched is not None:
            used |= set(matched[index].inputs)
        if index == 0:  # Keras wants every input connected, also one that nothing reads
            everywhere = {p for piece in [*pieces, *(matched or ())] for p in piece.inputs}
            used |= set(placeholders) - everywhere
        return [p for p in placeholders if p in used]

    def layers(
        self, pieces: Sequence[Piece], matched: Sequence[Piece] | None, batch_norm: str
    ) -> list[SavedModelBlock]:
        """Return one layer for each piece, holding the values of the SavedModel's variables."""
        placeholders = self._inference.flat.inputs
        if matched is not None and self._training is not None:
            # Both graphs were traced from one function: inputs correspond by position.
            rename = dict(zip(self._training.flat.inputs, placeholders, strict=True))
            matched = [_with_inputs(piece, rename) for piece in matched]
        made = []
        for index, piece in enumerate(pieces):
            raw = self._raw_inputs(pieces, matched, index)
            self._wiring.append((piece.start is not None, [placeholders.index(p) for p in raw]))
            made.append(self._layer(piece, None if matched is None else matched[index], raw, batch_norm))
        return made

    def _layer(self, piece: Piece, training: Piece | None, raw: list[str], batch_norm: str) -> SavedModelBlock:
        flat = self._inference.flat
        sources: list[Any] = []
        tables: list[dict[str, str]] = []
        inference = self._block_graph(flat, piece, raw, sources, tables)
        second = None
        if training is not None and self._training is not None:
            second = self._block_graph(self._training.flat, training, raw, sources, tables)
        here = {id(v) for v in sources}
        regularizers = [
            self._regularizer_graph(r, sources)
            for r in self._regularizers
            if r.variables and {id(v) for v in r.variables.values()} <= here
        ]
        # Through the config: the self-check then runs what a .keras file will hold, and not what was just loaded.
        layer = SavedModelBlock.from_scanned_config(
            {
                "name": piece.name,
                "inference": inference.to_config(),
                "training": None if second is None else second.to_config(),
                "regularizers": [graph.to_config() for graph in regularizers],
                "variables": [dataclasses.asdict(self._spec(v)) for v in sources],
                "tables": tables,
                "batch_norm": batch_norm if second is not None and second.updates else "fixed",
                "note": piece.note,
                "output_shape": self._output_shape if piece.end == self._inference.output else None,
                "trusted": self._trusted,
            }
        )
        layer.assign_values([v.numpy() for v in sources])
        self._sources[layer.name] = sources
        return layer

    def _block_graph(
        self, flat: FlatGraph, piece: Piece, raw: list[str], sources: list[Any], tables: list[dict[str, str]]
    ) -> BlockGraph:
        graph = piece_graph(flat, piece, START)
        if not self._trusted:
            check_graph(graph, f"block {piece.name!r}", "trust=True (on the command line: --trust)")
        check_carried(graph, f"block {piece.name!r}")
        offset = 0 if piece.start is None else 1
        feeds = {START: 0} if piece.start is not None else {}
        original = dict(zip(flat.inputs, self._inference.flat.inputs, strict=True))
        names = {node.name for node in graph.node}
        feeds |= {p: offset + raw.index(original[p]) for p in flat.inputs if p in names}
        variables, table_places = {}, {}
        for capture in piece.captures:
            if capture in flat.variables:
                variables[capture] = _place(sources, flat.variables[capture])
            else:
                tables.append(resource_contents(self._loaded, flat, capture))
                table_places[capture] = len(tables) - 1
        end = START if piece.start is not None and piece.end == piece.start else piece.end
        return BlockGraph(graph, feeds, variables, table_places, end, piece.updates)

    def _spec(self, variable: Any) -> VariableSpec:
        # The list of trainable variables leaves out what was frozen when the model was saved; a variable's own flag
        # shows what can train at all.
        path = self._paths.get(id(variable), variable.name.split(":")[0])
        lifted = id(variable) in self._inference.flat.lifted  # was a node of the graph, and is listed nowhere
        statistic = (lifted or self._left_out(variable)) and _STATISTIC.search(path) is not None
        trainable = variable.trainable and variable.dtype.is_floating and self._may_train and not statistic
        return VariableSpec(path, tuple(variable.shape.as_list()), variable.dtype.name, bool(trainable))

    def _left_out(self, variable: Any) -> bool:
        known = self._listed
        return known is not None and id(variable) not in known | self._inference.flat.lifted

    def freeze_as_saved(self, layers: Sequence[SavedModelBlock]) -> list[str]:
        """Freeze what was frozen when the model was saved; unlike other fixed variables, it can be unfrozen.

        Returns:
            Names of the blocks that were frozen, wholly or in part.
        """
        found = []
        for layer in layers:
            able = [variable for variable, own in self.pairs(layer) if own.trainable]
            training = [self._spec(variable).name for variable in able if not self._left_out(variable)]
            if not training and able:
                layer.trainable = False
            elif len(training) < len(able):
                layer.set_trainable_variables(training)
            else:
                continue
            found.append(layer.name)
        return found

    @staticmethod
    def _flat_regularizers(loaded: Any) -> list[FlatGraph]:
        losses = getattr(loaded, "regularization_losses", None) or []
        known = list(getattr(loaded, "variables", None) or [])
        return [flatten(lambda loss=loss: loss(), [], known) for loss in losses if callable(loss)]

    @staticmethod
    def _regularizer_graph(flat: FlatGraph, sources: list[Any]) -> BlockGraph:
        piece = Piece("", None, flat.outputs[0], (), tuple(flat.variables))
        graph = piece_graph(flat, piece, START)
        present = {node.name for node in graph.node}
        places = {p: _place(sources, v) for p, v in flat.variables.items() if p in present}
        return BlockGraph(graph, {}, places, {}, flat.outputs[0])

    def pairs(self, layer: SavedModelBlock) -> list[tuple[Any, keras.Variable]]:
        """Return (variable of the SavedModel, variable of the layer) for all of a layer's variables."""
        return list(zip(self._sources[layer.name], layer.graph_variables, strict=True))

    def chain(self, layers: Sequence[SavedModelBlock], inputs: Sequence[Any]) -> Any:
        """Call the layers one after the other on the model's flat inputs, tensors or Keras tensors."""
        value: Any = None
        for layer, (continues, positions) in zip(layers, self._wiring, strict=True):
            entering = [*([value] if continues else []), *(inputs[i] for i in positions)]
            value = layer(entering if len(entering) > 1 else entering[0])
        return value


def _with_inputs(piece: Piece, rename: dict[str, str]) -> Piece:
    return dataclasses.replace(piece, inputs=tuple(rename[p] for p in piece.inputs))


def _place(sources: list[Any], variable: Any) -> int:
    for i, known in enumerate(sources):
        if known is variable:
            return i
    sources.append(variable)
    return len(sources) - 1
