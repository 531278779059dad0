"""Parity check of a written SavedModel against the Keras model.

Implementation notes: the SavedModel runs in a fresh Python process that can import neither Keras nor tfft, on given or
random examples: the whole batch, its rows in reverse order, and one row alone. A server batches requests of different
callers, so a row must not depend on the others.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfft.backbones.text_ops import ops_of, text_libraries
from tfft.console.output import quiet_loggers
from tfft.console.profile import stage
from tfft.errors import ExportError, raise_problems
from tfft.exporting.loader import ARRAY_SIGNATURE, BYTES_SIGNATURE, EncodedInput
from tfft.exporting.signatures import Serving

Examples = np.ndarray | Mapping[str, np.ndarray] | Sequence[bytes | str | os.PathLike]

_TIME_LIMIT = 600  # seconds; loading takes a few, a large model on a busy machine a minute
_MAX_EXAMPLES = 16
_MAX_PROBLEMS = 6
_RANDOM_SIZES = ((40, 56), (96, 64))  # taller, wider, smaller and larger than what models take


@dataclasses.dataclass(frozen=True)
class Trial:
    """One call of a signature with its expected outputs."""

    what: str
    signature: str
    inputs: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]

    def rows(self, order: Sequence[int], what: str) -> Trial:
        """Return the trial with some of its rows, in another order."""
        pick = list(order)
        inputs = {name: value[pick] for name, value in self.inputs.items()}
        return Trial(what, self.signature, inputs, {name: value[pick] for name, value in self.expected.items()})


class FreshProcess:
    """A Python process with TensorFlow and without Keras and tfft, which runs a SavedModel.

    Use it as a context around writing the model, or already around a short training: the process imports TensorFlow
    meanwhile.

    Example:
        >>> with FreshProcess() as process:
        ...     write(folder)
        ...     results = process.run(folder, [], [("serving_default", {"images": images})])
    """

    def __enter__(self) -> FreshProcess:
        self._scratch = tempfile.TemporaryDirectory(prefix="tfft-check-")
        try:
            self._process = start_worker(self._scratch.name)
        except OSError as error:
            self._scratch.cleanup()
            raise _not_checked(error) from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._scratch.cleanup()

    def run(
        self, folder: pathlib.Path, libraries: Sequence[str], calls: list[tuple[str, dict[str, np.ndarray]]]
    ) -> list[dict[str, np.ndarray]]:
        """Load a SavedModel and call its signatures; once for each process.

        Args:
            folder: Folder of the SavedModel.
            libraries: Files that define further operations.
            calls: Names of signatures, with their inputs by name.

        Returns:
            The outputs of each call, by name.

        Raises:
            ExportError: If the process fails.
        """
        calls_path, results_path = (pathlib.Path(self._scratch.name, name) for name in ("calls", "results"))
        calls_path.write_bytes(pickle.dumps(calls))
        job = {"model": os.path.abspath(folder), "calls": str(calls_path), "results": str(results_path)}
        if self._process.poll() is not None:  # stopped while it waited, such as by an interrupt from the keyboard
            self._process.communicate()
            self._process = start_worker(self._scratch.name)
        try:
            _, said = self._process.communicate(
                json.dumps({**job, "libraries": list(libraries)}) + "\n", timeout=_TIME_LIMIT
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _not_checked(error) from error
        if self._process.returncode != 0:
            last = "\n".join(said.strip().splitlines()[-5:])
            raise ExportError(
                "The exported model does not run in a fresh process with TensorFlow alone "
                f"(exit code {self._process.returncode}). Its output:\n{last}"
            )
        return pickle.loads(results_path.read_bytes())


WORKER = pathlib.Path(__file__).with_name("parity_worker.py")


def worker_environment() -> dict[str, str]:
    """Return the environment variables for the script that runs a SavedModel: no GPU, and few messages."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    return {**given, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}


def start_worker(folder: str) -> subprocess.Popen[str]:
    """Start the script that runs a SavedModel, in a folder."""
    return subprocess.Popen(
        [sys.executable, "-P", str(WORKER)], env=worker_environment(), cwd=folder, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def _not_checked(error: Exception) -> ExportError:
    return ExportError(f"The exported model could not be checked in a fresh process: {error}")


@stage("check the export in a fresh process")
def check(
    folder: pathlib.Path, serving: Serving, examples: Examples | None, tolerance: float, process: FreshProcess
) -> float:
    """Run a SavedModel in a fresh process and compare it with the Keras model.

    Args:
        folder: Folder of the SavedModel.
        serving: Its functions and their reference.
        examples: Examples for the check: image arrays, arrays by input name, or image files (paths or contents).
        tolerance: Maximum ``|served - expected| / (1 + the largest |expected|)``.
        process: Process to run it in.

    Returns:
        The largest difference found, in the same measure.

    Raises:
        ExportError: If an output differs or is not finite, or if the process fails.
    """
    with quiet_loggers("tensorflow"):  # several batch shapes in a row: Keras would advise against the retracing
        trials = _with_other_orders(_trials(serving, examples), serving)
    libraries = text_libraries(ops_of(serving.signatures), "The exported model")
    results = process.run(folder, libraries, [(trial.signature, dict(trial.inputs)) for trial in trials])
    problems, largest = [], 0.0
    for trial, outputs in zip(trials, results, strict=True):
        found, difference = _compare(trial, outputs, tolerance, serving.tolerances)
        problems += found
        largest = max(largest, difference)
    title = f"The exported model does not compute what model.predict computes (tolerance {tolerance:g})"
    raise_problems(ExportError, title, problems, limit=_MAX_PROBLEMS)
    return largest


def _trials(serving: Serving, examples: Examples | None) -> list[Trial]:
    specs = serving.signatures[ARRAY_SIGNATURE].structured_input_signature[1]
    first, encoded = next(iter(specs)), serving.encoded
    files = _files(serving, examples)
    samples = {} if serving.serving_input is None else serving.serving_input.samples
    arrays = [(what, dict.fromkeys(specs, rows)) for what, rows in samples.items()]
    if examples is not None and not files:
        given = examples if isinstance(examples, Mapping) else {first: examples}
        arrays.append(("the examples", {name: _array(given[name], spec) for name, spec in specs.items()}))
    arrays = arrays or _random_arrays(specs)
    trials = []
    if encoded is not None:
        files = files or encoded.encode([row for _, values in arrays for row in next(iter(values.values()))])
        decoded, expected = _of_files(serving, encoded, first, files)
        arrays.append((f"{len(files)} decoded files", decoded))
        contents = {encoded.name: np.array(files, dtype=object)}
        what = f"{BYTES_SIGNATURE} on {len(files)} files"
        trials.append(Trial(what, BYTES_SIGNATURE, contents, expected))
    for what, values in arrays:
        trials.append(Trial(f"{ARRAY_SIGNATURE} on {what}", ARRAY_SIGNATURE, values, serving.reference(values)))
    return trials


def _of_files(
    serving: Serving, encoded: EncodedInput, name: str, files: Sequence[bytes]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the decoded contents of files as the model's input, and the answer that they should get."""
    contents = [tf.constant(one) for one in files]
    decoded = {name: np.stack([encoded.prepare(encoded.decode(one)).numpy() for one in contents])}
    if not serving.sized or encoded.size is None:
        return decoded, serving.reference(decoded)
    return decoded, serving.reference(decoded, np.stack([encoded.size(one).numpy() for one in contents]))


def _with_other_orders(trials: Sequence[Trial], serving: Serving) -> list[Trial]:
    every = list(trials)
    for trial in trials:
        count = len(next(iter(trial.inputs.values())))
        if count > 1:
            every.append(trial.rows(range(count)[::-1], f"{trial.what}, rows in reverse order"))
            alone = trial.rows([count - 1], f"{trial.what}, the last row alone")
            if trial.signature == ARRAY_SIGNATURE and _has_open_length(serving):  # alone, a row may be shorter
                alone = dataclasses.replace(alone, expected=serving.reference(alone.inputs))
            elif trial.signature == BYTES_SIGNATURE and serving.sized and (encoded := serving.encoded) is not None:
                first = next(iter(serving.signatures[ARRAY_SIGNATURE].structured_input_signature[1]))
                _, expected = _of_files(serving, encoded, first, alone.inputs[encoded.name].tolist())
                alone = dataclasses.replace(alone, expected=expected)
            every.append(alone)
    return every


def _has_open_length(serving: Serving) -> bool:
    """Whether the length of an output depends on the longest row, as with words or waveforms."""
    shapes = [tensor.shape for tensor in serving.signatures[ARRAY_SIGNATURE].structured_outputs.values()]
    return any(shape.rank is not None and shape.rank > 1 and shape[1] is None for shape in shapes)


def _files(serving: Serving, examples: Examples | None, count: int = _MAX_EXAMPLES) -> list[bytes]:
    """Return the contents of the first examples if they are files; an empty list if they are arrays."""
    if serving.encoded is None or examples is None or isinstance(examples, (Mapping, np.ndarray)):
        return []
    chosen = list(examples)[:count]
    if not all(isinstance(one, (bytes, str, os.PathLike)) for one in chosen):
        return []
    try:
        return [one if isinstance(one, bytes) else pathlib.Path(one).read_bytes() for one in chosen]
    except OSError as error:
        raise ExportError(f"An example for the check cannot be read: {error}") from error


def decoded_files(serving: Serving, files: Sequence[bytes | str | os.PathLike]) -> np.ndarray:
    """Return the contents of files as rows of the model's input.

    Args:
        serving: Functions of the model.
        files: Paths or contents.

    Raises:
        ExportError: If the model takes no files, or a file cannot be read.
    """
    encoded, contents = serving.encoded, _files(serving, files, len(files))
    if encoded is None or not contents:
        raise ExportError("Expected arrays, since the model takes no files.")
    return np.stack([encoded.prepare(encoded.decode(tf.constant(one))).numpy() for one in contents])


def random_arrays(specs: Mapping[str, tf.TensorSpec], rows: int) -> dict[str, np.ndarray]:
    """Return random rows for inputs, which are equal in every call.

    Args:
        specs: Inputs by name; their first axis is the batch.
        rows: Number of rows.
    """
    generator = np.random.default_rng(0)
    return {name: _random_array(spec, rows, _RANDOM_SIZES[0], generator) for name, spec in specs.items()}


def _array(values: Any, spec: tf.TensorSpec) -> np.ndarray:
    return np.asarray(values[:_MAX_EXAMPLES]).astype(spec.dtype.as_numpy_dtype)


def _random_arrays(specs: Mapping[str, tf.TensorSpec]) -> list[tuple[str, dict[str, np.ndarray]]]:
    generator = np.random.default_rng(0)
    open_sizes = any(spec.shape.rank == 4 and None in spec.shape[1:3] for spec in specs.values())
    batches = []
    for rows, size in zip((3, 2), _RANDOM_SIZES, strict=True):
        values = {name: _random_array(spec, rows, size, generator) for name, spec in specs.items()}
        batches.append((f"random inputs {', '.join(str(list(value.shape)) for value in values.values())}", values))
    return batches if open_sizes else batches[:1]


def _random_array(spec: tf.TensorSpec, rows: int, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    free = iter(size if spec.shape.rank == 4 else (16,) * 8)  # other open dimensions are lengths: alike in every input
    shape = (rows, *(next(free) if n is None else n for n in spec.shape[1:]))
    return _RANDOM.get(spec.dtype, _random_numbers)(spec.dtype, shape, generator)


def _random_strings(dtype: tf.DType, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    words = np.array([b"a short example", b"another one, longer than the first", b"three"], dtype=object)
    return generator.choice(words, shape)


def _random_bytes(dtype: tf.DType, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    return generator.integers(0, 256, shape, np.uint8)


def _random_numbers(dtype: tf.DType, shape: Sequence[int], generator: np.random.Generator) -> np.ndarray:
    if dtype.is_integer or dtype.is_bool:  # ids and masks: 0 and 1 are valid in both
        values = generator.integers(0, 2, shape)
        values[..., :1] = 1  # a mask must not hide everything
        return values.astype(dtype.as_numpy_dtype)
    return generator.random(shape).astype(dtype.as_numpy_dtype)


_RANDOM = {tf.string: _random_strings, tf.uint8: _random_bytes}


def _compare(
    trial: Trial, outputs: Mapping[str, np.ndarray], tolerance: float, looser: Mapping[str, float]
) -> tuple[list[str], float]:
    problems, largest = [], 0.0
    for name, expected in trial.expected.items():
        served = outputs.get(name)
        if served is None or served.shape != expected.shape:
            shape = "nothing" if served is None else list(served.shape)
            problems.append(f"{trial.what}: output {name!r} has the shape {shape}, expected {list(expected.shape)}")
        elif expected.dtype.kind in "fc":
            if not (np.isfinite(expected).all() and np.isfinite(served).all()):
                problems.append(f"{trial.what}: output {name!r} is not finite")
                continue
            wanted = expected.astype(np.float64)
            # A small number beside large ones was summed from large terms and is rounded like those.
            scale = 1 + np.max(np.abs(wanted), initial=0.0)
            difference = float(np.max(np.abs(served - wanted), initial=0.0) / scale)
            largest = max(largest, difference) if name not in looser else largest
            if not difference <= max(tolerance, looser.get(name, tolerance)):
                problems.append(f"{trial.what}: output {name!r} differs by {difference:.3g}")
        else:
            wrong = served != expected
            if wrong.any():
                wrong &= ~_near_ties(trial.expected, served, tolerance)
            if wrong.any():
                problems.append(
                    f"{trial.what}: output {name!r} differs at {int(wrong.sum())} of {wrong.size} positions"
                )
    return problems, largest


def _near_ties(expected: Mapping[str, np.ndarray], served: np.ndarray, tolerance: float) -> np.ndarray:
    """Return where the probabilities are so close to a tie that either label is correct within the tolerance."""
    probabilities = expected.get("probabilities")
    if probabilities is not None and (probabilities.ndim, served.ndim) == (4, 3):  # one class for each pixel
        sizes = expected.get("size", np.tile(served.shape[1:], (len(served), 1)))
        ties = np.zeros(served.shape, bool)
        for at, (rows, columns) in enumerate(sizes.tolist()):  # one at a time: large images take much memory
            ties[at, :rows, :columns] = _pixel_ties(probabilities[at : at + 1], (rows, columns), tolerance)[0]
        return ties
    if probabilities is None or probabilities.ndim != 2 or probabilities.shape[1] < 1:
        return np.zeros(served.shape, bool)
    if served.shape == probabilities.shape:  # one yes or no for each label
        return np.abs(probabilities - 0.5) <= tolerance
    if served.ndim == 1 and probabilities.shape[1] > 1:
        top = np.sort(probabilities, axis=1)[:, -2:]
        return top[:, 1] - top[:, 0] <= 2 * tolerance
    return np.zeros(served.shape, bool)


def _pixel_ties(probabilities: np.ndarray, size: tuple[int, int], tolerance: float) -> np.ndarray:
    """Return where two classes of a pixel are so close that either is correct, for masks larger than probabilities.

    Masks come from enlarged logits. Logarithms of probabilities differ from logits by one number per cell, the same for
    all classes, so the differences between classes are equal, also after enlarging.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
    large = tf.image.resize(logits, size, "bilinear").numpy()
    top = np.sort(large, axis=-1)[..., -2:]
    return top[..., 1] - top[..., 0] <= 2 * tolerance * (1 + np.abs(logits).max())
