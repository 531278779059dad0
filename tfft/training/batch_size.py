"""Search for a batch size on this machine: :func:`find_batch_size`.

Implementation notes: the search measures memory and time of real training steps, then restores the model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.table import Table

from tfft.console.tables import render
from tfft.errors import DataError, PlanError, raise_problems
from tfft.freezing.weight_values import restored
from tfft.training.microbatch import check_plain

MARGIN = 0.8  # of the available memory: input pipeline, evaluation and other programs need some too
CLOSE = 1.1  # a batch is as good as the fastest if an example takes at most this much longer
_CAP, _BLIND_CAP = 1024, 32  # no batch beyond this is looked at unless asked for; where memory cannot be measured
_STEPS, _SECONDS = 4, 2.0  # steps per trial, the first of which is not timed, and when a trial ends before that
_MB = 2**20


@dataclasses.dataclass(frozen=True)
class Trial:
    """Trial of one batch size.

    Attributes:
        size: Examples per step.
        seconds: Seconds per example, the best of the timed steps; None if the step did not fit.
        megabytes: Peak memory of tensors on the device during the steps; None if unknown.
    """

    size: int
    seconds: float | None
    megabytes: float | None


@dataclasses.dataclass(frozen=True)
class BatchSize:
    """Result of :func:`find_batch_size`; ``print`` shows the trials and the choice.

    Attributes:
        size: Chosen size.
        largest: Largest power of two that fits: tried or, on a CPU, extrapolated from the trials.
        trials: Trials in the order of size.
        reason: Reason for the choice.
    """

    size: int
    largest: int
    trials: tuple[Trial, ...]
    reason: str

    def __str__(self) -> str:
        table = Table(title=f"batch size {self.size}", title_justify="left")
        for name in ("batch size", "ms per example", "MB at most"):
            table.add_column(name, justify="right")
        for trial in self.trials:
            speed = "does not fit" if trial.seconds is None else f"{trial.seconds * 1e3:.2f}"
            memory = "?" if trial.megabytes is None else f"{trial.megabytes:,.0f}"
            table.add_row(str(trial.size), speed, memory, style="bold" if trial.size == self.size else None)
        return render(table, self.reason)


def find_batch_size(
    model: keras.Model, examples: Any, *, start: int = 8, limit: int | None = None, memory: float | None = None
) -> BatchSize:
    """Return a batch size for training a model on this machine, from real training steps of growing size.

    Use it before training. The result is not the largest batch that fits: above some size, a larger batch only means
    fewer steps on the same examples, and more memory. The choice is the smallest power of two that takes at most 10 %
    longer per example than the fastest. The largest that fits is in the result, for recipes that need a certain large
    batch; for one that does not fit, see :func:`tfft.training.microbatched`.

    The first trial is one example. Then sizes double until two doublings in a row have not made an example 5 % faster,
    or, on a GPU, until a step does not fit. On a CPU the system kills a process that takes too much memory, so a size
    is only tried if linear extrapolation of the last two trials stays within ``memory``.

    Afterwards the weights, the statistics of BatchNormalization, the seeds of the layers, the optimizer and the metrics
    are unchanged, bit for bit: a copy of the optimizer makes the steps, and their changes to the model are undone, also
    after an error.

    Args:
        model: Functional or sequential model, compiled, with the trainable set of the training.
        examples: Dataset of batches, of which the first is used, or a batch: (inputs, labels) or (inputs, labels,
            sample weights). They are repeated to make larger batches.
        start: First size to try after one example.
        limit: Largest size to try. Defaults to 1024, or to 32 on a CPU if memory cannot be measured (TensorFlow without
            oneDNN, or not on Linux without ``memory``). Never more than the number of examples, if known.
        memory: Megabytes that tensors may take. Defaults to all of a GPU, and on a CPU to the current use plus 80 % of
            the available memory. On a CPU it needs oneDNN, which some have only with ``TF_ENABLE_ONEDNN_OPTS=1``.

    Returns:
        The size, the trials and the reason.

    Raises:
        PlanError: If the model is not compiled or has its own training step, a setting is not positive, not even one
            example fits, or ``memory`` is given and TensorFlow cannot measure it.
        DataError: If there is no example.

    Example:
        >>> model.compile("adam", **tfft.heads.from_model(model).compile_args())
        >>> found = tfft.training.find_batch_size(model, training)
        >>> print(found)
        >>> training = training.unbatch().batch(found.size)
    """
    _check(model, start, limit, memory)
    rows, known = _rows(examples)
    meter = _Meter(memory)
    if memory is not None and meter.blind:
        raise PlanError(
            f"Expected a device whose memory TensorFlow counts, for memory={memory!r}. Received: a CPU without oneDNN. "
            "Set TF_ENABLE_ONEDNN_OPTS=1 before TensorFlow is imported, or use limit= in place of memory=."
        )
    highest = limit or (max(_BLIND_CAP, start) if meter.blind else _CAP)
    highest = min(highest, known or highest)
    with restored(model):
        search = _Search(_copy(model), rows, meter, _power_of_two(highest))
        search.run(start)
    return search.result(known)


def choose(trials: Sequence[Trial]) -> Trial:
    """Return the smallest trial that takes at most 10 % longer per example than the fastest.

    Args:
        trials: Trials in the order of size; those that did not fit are ignored.
    """
    ran = [t for t in trials if t.seconds is not None]
    return next(t for t in ran if _seconds(t) <= CLOSE * min(map(_seconds, ran)))


def _seconds(trial: Trial) -> float:
    """Return seconds per example, infinite if the step did not fit."""
    return math.inf if trial.seconds is None else trial.seconds


def _check(model: keras.Model, start: int, limit: int | None, memory: float | None) -> None:
    check_plain(model, "tried with several batch sizes")
    problems = []
    if not model.compiled:
        problems.append("the model is not compiled: time and memory depend on the loss and the optimizer")
    elif not model.trainable_weights:
        problems.append("nothing in the model trains")
    for name, value in (("start", start), ("limit", limit)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            problems.append(f"{name} must be an int of at least 1, received {value!r}")
    if memory is not None and not memory > 0:
        problems.append(f"memory must be a number of megabytes above 0, received {memory!r}")
    raise_problems(PlanError, "No batch size can be found", problems)


def _rows(examples: Any) -> tuple[Any, int | None]:
    """Return some examples, and the total number if known."""
    known = None
    if isinstance(examples, tf.data.Dataset):
        batches = int(examples.cardinality())
        examples = next(iter(examples.take(1)), None)
        if examples is not None and batches > 0:
            known = batches * len(keras.tree.flatten(examples)[0])
    elif not isinstance(examples, tuple) or len(examples) not in (2, 3):
        raise DataError(f"Expected a dataset of batches, or (inputs, labels). Received: {type(examples).__name__}.")
    flat = [] if examples is None else keras.tree.flatten(examples)
    if not flat or not len(flat[0]):
        raise DataError("Expected at least one batch. Received: none. With drop_remainder, small data gives no batch.")
    return keras.tree.map_structure(tf.convert_to_tensor, examples), known


def _power_of_two(number: int) -> int:
    return 2 ** int(math.log2(number))


# ---------------------------------------------------------------------- the model


def _copy(model: keras.Model) -> keras.Model:
    """Return a model with the same layers and its own optimizer, so that the model's optimizer is unchanged."""
    twin = keras.Model(model.input, model.output, name=model.name)
    twin.dtype_policy = model.dtype_policy
    optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
    twin.compile(optimizer, model.loss, jit_compile=model.jit_compile, run_eagerly=model.run_eagerly)
    return twin


class _Clock(keras.callbacks.Callback):
    """Timer of steps, except the first, which traces and compiles."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        float((logs or {})["loss"])  # waits for the GPU
        if batch:
            self.times.append(time.perf_counter() - self._began)
        self.model.stop_training = sum(self.times) > _SECONDS


class _Search:
    """State of the search: trials and their evaluation."""

    def __init__(self, twin: keras.Model, rows: Any, meter: _Meter, highest: int) -> None:
        self._twin, self._rows, self._meter, self._highest = twin, rows, meter, highest
        self._base = meter.start()
        self.trials: list[Trial] = []

    def run(self, start: int) -> None:
        """Try one example, then powers of two from ``start`` on."""
        self._try(1)
        following = min(_power_of_two(start), self._highest)
        idle = 0
        while idle < 2:
            done = self._ran[-1].size
            while following > done and not self._fits(following):
                following //= 2
            if following <= done:
                return
            before = min(map(_seconds, self._ran))
            self._try(following)
            last = self.trials[-1].seconds
            if last is None:
                self._highest = following // 2
            else:
                idle = 0 if last < 0.95 * before else idle + 1
            following = min(2 * following, self._highest)

    @property
    def _ran(self) -> list[Trial]:
        return [t for t in self.trials if t.seconds is not None]

    def _try(self, size: int) -> None:
        count = len(keras.tree.flatten(self._rows)[0])

        def take(positions: tf.Tensor) -> Any:
            return keras.tree.map_structure(lambda t: tf.gather(t, positions % count), self._rows)

        # Batched by tf.data, so that the number of examples is open and the step is traced once for all sizes.
        data = tf.data.Dataset.range(size * _STEPS).batch(size).map(take)
        clock = _Clock()
        self._meter.start()
        try:
            self._twin.fit(data, verbose=0, shuffle=False, callbacks=[clock])
        except tf.errors.ResourceExhaustedError as error:
            if size == 1:
                raise PlanError(
                    "Not even a batch of one example fits into memory. Freeze more blocks, or use smaller inputs."
                ) from error
            self.trials.append(Trial(size, None, None))
            return
        self.trials.append(Trial(size, min(clock.times) / size, self._meter.peak()))

    def _expected(self, size: int) -> float | None:
        """Extrapolate the megabytes of a size linearly."""
        tried = [(t.size, t.megabytes) for t in self._ran if t.megabytes is not None]
        if not tried:
            return None
        (first, less), (last, more) = ((0, self._base or 0.0), tried[0]) if len(tried) == 1 else tried[-2:]
        slope = max((more - less) / (last - first), 0.0)
        return more + slope * (size - last)

    def _fits(self, size: int) -> bool:
        expected, allowed = self._expected(size), self._meter.allowed
        return expected is None or allowed is None or expected <= allowed

    def result(self, known: int | None) -> BatchSize:
        """Choose."""
        failed = [t.size for t in self.trials if t.seconds is None]
        ran = self._ran[1:] or self._ran  # one example is tried for its memory
        fastest, chosen = min(ran, key=_seconds), choose(ran)
        largest = ran[-1].size
        if self._meter.allowed is not None and self._base is not None:
            while 2 * largest <= self._highest and self._fits(2 * largest):
                largest *= 2
        reason = f"{chosen.size} is the smallest size within {CLOSE - 1:.0%} of the fastest, {fastest.size}"
        reason += f" ({_seconds(chosen) * 1e3:.3g} and {_seconds(fastest) * 1e3:.3g} ms per example)"
        reason = f"{chosen.size} is the fastest size" if chosen is fastest else reason
        reason += f". The largest that fits is {largest}: "
        if failed:
            reason += f"{min(failed)} did not."
        elif largest == self._highest:
            reason += "larger sizes were not tried"
            reason += f", there are {known} examples." if known and known < 2 * largest else "."
        elif self._meter.allowed is None or self._base is None:
            reason += "larger sizes were not tried, as they would not be faster; memory was not measured."
        else:
            expected = self._expected(2 * largest)
            reason += f"{2 * largest} would take about {expected:,.0f} MB of the {self._meter.allowed:,.0f} allowed."
        return BatchSize(chosen.size, largest, tuple(sorted(self.trials, key=lambda t: t.size)), reason)


# --------------------------------------------------------------------- the memory


class _Meter:
    """Memory statistics of TensorFlow's allocator for the training device.

    The size of the process is not a substitute: TensorFlow does not return memory, so a second model in the same
    process would seem to take none.
    """

    def __init__(self, memory: float | None) -> None:
        self.on_gpu = bool(tf.config.get_visible_devices("GPU"))
        self._device = "GPU:0" if self.on_gpu else "CPU:0"
        current = self.start()
        self.allowed = memory
        if not self.on_gpu and memory is None and current is not None:
            with contextlib.suppress(OSError):  # systems that do not tell
                self.allowed = current + MARGIN * available_memory()

    @property
    def blind(self) -> bool:
        """Whether a step that does not fit would end the process without a warning."""
        return not self.on_gpu and (self.allowed is None or self.peak() is None)

    def start(self) -> float | None:
        """Start a new peak, and return the megabytes in use."""
        gc.collect()
        with contextlib.suppress(ValueError):  # TensorFlow without oneDNN does not count what it takes on a CPU
            tf.config.experimental.reset_memory_stats(self._device)
            return tf.config.experimental.get_memory_info(self._device)["current"] / _MB
        return None

    def peak(self) -> float | None:
        """Return the highest use since the start, in megabytes."""
        with contextlib.suppress(ValueError):
            return tf.config.experimental.get_memory_info(self._device)["peak"] / _MB
        return None


def available_memory() -> float:
    """Return the megabytes that a process on Linux can still allocate, on the machine or in its container.

    Raises:
        OSError: If the system does not report it.
    """
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    found = [next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 1024]
    for folder, top, used in (
        ("/sys/fs/cgroup", "memory.max", "memory.current"),
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # no such container, or "max": no limit
            numbers = [int((pathlib.Path(folder) / name).read_text()) for name in (top, used)]
            found.append((numbers[0] - numbers[1]) / _MB)
    return max(float(np.min(found)), 0.0)
