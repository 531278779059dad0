"""LiteRT inference of Keras models: conversion with constant variables, one interpreter per core.

Implementation notes: variables must be constants before converting: otherwise the graph keeps reading them, BatchNorm
is not folded into the convolutions, and the result is slower than TensorFlow.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import keras
import numpy as np
import tensorflow as tf

from tfft.console.output import quiet_loggers
from tfft.errors import installed_version
from tfft.io.processors import usable_cores
from tfft.keras_compat import with_constants

PACKAGE = "ai-edge-litert"
_MEMORY = 2 * 2**30  # maximum bytes for the weights of all interpreters
_LARGE = 2e-3  # seconds for one example on one core, above which batching gains nothing
_LOCK = threading.Lock()


class Unfit(Exception):
    """LiteRT cannot run this model; the message has the reason. Never leaves tfft.features."""


def version() -> str | None:
    """Return the version of the installed package, or None."""
    return installed_version(PACKAGE)


def trace(model: keras.Model, shapes: Sequence[Sequence[int | None]]) -> tf.types.experimental.ConcreteFunction:
    """Trace a functional model in inference as a function of a flat list of tensors.

    Args:
        model: Functional model.
        shapes: Shapes of its inputs.
    """
    pairs = zip(model.inputs, shapes, strict=True)
    specs = [tf.TensorSpec(shape, t.dtype, name=f"input_{i}") for i, (t, shape) in enumerate(pairs)]

    def infer(*tensors: tf.Tensor) -> list[tf.Tensor]:
        values = keras.tree.pack_sequence_as(model.input, list(tensors))
        return keras.tree.flatten(model(values, training=False))

    return tf.function(infer, autograph=False, input_signature=specs).get_concrete_function()


def convert(model: keras.Model, shapes: Sequence[Sequence[int | None]]) -> bytes:
    """Convert a model to LiteRT's format in float32, without terminal output.

    Args:
        model: Functional model.
        shapes: Shapes of its inputs; only the first axis, the batch, may be None.

    Raises:
        Unfit: If conversion fails, with the reason.
    """
    try:
        with quiet():
            frozen = with_constants(trace(model, shapes))
            _check_types(frozen.graph)
            return bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
    except Unfit:
        raise
    except Exception as error:  # the converter has no error class of its own
        raise Unfit(f"the conversion failed: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return the message of a TensorFlow error without code locations."""
    text = re.sub(r"\S+:\d+:\d+: error:", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _check_types(graph: tf.Graph) -> None:
    for op in graph.get_operations():
        for tensor in op.outputs:
            if tensor.dtype in (tf.float16, tf.bfloat16, tf.float64):
                raise Unfit(f"it computes in {tensor.dtype.name}, and only float32 is converted")
            if tensor.dtype in (tf.resource, tf.variant):
                raise Unfit("it reads something that cannot be made a constant, such as a lookup table")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages of the converter and the interpreter, which are written in C++."""
    with _LOCK, contextlib.ExitStack() as stack:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # there is no standard error
            yield
            return
        stack.callback(os.close, kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        stack.enter_context(quiet_loggers("absl", "tensorflow"))
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)


class _Interpreter:
    """LiteRT interpreter that resizes itself to its inputs."""

    def __init__(self, content: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(model_content=content, num_threads=threads)
        details = self._interpreter.get_input_details()
        # The converter orders the inputs as it likes and leaves out those that nothing reads.
        self._inputs = {int(d["name"].split(":")[0].rpartition("_")[2]): d["index"] for d in details}
        self._outputs = [d["index"] for d in self._interpreter.get_output_details()]
        self._interpreter.allocate_tensors()  # says what it does, so here, while that is not shown
        self._shapes: list[tuple[int, ...]] = []

    def __call__(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        shapes = [a.shape for a in arrays]
        if shapes != self._shapes:
            for position, index in self._inputs.items():
                self._interpreter.resize_tensor_input(index, shapes[position])
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for position, index in self._inputs.items():
            self._interpreter.set_tensor(index, arrays[position])
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


class Pool:
    """Interpreters of one model, one per core, that share the examples of each batch.

    A single interpreter with all cores synchronizes them at every small layer; so each core has its own interpreter,
    unless the weights are too large for that many copies.

    Args:
        content: Converted model from :func:`convert`.
    """

    def __init__(self, content: bytes) -> None:
        count = max(1, min(usable_cores(), _MEMORY // max(1, len(content))))
        self.workers, self.threads = count, max(1, usable_cores() // count)
        self._free: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        with quiet():
            for _ in range(count):
                self._free.put(_Interpreter(content, self.threads))
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="tfft-litert")
        self._chunk: int | None = None

    def submit(self, arrays: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """Start on a batch and return a function that waits for its result.

        Args:
            arrays: One array per model input, with the examples along the first axis.
        """
        if self._chunk is None:
            self._chunk = self._fastest_chunk(arrays)
        futures = self._start(arrays, self._chunk)

        def result() -> list[np.ndarray]:
            parts = [future.result() for future in futures]
            return [np.concatenate(column) for column in zip(*parts, strict=True)]

        return result

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def _start(self, arrays: Sequence[np.ndarray], chunk: int) -> list[Future[list[np.ndarray]]]:
        arrays = [np.ascontiguousarray(a) for a in arrays]
        starts = range(0, len(arrays[0]), chunk)
        return [self._executor.submit(self._one, [a[s : s + chunk] for a in arrays]) for s in starts]

    def _one(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        interpreter = self._free.get()
        try:
            return interpreter(arrays)
        finally:
            self._free.put(interpreter)

    def _fastest_chunk(self, arrays: Sequence[np.ndarray]) -> int:
        """Measure the fastest number of examples per call on the first batch: 1 for large images, more for small
        ones."""
        few = [a[: self.workers] for a in arrays]
        if self._best_time(few, 1) > _LARGE:
            return 1
        share = -(-len(arrays[0]) // self.workers)
        times = {chunk: self._best_time(arrays, chunk) for chunk in sorted({1, min(8, share), share})}
        return min(times, key=lambda chunk: times[chunk])

    def _best_time(self, arrays: Sequence[np.ndarray], chunk: int) -> float:
        best = float("inf")
        for _ in range(3):  # the first sizes the interpreters
            start = time.perf_counter()
            for future in self._start(arrays, chunk):
                future.result()
            best = min(best, time.perf_counter() - start)
        return best
