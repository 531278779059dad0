"""Export of a model as one LiteRT file for phones and small devices: :func:`export_litert`.

Implementation notes: the converter gets a SavedModel whose variables are constants. Otherwise, BatchNorm is not folded
into the convolutions. Names of inputs and outputs come from its signature.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from tfft.console.output import quiet_loggers
from tfft.errors import ExportError, did_you_mean, join_names
from tfft.exporting.loader import ARRAY_SIGNATURE
from tfft.exporting.parity import Examples
from tfft.exporting.portable import (
    FileExport,
    Runtime,
    compare,
    example_arrays,
    new_file,
    source_of,
    target_file,
)
from tfft.features.litert import quiet
from tfft.keras_compat import with_constants
from tfft.specs import InputSpec

Quantization = Literal["float16", "dynamic", "int8"]
LITERT = Runtime("LiteRT", ".tflite", ("ai-edge-litert",), "litert_worker.py", examples=1)
CALIBRATION = 100  # examples; more hardly change the ranges of activations
_TOLERANCES = {None: 1e-3, "float16": 2e-2}  # integers have none: the share of equal answers says what they cost
_MISSING = re.compile(r"(?:\"([^\"@]*)@[^\"]*\"[^\n]*)?'tf\.(\w+)' op is neither a custom op nor a flex op")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteRTExport(FileExport):
    """Result of :func:`export_litert`.

    Attributes:
        quantize: Quantization; None for float32.
    """

    quantize: Quantization | None


def export_litert(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    quantize: Quantization | None = None,
    representative: Examples | None = None,
    examples: Examples | None = None,
    class_names: Sequence[str] | None = None,
    card: Mapping[str, object] | None = None,
    input_spec: InputSpec | None = None,
) -> LiteRTExport:
    """Export a model as one LiteRT file, checked in a fresh process with LiteRT alone.

    Use it for a phone or a small device. The file has the signature ``serving_default`` for one example of a fixed
    size: for images, ``images``: uint8 ``[1, height, width, channels]``. Scaling of the pixels and probabilities are
    inside. A detector gives the boxes and scores of all cells,
    without suppression; a segmenter masks of the model's size; a text model takes tokens, int32 ``[1, length]``. Class
    names, the model card and the vocabulary of a text model are in the file as ``labels.txt``, ``model_card.md`` and
    others, in the zip archive at its end (``unzip model.tflite``).

    Args:
        model: Built model with inputs of numbers, or of texts with a tokenizer, from ``tfft.build`` or any other.
        path: File to write, with the suffix ``.tflite``. An existing file is never replaced.
        quantize: ``"float16"`` halves the file; ``"dynamic"`` stores the weights in 8 bits and computes activations in
            float32; ``"int8"`` computes in 8 bits. Defaults to None, float32.
        representative: Examples that show the range of the activations, for ``"int8"``: image arrays of the model's
            size, arrays by input name, image files (paths or contents), or texts; the first 100 are used.
        examples: Examples for the comparison with the Keras model, in the same forms; at most 100 are used. Defaults to
            ``representative``, or to random inputs.
        class_names: As for :func:`tfft.export`.
        card: As for :func:`tfft.export`.
        input_spec: As for :func:`tfft.export`.

    Returns:
        Path, size, agreement and time.

    Raises:
        ExportError: If LiteRT lacks an operation of the model (the message names it and its layer), the file exists, or
            the check fails; nothing is left behind.
        DependencyError: If ai-edge-litert is missing.

    Example:
        >>> exported = tfft.exporting.export_litert(model, "photos.tflite", quantize="float16")  # doctest: +SKIP
        >>> print(exported)                                                                      # doctest: +SKIP
        photos.tflite: 6.8 MB, float16, same class for 100.0% of 100 examples, ...
    """
    LITERT.require()
    target = target_file(path, LITERT)
    _check_quantize(quantize, representative)
    source = source_of(model, LITERT, class_names, card, input_spec)
    calibration = None if representative is None else example_arrays(source, representative, CALIBRATION)
    compared = example_arrays(source, examples if examples is not None else representative)
    with new_file(target, _convert(source.function, quantize, calibration)) as written:
        with zipfile.ZipFile(written, "a") as archive:
            for name, document in source.documents.items():
                archive.writestr(name, document)
        found = compare(LITERT, written, source.function, compared, _TOLERANCES.get(quantize))
    return LiteRTExport(
        **vars(found),
        path=target,
        size=target.stat().st_size,
        precision=quantize or "float32",
        quantize=quantize,
        inputs=source.inputs,
    )


def _check_quantize(quantize: str | None, representative: Examples | None) -> None:
    known = get_args(Quantization)
    if quantize is not None and quantize not in known:
        raise ExportError(
            f"Unknown quantize {quantize!r}. Expected one of: {join_names(known)}.{did_you_mean(quantize, known)}"
        )
    if quantize == "int8" and representative is None:
        raise ExportError(
            "Expected representative= examples for quantize='int8': they calibrate the range of each activation. "
            "Received: none. Pass about 100 typical examples, or use quantize='dynamic', which needs none."
        )


def _convert(
    function: tf.types.experimental.ConcreteFunction,
    quantize: str | None,
    calibration: Mapping[str, np.ndarray] | None,
) -> bytes:
    """Convert a function to the content of a LiteRT file."""
    names = sorted(function.structured_outputs)
    inputs = function.structured_input_signature[1]
    try:
        with tempfile.TemporaryDirectory(prefix="tfft-litert-") as folder, _quiet():
            frozen = with_constants(function)
            ordered = [tensor.op.name for tensor in frozen.inputs]
            module = tf.Module()
            module.serve = tf.function(
                lambda **values: dict(zip(names, frozen(*[values[name] for name in ordered]), strict=True)),
                autograph=False,
            )
            signature = module.serve.get_concrete_function(**inputs)
            plain = tf.saved_model.SaveOptions(experimental_custom_gradients=False)  # swish has one, with variables
            tf.saved_model.save(module, folder, signatures=signature, options=plain)
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[ARRAY_SIGNATURE])
            if quantize is not None:
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantize == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if quantize == "int8" and calibration is not None:
                converter.representative_dataset = lambda: _one_by_one(calibration)
            return bytes(converter.convert())
    except Exception as error:  # the converter has no error class of its own
        raise ExportError(_why_not(error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with quiet(), quiet_loggers("tensorflow"), warnings.catch_warnings():
        # The converter calibrates with tf.lite.Interpreter, which warns of its own removal.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated", UserWarning)
        yield


def _one_by_one(arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    for row in range(len(next(iter(arrays.values())))):
        yield ARRAY_SIGNATURE, {name: value[row : row + 1] for name, value in arrays.items()}


def _why_not(error: Exception) -> str:
    """Return which operations LiteRT lacks and the layers that compute them."""
    found = _MISSING.findall(str(error))
    if not found:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return f"LiteRT cannot convert the model: {first[:300]}"
    layers = sorted({place.split("/")[-2] for place, _ in found if "/" in place})  # .../layer/operation
    said = f" (in {join_names(layers)})" if layers else ""
    return (
        f"LiteRT has no operation {join_names(sorted({op for _, op in found}))}{said}. Export a SavedModel with "
        "tfft.export, or a model without that layer."
    )
