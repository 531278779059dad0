"""Makes an endpoint take batches of examples with known shapes, whatever the SavedModel takes: :func:`adapt`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.backbones.savedmodel import parity, tf1
from tfft.backbones.savedmodel.batches import fixed_rows, free_batch, rows_are_examples
from tfft.backbones.savedmodel.endpoint import Endpoint
from tfft.backbones.savedmodel.example_inputs import described, parsed_endpoint
from tfft.backbones.savedmodel.graph import FlatGraph
from tfft.backbones.savedmodel.image_sizes import free_size, has_fixed_size
from tfft.backbones.savedmodel.input_shapes import settle_shapes
from tfft.layers.each_example import EachExample

_ONE_AT_A_TIME = "It takes one example at a time, so it is called once for each example of a batch; that is slow."


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """An endpoint whose inputs have a rank.

    Attributes:
        endpoint: The endpoint.
        flat: Its graph for inference, with reference variables replaced.
        notes: What was assumed or changed, one sentence each.
        batch_axis: For a model that is called once for each example, or for each group of them: whether its inputs
            have that first axis; None for a model that takes batches.
        converted: Whether parts of the graph had the form of TF1 and were replaced.
        rows: Number of examples that such a model takes at a time.
    """

    endpoint: Endpoint
    flat: FlatGraph
    notes: tuple[str, ...]
    batch_axis: bool | None = None
    converted: bool = False
    rows: int = 1


def adapt(
    endpoint: Endpoint, loaded: Any, per_example: bool = False, image_size: tuple[int, int] | None = None
) -> Adapted:
    """Settle shapes and batch of an endpoint.

    Args:
        endpoint: Endpoint of the SavedModel.
        loaded: The restored SavedModel.
        per_example: Whether its inputs have no batch axis, so that it is called once for each example.
        image_size: Height and width in pixels of the images that it shall take; None for its own.

    Raises:
        BackboneError: The graph cannot take images of this size.
    """
    graphs = _Graphs(loaded)
    notes = [endpoint.note] if endpoint.note else []
    flat = graphs.flat(endpoint)
    parsed = parsed_endpoint(endpoint, flat)
    if parsed is not None:
        endpoint, flat = parsed, graphs.flat(parsed)
        notes.append(described(parsed))
        per_example |= not parsed.batched
    settled, more = settle_shapes(endpoint, flat)
    if settled is not endpoint:
        endpoint, flat = settled, graphs.flat(settled)
        notes += more
    if image_size is not None and has_fixed_size(endpoint, image_size):
        _, height, width, _ = endpoint.specs[0].shape
        endpoint, flat = free_size(endpoint, graphs.flat, image_size)
        notes.append(f"It was saved for images of {height} x {width} pixels; its convolutions take any size.")
    if per_example:
        return Adapted(endpoint, flat, (*notes, _ONE_AT_A_TIME), False, graphs.converted)
    if (single := _one_row_at_a_time(endpoint, loaded)) is not None:
        endpoint, flat = single, graphs.flat(single)
    adapted = _batched(endpoint, flat, graphs)
    return dataclasses.replace(adapted, notes=(*notes, *adapted.notes), converted=graphs.converted)


class _Graphs:
    """Graphs of the endpoints of a SavedModel, with what TF1 wrote replaced.

    Attributes:
        converted: Whether anything was replaced.
    """

    def __init__(self, loaded: Any) -> None:
        self._loaded, self._variables = loaded, list(getattr(loaded, "variables", None) or [])
        self.converted = False

    def flat(self, endpoint: Endpoint) -> FlatGraph:
        """Return the flat graph of an endpoint."""
        traced = endpoint.flat(self._variables)
        flat = tf1.modernized(traced, self._loaded)
        self.converted |= flat is not traced
        return flat


def _batched(endpoint: Endpoint, flat: FlatGraph, graphs: _Graphs) -> Adapted:
    """Make an endpoint take batches of any size: by its graph, else by calling it for one or some rows at a time."""
    rows = fixed_rows(endpoint.specs)
    if rows is None or (rows > 1 and all(spec.shape.rank == 1 for spec in endpoint.specs)):  # a waveform
        return Adapted(endpoint, flat, ())
    free = free_batch(endpoint, graphs.flat)
    if free is not None:
        note = f"It was saved for {rows} example{'s' * (rows > 1)} at a time; its graph takes a batch of any size."
        return Adapted(free, graphs.flat(free), (note,))
    if rows == 1:
        return Adapted(endpoint, flat, (_ONE_AT_A_TIME,), True)
    if rows_are_examples(endpoint):
        note = (
            f"It was saved for {rows} examples at a time, so a batch goes through it in groups of {rows}; the last "
            "group is filled up with examples of the batch."
        )
        return Adapted(endpoint, flat, (note,), True, rows=rows)
    note = (
        f"Its input takes exactly {rows} rows. If they are one example, pass per_example=True, which calls it once for "
        f"each; if they are a batch, train with batch_size={rows}."
    )
    return Adapted(endpoint, flat, (note,))


def _one_row_at_a_time(endpoint: Endpoint, loaded: Any) -> Endpoint | None:
    """Return the endpoint for one row where its function names no number, a signature names 1, and two rows fail.

    Keras 2 writes ``__call__`` of a model with ``batch_input_shape=(1, ...)`` for any number of rows.
    """
    wanted = sorted(str([1, *spec.shape[1:]]) for spec in endpoint.specs if spec.shape.rank and spec.shape[0] is None)
    if len(wanted) != len(endpoint.specs):
        return None
    for signature in dict(getattr(loaded, "signatures", None) or {}).values():
        taken = signature.structured_input_signature[1].values()
        if sorted(str(spec.shape.as_list()) if spec.shape.rank else "" for spec in taken) != wanted:
            continue
        specs = tuple(tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, spec.name) for spec in endpoint.specs)
        if not _takes(endpoint, specs, 2) and _takes(endpoint, specs, 1):
            return dataclasses.replace(endpoint, specs=specs)
    return None


def _takes(endpoint: Endpoint, specs: Sequence[tf.TensorSpec], rows: int) -> bool:
    """Whether the SavedModel gives a result for each of some rows."""
    batch = parity.sample_batch([tf.TensorSpec([rows, *spec.shape[1:]], spec.dtype) for spec in specs])
    try:
        found = tf.nest.flatten(endpoint.call(batch), expand_composites=True)
    except (ValueError, TypeError, tf.errors.OpError):  # TensorFlow's for shapes that do not fit
        return False
    return any(t is not None and t.shape.rank and t.shape[0] == rows for t in found)


def for_each_example(model: keras.Model, batch_axis: bool, rows: int = 1) -> keras.Model:
    """Return a model that calls another once for each example of a batch, or for each group of them.

    Args:
        model: Model of one example, or of ``rows`` examples.
        batch_axis: Whether its inputs have that first axis.
        rows: Number of examples that it takes at a time. Defaults to 1.
    """

    def batched(tensor: keras.KerasTensor) -> Any:
        shape = tensor.shape[1:] if batch_axis else tensor.shape
        return keras.Input(shape, dtype=tensor.dtype, name=tensor.name)

    inputs = keras.tree.map_structure(batched, model.input)
    outputs = EachExample(model, batch_axis, rows, name="each_example")(inputs)
    return keras.Model(inputs, outputs, name=f"{model.name}_batched")
