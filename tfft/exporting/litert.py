"""Export of a model as one LiteRT file for phones and small devices: :func:`export_litert`.

Implementation notes: the converter gets a SavedModel whose variables are constants. Otherwise, BatchNorm is not folded
into the convolutions. Names of inputs and outputs come from its signature.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import ExportError, did_you_mean, installed_version, join_names, missing_package
from tfft.exporting.loader import ARRAY_SIGNATURE
from tfft.exporting.model_card import describe_tensor, model_card
from tfft.exporting.parity import Examples, decoded_files, quiet_tensorflow, random_arrays
from tfft.exporting.signatures import Serving, serving_functions
from tfft.features.litert import quiet
from tfft.heads import RAW_SIGNATURE
from tfft.io.name_files import format_lines
from tfft.keras_compat import with_constants
from tfft.specs import InputSpec

Quantization = Literal["float16", "dynamic", "int8"]
SUFFIX = ".tflite"
CALIBRATION = 100  # examples; more hardly change the ranges of activations
_CHECKED = 100  # examples for the comparison
_TOLERANCES = {None: 1e-3, "float16": 2e-2}  # integers have none: the share of equal answers says what they cost
_TIME_LIMIT = 900  # seconds
_MISSING = re.compile(r"(?:\"([^\"@]*)@[^\"]*\"[^\n]*)?'tf\.(\w+)' op is neither a custom op nor a flex op")


@dataclasses.dataclass(frozen=True)
class LiteRTExport:
    """Result of :func:`export_litert`.

    Attributes:
        path: File.
        size: Size of the file in bytes.
        quantize: Quantization; None for float32.
        inputs: Shape and type of each input, by name.
        outputs: Shape and type of each output, by name.
        largest_difference: Largest ``|LiteRT - Keras| / (1 + the largest |Keras|)`` of an output.
        agreement: Share of the compared examples whose most probable class is the same as that of the Keras model; None
            if the model is no classifier.
        examples: Number of compared examples.
        milliseconds: Median time of one example with one thread on this machine.
    """

    path: pathlib.Path
    size: int
    quantize: Quantization | None
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    largest_difference: float
    agreement: float | None
    examples: int
    milliseconds: float

    def __str__(self) -> str:
        kept = "" if self.agreement is None else f"same class for {self.agreement:.1%} of {self.examples} examples, "
        return (
            f"{self.path}: {self.size / 1e6:.1f} MB, {self.quantize or 'float32'}, {kept}"
            f"largest difference {self.largest_difference:.1e}, {self.milliseconds:.1f} ms per example with one thread"
        )


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
    without suppression; a segmenter masks of the model's size. Class names and the model card are
    in the file as ``labels.txt`` and ``model_card.md``, in the zip archive at its end (``unzip model.tflite``).

    Args:
        model: Built model with inputs of numbers, from ``tfft.build`` or any other.
        path: File to write, with the suffix ``.tflite``. An existing file is never replaced.
        quantize: ``"float16"`` halves the file; ``"dynamic"`` stores the weights in 8 bits and computes activations in
            float32; ``"int8"`` computes in 8 bits. Defaults to None, float32.
        representative: Examples that show the range of the activations, for ``"int8"``: image arrays of the model's
            size, arrays by input name, or image files (paths or contents); the first 100 are used.
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
    if installed_version("ai-edge-litert") is None:
        missing_package("ai-edge-litert", "The check of a LiteRT file", "pip install ai-edge-litert")
    target = target_file(path)
    _check_quantize(quantize, representative)
    serving = serving_functions(model, class_names=class_names, input_spec=input_spec)
    specs = _fixed_specs(serving)
    calibration = None if representative is None else _rows(serving, specs, representative, CALIBRATION)
    compared = _rows(serving, specs, examples if examples is not None else representative, _CHECKED)
    function = _numeric_function(serving, specs)
    content = _convert(function, quantize, calibration)
    documents = {"model_card.md": model_card(model, serving, card)}
    if serving.class_names:
        documents["labels.txt"] = format_lines(serving.class_names)
    with tempfile.TemporaryDirectory(prefix=".tfft-litert-", dir=_folder(target)) as scratch:
        written = pathlib.Path(scratch, target.name)
        written.write_bytes(content)
        with zipfile.ZipFile(written, "a") as archive:
            for name, text in documents.items():
                archive.writestr(name, text)
        found = _compared(written, function, compared, quantize)
        os.link(written, target)  # fails where a file has appeared, and is never half written
    shapes = {name: describe_tensor(spec.dtype, spec.shape) for name, spec in specs.items()}
    return LiteRTExport(target, target.stat().st_size, quantize, shapes, **found)


def target_file(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the file an export to ``path`` goes to, and refuse one that exists.

    Args:
        path: As :func:`export_litert` takes it.

    Raises:
        ExportError: If the suffix is not ``.tflite``, or the file exists.
    """
    target = pathlib.Path(path).expanduser()
    if target.suffix != SUFFIX:
        raise ExportError(f"Expected a file with the suffix {SUFFIX}. Received: {target}. Use {target}{SUFFIX}.")
    if target.exists():
        raise ExportError(
            f"{target} exists already, and an export never replaces a file. Remove it, or use another name."
        )
    return target


def _folder(target: pathlib.Path) -> pathlib.Path:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"The export to {target} failed: {error}") from error
    return target.parent


def _check_quantize(quantize: str | None, representative: Examples | None) -> None:
    known = get_args(Quantization)
    if quantize is not None and quantize not in known:
        raise ExportError(
            f"Unknown quantize {quantize!r}. Expected one of: {join_names(known)}.{did_you_mean(quantize, known)}"
        )
    if quantize == "int8" and representative is None:
        raise ExportError(
            "Expected representative= examples for quantize='int8': they show the range of each activation. "
            "Received: none. Pass about 100 typical examples, or use quantize='dynamic', which needs none."
        )


def _fixed_specs(serving: Serving) -> dict[str, tf.TensorSpec]:
    """Return the inputs with one example of a fixed size."""
    given = serving.signatures[ARRAY_SIGNATURE].structured_input_signature[1]
    texts = [name for name, spec in given.items() if spec.dtype == tf.string]
    if texts:
        raise ExportError(
            f"LiteRT takes numbers, and the input {join_names(texts)} takes texts: LiteRT has no tokenizer. "
            "Export a SavedModel with tfft.export instead."
        )
    image = serving.serving_input.spec if serving.encoded is not None and serving.serving_input is not None else None
    fixed, problems = {}, []
    for name, spec in given.items():
        shape = [1, *spec.shape[1:]]
        if isinstance(image, InputSpec) and len(shape) == 4:
            shape = [1, image.height, image.width, image.channels]
        if None in shape:
            problems.append(f"{name} {describe_tensor(spec.dtype, spec.shape)}")
        fixed[name] = tf.TensorSpec(shape, spec.dtype, name=name)
    if problems:
        raise ExportError(
            f"LiteRT needs inputs of a fixed size. Received: {'; '.join(problems)}. "
            "Build the model with a keras.Input of a fixed shape."
        )
    return fixed


def _rows(
    serving: Serving, specs: Mapping[str, tf.TensorSpec], examples: Examples | None, count: int
) -> dict[str, np.ndarray]:
    """Return examples as arrays by input name."""
    first = next(iter(specs))
    if examples is None:
        return random_arrays(specs, rows=8)
    if isinstance(examples, (Mapping, np.ndarray)):
        arrays = examples if isinstance(examples, Mapping) else {first: examples}
    else:
        arrays = {first: decoded_files(serving, list(examples)[:count])}
    found = {}
    for name, spec in specs.items():
        if name not in arrays:
            raise ExportError(f"Expected an array for the input {name!r}. Received: {join_names(arrays)}.")
        found[name] = np.asarray(arrays[name])[:count]
        if tuple(found[name].shape[1:]) != tuple(spec.shape[1:]) or not len(found[name]):
            raise ExportError(
                f"Expected examples of the shape [n, {', '.join(map(str, spec.shape[1:]))}] for {name!r}. "
                f"Received: {list(found[name].shape)}. Resize them as the model would, or pass image files."
            )
        found[name] = found[name].astype(spec.dtype.as_numpy_dtype)
    return found


def _numeric_function(serving: Serving, specs: Mapping[str, tf.TensorSpec]) -> tf.types.experimental.ConcreteFunction:
    """Return the served function for one example, without outputs of strings."""
    served = serving.signatures.get(RAW_SIGNATURE, serving.signatures[ARRAY_SIGNATURE])

    def numbers(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = served(**values)
        return {name: outputs[name] for name in sorted(outputs) if outputs[name].dtype != tf.string}

    return tf.function(numbers, autograph=False).get_concrete_function(**specs)


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
    with quiet(), quiet_tensorflow(), warnings.catch_warnings():
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


def _compared(
    file: pathlib.Path,
    function: tf.types.experimental.ConcreteFunction,
    examples: Mapping[str, np.ndarray],
    quantize: str | None,
) -> dict[str, Any]:
    """Run a file in a fresh process with LiteRT alone and compare it with the Keras model."""
    results, milliseconds = _run_fresh(file, examples)
    count = len(next(iter(examples.values())))
    expected: dict[str, list[np.ndarray]] = {}
    for row in range(count):
        for name, value in function(**{n: tf.constant(a[row : row + 1]) for n, a in examples.items()}).items():
            expected.setdefault(name, []).append(value.numpy())
    largest, problems, agreement = 0.0, [], None
    for name, rows in expected.items():
        wanted, found = np.concatenate(rows), results[name]
        if found.shape != wanted.shape or not np.isfinite(found.astype(np.float64)).all():
            problems.append(f"{name}: shape {list(found.shape)} in place of {list(wanted.shape)}, or not finite")
            continue
        scale = 1 + np.max(np.abs(wanted.astype(np.float64)), initial=0.0)
        difference = float(np.max(np.abs(found.astype(np.float64) - wanted), initial=0.0) / scale)
        largest = max(largest, difference)
        limit = _TOLERANCES.get(quantize)
        if limit is not None and difference > limit:
            problems.append(f"{name} differs by {difference:.3g} (tolerance {limit:g})")
        if name == "probabilities" and wanted.ndim == 2 and wanted.shape[1] > 1:
            agreement = float(np.mean(found.argmax(1) == wanted.argmax(1)))
    if problems:
        raise ExportError("The LiteRT file does not compute what the Keras model computes: " + "; ".join(problems))
    outputs = {
        name: describe_tensor(tf.as_dtype(rows.dtype), tf.TensorShape([1, *rows.shape[1:]]))
        for name, rows in results.items()
    }
    return {
        "outputs": outputs, "largest_difference": largest, "agreement": agreement, "examples": count,
        "milliseconds": milliseconds,
    }  # fmt: skip


def _run_fresh(file: pathlib.Path, examples: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], float]:
    script = pathlib.Path(__file__).with_name("litert_worker.py")
    inputs, results = file.with_name("inputs.npz"), file.with_name("results.npz")
    np.savez(inputs, allow_pickle=False, **dict(examples))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    command = [sys.executable, "-P", str(script), str(file), str(inputs), str(results)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"The LiteRT file could not be checked in a fresh process: {error}") from error
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ExportError(f"The file does not run in a fresh process with LiteRT alone. It said:\n{last}")
    with np.load(results, allow_pickle=False) as stored:
        values = {name: stored[name] for name in stored.files}
    return values, float(values.pop("_milliseconds"))
