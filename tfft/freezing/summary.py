"""Table of a model's blocks and their trainable parts: :func:`describe`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
from rich.table import Table

from tfft.backbones.base import (
    BACKBONE_LAYER,
    Block,
    blocks_of,
    count_values,
    find_backbone,
    head_layers,
    is_opened,
)
from tfft.console.tables import render
from tfft.errors import BlockError
from tfft.freezing.batch_norm import batch_norms, has_statistics
from tfft.keras_compat import flatten_layers, inbound_nodes, own_trainable_variables
from tfft.layers.lora import pairs_of, updated_layers

_CONV = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


@dataclasses.dataclass(frozen=True)
class Row:
    """One block or head layer.

    Attributes:
        block: Name of the block.
        part: ``"backbone"`` or ``"head"``.
        output: Output shape, None for variable dimensions; None if unknown to Keras.
        parameters: Number of values in its variables.
        trainable_parameters: Number of trainable values.
        flops: Multiply-adds per example; None if unknown.
        flops_share: Share of the whole model's multiply-adds; None if those are unknown.
        trainable: ``"yes"``, ``"no"``, ``"partly"``, or ``"lora"`` if only low-rank updates train; empty without
            variables that could train.
        batch_norm: ``"fixed"``, ``"train"``, or empty if there is none.
        note: Reason why it is not divided further, if that was tried.
        lora_parameters: Number of values in low-rank updates.
    """

    block: str
    part: str
    output: tuple[int | None, ...] | None
    parameters: int
    trainable_parameters: int
    flops: int | None
    flops_share: float | None
    trainable: str
    batch_norm: str
    note: str = ""
    lora_parameters: int = 0


@dataclasses.dataclass(frozen=True)
class Description:
    """Result of :func:`describe`; ``print`` shows it as a table.

    Attributes:
        model: Name of the model.
        rows: Blocks in the order of computation, then the head's layers.
        parameters: Number of values in the model's variables.
        trainable_parameters: Number of trainable values.
        flops: Multiply-adds per example; None if some are unknown.
    """

    model: str
    rows: tuple[Row, ...]
    parameters: int
    trainable_parameters: int
    flops: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        values = dataclasses.asdict(self)
        values["rows"] = [{**row, "output": row["output"] and list(row["output"])} for row in values["rows"]]
        return values

    def __str__(self) -> str:
        share = self.trainable_parameters / self.parameters if self.parameters else 0.0
        title = f"{self.model}: {self.trainable_parameters:,} of {self.parameters:,} parameters train ({share:.1%})"
        low_rank = sum(row.lora_parameters for row in self.rows)
        title += f", {low_rank:,} in low-rank updates" if low_rank else ""
        table = Table(title=title, title_justify="left")
        table.add_column("block", no_wrap=True)
        table.add_column("output")
        for name in ("parameters", "trainable", "FLOPs"):
            table.add_column(name, justify="right")
        table.add_column("trains")
        table.add_column("batch norm")
        noted = any(row.note for row in self.rows)
        if noted:
            table.add_column("note")
        for at, row in enumerate(self.rows):
            ends = at + 1 < len(self.rows) and self.rows[at + 1].part != row.part
            cells = [row.block, _shape(row.output), f"{row.parameters:,}", f"{row.trainable_parameters:,}"]
            cells += ["?" if row.flops_share is None else f"{row.flops_share:.1%}", row.trainable, row.batch_norm]
            table.add_row(*cells, *([row.note] if noted else []), end_section=ends)
        return render(table)


def describe(model: keras.Model) -> Description:
    """Describe the blocks of a model's backbone and the layers of its head, and which of them train.

    Use it before and after :func:`tfft.unfreeze`; it changes nothing.

    Args:
        model: Any built Keras model.

    Returns:
        A table: ``print(tfft.describe(model))``; ``.rows`` and ``.to_dict()`` for programs.
        Multiply-adds are counted for convolutions and dense layers of Keras (the rest of a
        network is small beside them); a block of a SavedModel says its own or stays unknown.

    Raises:
        BlockError: If the model is not built yet.

    Example:
        >>> print(tfft.describe(model))
    """
    model = getattr(model, "model", model)
    if not model.built:
        raise BlockError(f"The model {model.name!r} has no variables yet: call it once, or model.build(input_shape).")
    blocks = [(block, "backbone") for block in blocks_of(model)]
    blocks += [(Block(layer.name, (layer,)), "head") for layer in head_layers(model)]
    shapes = _shapes(model)
    costs = [_flops(block, shapes) for block, _ in blocks]
    known = [cost for cost in costs if cost is not None]
    total = sum(known) if len(known) == len(costs) else None
    rows = [_row(block, part, shapes, cost, total) for (block, part), cost in zip(blocks, costs, strict=True)]
    trainable = model.trainable_weights
    return Description(_title(model), tuple(rows), count_values(model.weights), count_values(trainable), total)


def _title(model: keras.Model) -> str:
    inner = find_backbone(model)
    return model.name if inner is model or inner.name == BACKBONE_LAYER else f"{model.name} on {inner.name}"


def _row(block: Block, part: str, shapes: Shapes, cost: int | None, total: int | None) -> Row:
    trainable = block.trainable_parameters
    return Row(
        block=block.name,
        part=part,
        output=shapes.get(id(block.layers[-1])),
        parameters=block.parameters,
        trainable_parameters=trainable,
        flops=cost,
        flops_share=cost / total if total and cost is not None else None,
        trainable=_trains(block, trainable),
        batch_norm=_batch_norm(block),
        note=block.note,
        lora_parameters=count_values(_updates(block)),
    )


def _trains(block: Block, trainable: int) -> str:
    """Statistics never train; a block counts as whole when all the rest of it does."""
    if not block.variables:
        return ""
    if not trainable:
        return "no"
    if trainable == count_values(_updates(block)):
        return "lora"
    for layer in block.layers:
        fixed = {id(v) for v in layer.non_trainable_weights}
        for sub in flatten_layers(layer):
            if any(id(v) in fixed for v in own_trainable_variables(sub)):
                return "partly"
    return "yes"


def _updates(block: Block) -> list[keras.Variable]:
    """The variables of a block's low-rank updates."""
    layers = [sub for layer in block.layers for sub in updated_layers(layer)]
    return [v for layer in layers for pair in pairs_of(layer) for v in (pair.first, pair.second)]


def _batch_norm(block: Block) -> str:
    modes = set()
    for layer in block.layers:
        if is_opened(layer):
            if has_statistics(layer):
                modes.add(layer.batch_norm if layer.trainable_weights else "fixed")
        else:
            modes |= {"train" if norm.trainable else "fixed" for norm in batch_norms(layer)}
    return "mixed" if len(modes) > 1 else "".join(modes)


Shapes = dict[int, tuple[int | None, ...]]


def _shapes(model: keras.Model) -> Shapes:
    """Return what each layer gives, at the size at which the model around it calls the backbone.

    A backbone that takes any size leaves its own sizes open; the model around it does not.
    """
    inner = find_backbone(model)
    static: Shapes = {}
    tensors: dict[int, keras.KerasTensor] = {}
    for layer in [*inner.layers, *head_layers(model)]:
        try:
            tensor = layer.output
        except (AttributeError, ValueError, RuntimeError):
            continue
        if isinstance(tensor, keras.KerasTensor):
            static[id(layer)] = tuple(tensor.shape)
            if layer in inner.layers:
                tensors[id(layer)] = tensor
    entries = inbound_nodes(inner)
    if inner is model or not entries or not tensors:
        return static
    entering = [keras.KerasTensor(t.shape, t.dtype) for t in entries[-1].input_tensors]
    try:
        graph = keras.Model(inner.inputs, list(tensors.values()))
        found = graph.compute_output_spec(keras.tree.pack_sequence_as(graph.input, entering))
    except Exception:  # shapes are a convenience of a table; open sizes are an answer too
        return static
    return {**static, **{key: tuple(spec.shape) for key, spec in zip(tensors, found, strict=True)}}


def _shape(shape: tuple[int | None, ...] | None) -> str:
    return "?" if shape is None else "x".join("?" if n is None else str(n) for n in shape[1:]) or "scalar"


def _flops(block: Block, shapes: Shapes) -> int | None:
    total = 0
    for layer in block.layers:
        if is_opened(layer):
            open_size = None in shapes.get(id(layer), (None, None))[1:]
            cost = None if open_size else getattr(layer, "flops", None)
        else:
            cost = _layer_flops(layer, shapes)
        if cost is None:
            return None
        total += int(cost)
    return total


def _layer_flops(layer: keras.layers.Layer, shapes: Shapes) -> int | None:
    if not layer.weights or isinstance(layer, keras.layers.Embedding):
        return 0
    out = shapes.get(id(layer))
    if out is None:
        return None
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    if isinstance(layer, (keras.layers.Conv2DTranspose, keras.layers.Conv1DTranspose)):
        source = layer.input.shape
        places = source[1:-1] if last else source[2:]
    elif isinstance(layer, (*_CONV, *_DEPTHWISE, *_SEPARABLE)):
        places = out[1:-1] if last else out[2:]
    elif isinstance(layer, keras.layers.Dense):
        places = out[1:-1]
    else:
        return 0 if all(len(v.shape) <= 1 for v in layer.weights) and len(flatten_layers(layer)) == 1 else None
    if any(n is None for n in places):
        return None
    updates = {id(v) for pair in pairs_of(layer) for v in (pair.first, pair.second)}
    kernels = sum(math.prod(v.shape) for v in layer.weights if len(v.shape) > 1 and id(v) not in updates)
    return kernels * math.prod(places)
