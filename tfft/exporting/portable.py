"""Shared code of single-file exports: inputs of a fixed size, examples, and the check in a fresh process.

A :class:`Runtime` is a program other than TensorFlow that runs a file. :mod:`tfft.exporting.litert` and
:mod:`tfft.exporting.onnx` convert a model to such a file; everything before and after the conversion is here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import ExportError, installed_version, join_names, missing_package
from tfft.exporting.loader import ARRAY_SIGNATURE
from tfft.exporting.model_card import describe_tensor, model_card
from tfft.exporting.parity import Examples, decoded_files, random_arrays
from tfft.exporting.signatures import Serving, serving_functions
from tfft.exporting.tokens import TokenModel, without_tokenizer
from tfft.heads import RAW_SIGNATURE
from tfft.io.name_files import format_lines
from tfft.specs import InputSpec

_CHECKED = 100  # examples for the comparison
_TIME_LIMIT = 900  # seconds


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A program that runs a model from one file.

    Attributes:
        name: Its name, as in sentences.
        suffix: Suffix of its files.
        packages: Packages from PyPI that the export and its check need.
        worker: Script beside this module that runs a file in a fresh process: ``worker MODEL INPUTS RESULTS``.
        examples: Number of examples in a call; None for any.
    """

    name: str
    suffix: str
    packages: tuple[str, ...]
    worker: str
    examples: int | None = None

    def require(self) -> None:
        """Raise :class:`~tfft.errors.DependencyError` if a package is missing."""
        for package in self.packages:
            if installed_version(package) is None:
                missing_package(package, f"The export of a file for {self.name}", f"pip install {package}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of a file in a fresh process, compared with the Keras model.

    Attributes:
        outputs: Shape and type of each output, by name.
        largest_difference: Largest ``|file - Keras| / (1 + the largest |Keras|)`` of an output.
        agreement: Share of the compared examples whose most probable class is the same as that of the Keras model; None
            if the model is not a classifier.
        examples: Number of compared examples.
        milliseconds: Median time of one example with one thread on this machine.
    """

    outputs: Mapping[str, str]
    largest_difference: float
    agreement: float | None
    examples: int
    milliseconds: float

    def __str__(self) -> str:
        kept = "" if self.agreement is None else f"same class for {self.agreement:.1%} of {self.examples} examples, "
        return (
            f"{kept}largest difference {self.largest_difference:.1e}, "
            f"{self.milliseconds:.1f} ms per example with one thread"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileExport(Comparison):
    """A file that another runtime than TensorFlow runs, and how it compares with the Keras model.

    Attributes:
        path: File.
        size: Size of the file in bytes.
        precision: Type of the numbers inside, such as ``"float32"`` or ``"int8"``.
        inputs: Shape and type of each input, by name.
    """

    path: pathlib.Path
    size: int
    precision: str
    inputs: Mapping[str, str]

    def __str__(self) -> str:
        return f"{self.path}: {self.size / 1e6:.1f} MB, {self.precision}, {super().__str__()}"


def target_file(path: str | os.PathLike[str], runtime: Runtime) -> pathlib.Path:
    """Return the file an export to ``path`` goes to, and refuse one that exists.

    Args:
        path: As the export takes it.
        runtime: What is to run it.

    Raises:
        ExportError: If the suffix is another one, or the file exists.
    """
    target = pathlib.Path(path).expanduser()
    if target.suffix != runtime.suffix:
        raise ExportError(
            f"Expected a file with the suffix {runtime.suffix}. Received: {target}. Use {target}{runtime.suffix}."
        )
    if target.exists():
        raise ExportError(
            f"{target} already exists, and an export never replaces a file. Remove it, or use another name."
        )
    return target


@contextlib.contextmanager
def new_file(target: pathlib.Path, content: bytes) -> Iterator[pathlib.Path]:
    """Write a file under a temporary name; it gets its own where no error was raised.

    Args:
        target: The file; its folder is made.
        content: Bytes of the file.

    Raises:
        ExportError: If it cannot be written, or if a file has appeared in its place.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tfft-export-", dir=target.parent) as scratch:
            written = pathlib.Path(scratch, target.name)
            written.write_bytes(content)
            yield written
            os.link(written, target)  # fails where a file has appeared, and is never half written
    except OSError as error:
        raise ExportError(f"The export to {target} failed: {error}") from error


def fixed_specs(serving: Serving, runtime: Runtime) -> dict[str, tf.TensorSpec]:
    """Return the inputs of a model, for as many examples as a runtime takes.

    Args:
        serving: What the model serves, with images of a fixed size.
        runtime: What is to run the file.

    Raises:
        ExportError: If an input takes texts, or its size is open.
    """
    given = serving.signatures[ARRAY_SIGNATURE].structured_input_signature[1]
    texts = [name for name, spec in given.items() if spec.dtype == tf.string]
    if texts:
        raise ExportError(
            f"{runtime.name} takes numbers, and the input {join_names(texts)} takes texts: {runtime.name} has no "
            "tokenizer. Export a SavedModel with tfft.export instead."
        )
    fixed = {
        name: tf.TensorSpec([runtime.examples, *spec.shape[1:]], spec.dtype, name=name) for name, spec in given.items()
    }
    problems = [
        f"{name} {describe_tensor(spec.dtype, spec.shape)}" for name, spec in given.items() if None in spec.shape[1:]
    ]
    if problems:
        raise ExportError(
            f"{runtime.name} needs inputs of a fixed size. Received: {'; '.join(problems)}. "
            "Build the model with a keras.Input of a fixed shape."
        )
    return fixed


@dataclasses.dataclass(frozen=True)
class Source:
    """What a file is converted from.

    Attributes:
        serving: What the model serves, with images of its size.
        specs: Its inputs by name.
        function: The served function, see :func:`numeric_function`.
        documents: Files inside of the file, by name: the model card, the names of the classes, a vocabulary.
        tokens: The text model that ``serving`` serves from tokens; None for other models.
    """

    serving: Serving
    specs: Mapping[str, tf.TensorSpec]
    function: tf.types.experimental.ConcreteFunction
    documents: Mapping[str, bytes]
    tokens: TokenModel | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """Shape and type of each input, by name."""
        return {name: describe_tensor(spec.dtype, spec.shape) for name, spec in self.specs.items()}


def source_of(
    model: keras.Model,
    runtime: Runtime,
    class_names: Sequence[str] | None,
    card: Mapping[str, object] | None,
    input_spec: InputSpec | None,
) -> Source:
    """Return what to convert; the arguments are those of the exports.

    Raises:
        ExportError: If the model does not fit the runtime.
    """
    tokens = without_tokenizer(model)
    if tokens is not None:
        model = tokens.network
    serving = serving_functions(model, class_names=class_names, input_spec=input_spec, fixed_size=True)
    specs = fixed_specs(serving, runtime)
    documents = {"model_card.md": model_card(model, serving, card).encode()}
    if serving.class_names:
        documents["labels.txt"] = format_lines(serving.class_names).encode()
    if tokens is not None:
        documents |= tokens.files()
    return Source(serving, specs, numeric_function(serving, specs), documents, tokens)


def example_arrays(source: Source, examples: Examples | None, count: int = _CHECKED) -> dict[str, np.ndarray]:
    """Return examples as arrays by input name.

    Args:
        source: What is converted.
        examples: Arrays, arrays by input name, image files, or texts of a text model; None for random numbers, or a
            few sentences.
        count: Largest number of examples.

    Raises:
        ExportError: If they do not fit the inputs.
    """
    serving, specs = source.serving, source.specs
    first = next(iter(specs))
    if source.tokens is not None and not isinstance(examples, Mapping):  # arrays by name are tokens already
        return source.tokens.tokens(None if examples is None else list(examples)[:count])
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


def numeric_function(serving: Serving, specs: Mapping[str, tf.TensorSpec]) -> tf.types.experimental.ConcreteFunction:
    """Return the served function for some inputs, without outputs of strings.

    Args:
        serving: What the model serves.
        specs: Its inputs, from :func:`fixed_specs`.
    """
    served = serving.signatures.get(RAW_SIGNATURE, serving.signatures[ARRAY_SIGNATURE])

    def numbers(**values: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = served(**values)
        return {name: outputs[name] for name in sorted(outputs) if outputs[name].dtype != tf.string}

    return tf.function(numbers, autograph=False).get_concrete_function(**specs)


def compare(
    runtime: Runtime,
    file: pathlib.Path,
    function: tf.types.experimental.ConcreteFunction,
    examples: Mapping[str, np.ndarray],
    tolerance: float | None,
) -> Comparison:
    """Run a file in a fresh process with its runtime alone, and compare it with the Keras model.

    Args:
        runtime: What runs it.
        file: The file.
        function: The function it was converted from.
        examples: Examples, from :func:`example_arrays`.
        tolerance: Largest difference; None for no limit.

    Raises:
        ExportError: If the file does not run, or computes something else.
    """
    results, milliseconds = _run_fresh(runtime, file, examples)
    count = len(next(iter(examples.values())))
    expected: dict[str, list[np.ndarray]] = {}
    for row in range(count):
        for name, value in function(**{n: tf.constant(a[row : row + 1]) for n, a in examples.items()}).items():
            expected.setdefault(name, []).append(value.numpy())
    largest, problems, agreement = 0.0, [], None
    for name, rows in expected.items():
        wanted, found = np.concatenate(rows), results[name]
        if found.shape != wanted.shape or not np.isfinite(found.astype(np.float64)).all():
            problems.append(f"{name}: shape {list(found.shape)} instead of {list(wanted.shape)}, or not finite")
            continue
        scale = 1 + np.max(np.abs(wanted.astype(np.float64)), initial=0.0)
        difference = float(np.max(np.abs(found.astype(np.float64) - wanted), initial=0.0) / scale)
        largest = max(largest, difference)
        if tolerance is not None and difference > tolerance:
            problems.append(f"{name} differs by {difference:.3g} (tolerance {tolerance:g})")
        if name == "probabilities" and wanted.ndim == 2 and wanted.shape[1] > 1:
            agreement = float(np.mean(found.argmax(1) == wanted.argmax(1)))
    if problems:
        raise ExportError(
            f"The file for {runtime.name} does not compute what the Keras model computes: " + "; ".join(problems)
        )
    outputs = {
        name: describe_tensor(tf.as_dtype(rows.dtype), tf.TensorShape([runtime.examples, *rows.shape[1:]]))
        for name, rows in results.items()
    }
    return Comparison(
        outputs=outputs,
        largest_difference=largest,
        agreement=agreement,
        examples=count,
        milliseconds=milliseconds,
    )


def _run_fresh(
    runtime: Runtime, file: pathlib.Path, examples: Mapping[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], float]:
    script = pathlib.Path(__file__).with_name(runtime.worker)
    inputs, results = file.with_name("inputs.npz"), file.with_name("results.npz")
    np.savez(inputs, allow_pickle=False, **dict(examples))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    command = [sys.executable, "-P", str(script), str(file), str(inputs), str(results)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"The file could not be checked in a fresh process: {error}") from error
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ExportError(f"The file does not run in a fresh process with {runtime.name} alone. Its output:\n{last}")
    with np.load(results, allow_pickle=False) as stored:
        values = {name: stored[name] for name in stored.files}
    return values, float(values.pop("_milliseconds"))
