"""Keras models through LiteRT: converted with constants for variables, run by one interpreter per core.

Hides the conversion and its noise, how work is cut into pieces for the interpreters, and that variables
have to be constants before converting: otherwise reading them stays in the graph, BatchNorm is not folded
into the convolutions, and the result is slower than TensorFlow.
"""

from __future__ import annotations

import contextlib
import logging
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

from tfft.errors import installed_version
from tfft.keras_compat import with_constants

PACKAGE = "ai-edge-litert"
_MEMORY = 2 * 2**30  # bytes that the weights of all interpreters together may take
_LARGE = 2e-3  # seconds for one example on one core, beyond which calls with more than one gain nothing
_LOCK = threading.Lock()


class Unfit(Exception):
    """LiteRT cannot run this model; the message says why. Never leaves tfft.features."""


def version() -> str | None:
    """Return the version of the installed package, or None."""
    return installed_version(PACKAGE)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def trace(model: keras.Model, shapes: Sequence[Sequence[int | None]]) -> tf.types.experimental.ConcreteFunction:
    """Trace a functional model in inference as a function of a flat list of tensors.

    Args:
        model: functional.
        shapes: of its inputs.
    """
    pairs = zip(model.inputs, shapes, strict=True)
    specs = [tf.TensorSpec(shape, t.dtype, name=f"input_{i}") for i, (t, shape) in enumerate(pairs)]

    def infer(*tensors: tf.Tensor) -> list[tf.Tensor]:
        values = keras.tree.pack_sequence_as(model.input, list(tensors))
        return keras.tree.flatten(model(values, training=False))

    return tf.function(infer, autograph=False, input_signature=specs).get_concrete_function()


def convert(model: keras.Model, shapes: Sequence[Sequence[int | None]]) -> bytes:
    """Convert a model to LiteRT's format in float32, without a word on the terminal.

    Args:
        model: functional.
        shapes: of its inputs; only the first axis, the batch, may be None.

    Raises:
        Unfit: with the reason.
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
    """Return what an error of TensorFlow says, without the places in the code that it names."""
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
    """Keep the converter's and the interpreter's own messages, which are written in C++, off the terminal."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    with _LOCK, contextlib.ExitStack() as stack:
        sys.stderr.flush()
        try:
            kept = os.dup(2)
        except OSError:  # there is no standard error to keep quiet
            yield
            return
        stack.callback(os.close, kept)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        os.dup2(nowhere, 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


class _Interpreter:
    """One LiteRT interpreter, which sizes itself to what it is given."""

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

    One interpreter with all cores leaves them waiting for each other at every small layer; so each core
    gets an interpreter, unless the weights are too large to be held so many times.

    Args:
        content: from :func:`convert`.
    """

    def __init__(self, content: bytes) -> None:
        count = max(1, min(cores(), _MEMORY // max(1, len(content))))
        self.workers, self.threads = count, max(1, cores() // count)
        self._free: queue.SimpleQueue[_Interpreter] = queue.SimpleQueue()
        with quiet():
            for _ in range(count):
                self._free.put(_Interpreter(content, self.threads))
        self._executor = ThreadPoolExecutor(count, thread_name_prefix="tfft-litert")
        self._chunk: int | None = None

    def submit(self, arrays: Sequence[np.ndarray]) -> Callable[[], list[np.ndarray]]:
        """Start on a batch and return a function that waits for its result.

        Args:
            arrays: one for each input of the model, with the examples along the first axis.
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
        """Measure on the first batch how many examples per call are fastest: large images 1, tiny ones many."""
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
