"""Export of a model as one ONNX file, for ONNX Runtime and other runtimes: :func:`export_onnx`.

Implementation notes: tf2onnx converts the function that a SavedModel would serve, with images of the model's size,
since ONNX has no counterpart of the resizing that training used. tf2onnx goes on where it meets an operation that it
does not know and leaves it in the graph; the nodes are therefore compared with the operators that ONNX defines.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfft.console.output import quiet_loggers
from tfft.errors import ExportError, join_names
from tfft.exporting.parity import Examples
from tfft.exporting.portable import (
    FileExport,
    Runtime,
    Source,
    compare,
    example_arrays,
    new_file,
    source_of,
    target_file,
)
from tfft.features.litert import quiet
from tfft.specs import InputSpec

ONNX = Runtime("ONNX", ".onnx", ("tf2onnx", "onnxruntime"), "onnx_worker.py")
OPSET = 18  # of 2022; tf2onnx 1.17 writes up to it
_TOLERANCE = 1e-3
_MOST_BYTES = 2**31 - 1  # of a protocol buffer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ONNXExport(FileExport):
    """Result of :func:`export_onnx`.

    Attributes:
        opset: Version of the operators of ONNX.
    """

    opset: int = OPSET


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    examples: Examples | None = None,
    class_names: Sequence[str] | None = None,
    card: Mapping[str, object] | None = None,
    input_spec: InputSpec | None = None,
) -> ONNXExport:
    """Export a model as one ONNX file, checked in a fresh process with ONNX Runtime alone.

    Use it for ONNX Runtime, Triton or OpenVINO. The file takes batches of any number of examples of a fixed size: for
    images, ``images``: uint8 ``[?, height, width, channels]``. Scaling of the pixels and probabilities are inside. A
    detector gives the boxes and scores of all cells, without suppression; a segmenter masks of the model's size; a text
    model takes tokens, int32 ``[?, length]``. Class names, the model card and the vocabulary of a text model are in the
    metadata of the file, as ``labels.txt``, ``model_card.md`` and others.

    Args:
        model: Built model with inputs of numbers, or of texts with a tokenizer, from ``tfft.build`` or any other.
        path: File to write, with the suffix ``.onnx``. An existing file is never replaced.
        examples: Examples for the comparison with the Keras model: image arrays of the model's size, arrays by input
            name, image files (paths or contents), or texts; at most 100 are used. Defaults to random inputs, or a few
            sentences.
        class_names: As for :func:`tfft.export`.
        card: As for :func:`tfft.export`.
        input_spec: As for :func:`tfft.export`.

    Returns:
        Path, size, agreement and time.

    Raises:
        ExportError: If ONNX lacks an operation of the model (the message names it and its layer), the file exists, or
            the check fails; nothing is left behind.
        DependencyError: If tf2onnx or onnxruntime is missing.

    Example:
        >>> print(tfft.exporting.export_onnx(model, "photos.onnx"))                              # doctest: +SKIP
        photos.onnx: 13.5 MB, float32, same class for 100.0% of 8 examples, ...
    """
    ONNX.require()
    target = target_file(path, ONNX)
    source = source_of(model, ONNX, class_names, card, input_spec)
    compared = example_arrays(source, examples)
    with new_file(target, _convert(source)) as written:
        found = compare(ONNX, written, source.function, compared, _TOLERANCE)
    return ONNXExport(
        **vars(found),
        path=target,
        size=target.stat().st_size,
        precision="float32",
        inputs=source.inputs,
    )


def _convert(source: Source) -> bytes:
    """Convert a function to the content of an ONNX file."""
    import onnx
    import tf2onnx

    def served(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(source.function(**dict(zip(source.specs, values, strict=True))))

    try:
        with quiet(), quiet_loggers("tensorflow"), quiet_loggers("tf2onnx", level=logging.CRITICAL):
            graph = tf.function(served, autograph=False)
            made, _ = tf2onnx.convert.from_function(graph, input_signature=list(source.specs.values()), opset=OPSET)
    except Exception as error:  # the converter has no error class of its own
        raise ExportError(f"tf2onnx cannot convert the model: {str(error).strip()[:300]}") from error
    if unknown := sorted(_unknown_nodes(made.graph)):
        operations = join_names(sorted({operation for operation, _ in unknown}))
        layers = join_names(sorted({layer for _, layer in unknown if layer}))
        raise ExportError(
            f"ONNX has no operation {operations}{f' (in {layers})' if layers else ''}. Export a SavedModel with "
            "tfft.export, or a model without that layer."
        )
    onnx.helper.set_model_props(made, dict(map(_property, source.documents.items())))
    if made.ByteSize() > _MOST_BYTES:
        raise ExportError(
            f"An ONNX file has at most 2 GB. Received: a model of {made.ByteSize() / 1e9:.1f} GB. Export a SavedModel "
            "with tfft.export."
        )
    return bytes(made.SerializeToString())


def _property(document: tuple[str, bytes]) -> tuple[str, str]:
    """Return a document as metadata of the file, which are texts: in base64 if it is none."""
    name, content = document
    try:
        return name, content.decode()
    except UnicodeDecodeError:
        return f"{name}.base64", base64.b64encode(content).decode()


def _unknown_nodes(graph: Any) -> Iterator[tuple[str, str]]:
    """Yield operation and layer of each node that ONNX does not define, in conditions and loops too."""
    import onnx

    for node in graph.node:
        if not onnx.defs.has(node.op_type, node.domain):
            places = node.name.split("/")  # .../layer/operation
            yield node.op_type, places[-2] if len(places) > 1 else ""
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _unknown_nodes(attribute.g)
