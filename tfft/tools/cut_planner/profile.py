"""Computing time of the pieces of a model: measured on this machine, or from a given rate.

Implementation notes: few measurements determine all times; no variable of the model changes.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfft.features import litert
from tfft.features.engines import Staged, open_engine, run
from tfft.features.sources import Source
from tfft.keras_compat import flatten_layers, own_trainable_variables
from tfft.tools.cut_planner.segments import Look, Piece, Pieces, walk

TRAINING = 3  # forward passes that one training step costs where nothing is measured
_ENOUGH = 1.0  # seconds that a measurement goes on for


@dataclasses.dataclass(frozen=True)
class Times:
    """Times in seconds: per example unless stated otherwise.

    Attributes:
        forward: For each piece, by TensorFlow.
        step: For each cut a training step of all that is behind it.
        now: A training step of what trains now, from the latest cut that it allows.
        basis: Where the numbers are from, in words.
        read: Reading an example and bringing it to the size and scale that the network takes.
        front: The last part of that, which a model does itself.
        engine: What the engine of :func:`tfft.features.extract` takes, relative to ``forward``.
        opening: That engine and the source, once.
        tracing: For each cut the first step's extra, once.
        tracing_whole: The same for running the whole model, once.
        per_step: What Keras' ``fit`` adds to each step.
        fit: What it takes once.
    """

    forward: tuple[float, ...]
    step: tuple[float, ...]
    now: float
    basis: str
    read: float = 0.0
    front: float = 0.0
    engine: float = 1.0
    opening: float = 0.0
    tracing: tuple[float, ...] = ()
    tracing_whole: float = 0.0
    per_step: float = 0.0
    fit: float = 0.0


def stated(look: Look, latest: int, rate: float, basis: str) -> Times:
    """Return times from a rate alone: a training step costs three times the forward pass.

    Args:
        look: At the pieces.
        latest: Position of the latest cut allowed.
        rate: FLOP per second.
        basis: Where the rate is from, in words.
    """
    forward = tuple(count / rate for count in look.flops)
    step = tuple(TRAINING * sum(forward[k:]) for k in range(len(forward)))
    return Times(forward, step, step[latest], basis, tracing=(0.0,) * len(forward))


def product_rate(size: int = 1024) -> float:
    """Measure the FLOP per second of one matrix product; convolutions reach less."""
    matrix = tf.fill([size, size], 0.5)
    _, seconds = _timed(lambda: tf.linalg.matmul(matrix, matrix).numpy())
    return 2 * size**3 / seconds


def measured(
    model: keras.Model, pieces: Pieces, look: Look, staged: Staged, source: Source | None, arrays: Sequence[np.ndarray]
) -> Times:
    """Measure on one batch; see :func:`tfft.tools.plan_cut` for what is measured and what is derived.

    Args:
        model: The whole.
        pieces: Its pieces.
        look: At them.
        staged: The whole model, from :func:`tfft.features.engines.stage`.
        source: Source of examples, or None where only their number is known.
        arrays: What crosses the first cut, in its order, for one batch.
    """
    count, cuts = len(arrays[0]), range(len(pieces.cuts))
    behind = [sum(look.flops[k:]) for k in cuts]
    last = cuts[-1]
    other = pieces.latest if 0 < pieces.latest < last else min(cuts[:-1], key=lambda k: abs(2 * behind[k] - behind[0]))
    forward: list[float] = []
    steps: dict[int, float] = {}
    starts: dict[int, float] = {}
    now = 0.0
    for at, known in walk(pieces, look.functions, arrays):
        forward.append(_forward(look.functions[at], [known[id(t)] for t in pieces.pieces[at].takes]))
        if at in (pieces.latest, other, last):
            suffix, takes = pieces.suffix(at)
            values = [known[id(t)] for t in takes]
            training = suffix.trainable_variables
            every = _trainable_from_birth(suffix)
            if at == pieces.latest:
                starts[at], now = _timed(_training_step(suffix, values, training))
            same = {id(v) for v in training} == {id(v) for v in every}
            if at == pieces.latest and same:
                steps[at] = now
            elif at in (other, last):
                starts[at], steps[at] = _timed(_training_step(suffix, values, every))
    whole, takes = pieces.suffix(0)
    entering = {id(t): a for t, a in zip(pieces.crossing[0], arrays, strict=True)}
    tensors = [tf.constant(entering[id(t)]) for t in takes]
    function = litert.trace(whole, [(None, *t.shape[1:]) for t in tensors])
    tracing_whole, seconds = _timed(lambda: [t.numpy() for t in function(*tensors)])
    scale = seconds / max(sum(forward), 1e-9) / count
    forward = [scale * f for f in forward]
    step = _line(behind, {k: s / count for k, s in steps.items()})
    step = [max(s, sum(forward[k:])) for k, s in zip(cuts, step, strict=True)]
    parts = [float(len(cuts) - k) for k in cuts]
    at = pieces.latest or other
    opening, engine = _engine(pieces.network(at), entering)
    front = _front(staged, count)
    reading, read = (0.0, front) if source is None else _read(source.batches(staged))
    per_step, fit = _fit()
    return Times(
        forward=tuple(forward),
        step=tuple(step),
        now=now / count,
        basis=f"measured on batches of {count}",
        read=max(front, read),
        front=front,
        engine=engine / max(sum(forward[:at]), 1e-9),
        opening=opening + reading,
        tracing=tuple(max(0.0, s) for s in _line(parts, starts)),
        tracing_whole=tracing_whole,
        per_step=per_step,
        fit=fit,
    )


def _forward(function: Callable[..., Any] | None, values: Sequence[tf.Tensor]) -> float:
    return 0.0 if function is None else _timed(lambda: [t.numpy() for t in function(*values)])[1]


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Return what the first call takes more than others, and what those take: the median, other programs run too."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    times: list[float] = []
    while len(times) < 2 or (len(times) < 7 and sum(times) < _ENOUGH):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return max(0.0, first - seconds), seconds


def _trainable_from_birth(net: keras.Model) -> list[keras.Variable]:
    """Variables that train once their layers do: neither statistics nor what a publisher fixed."""
    found = [v for layer in flatten_layers(net) for v in own_trainable_variables(layer)]
    return list({id(v): v for v in found}.values())


def _training_step(
    net: keras.Model, values: Sequence[tf.Tensor], variables: Sequence[keras.Variable]
) -> Callable[[], Any]:
    """Make a step of Adam, whose changes go to copies: the gradients are the model's, its variables stay."""
    copies = [keras.Variable(tf.zeros(v.shape, v.dtype), name=f"copy_{i}") for i, v in enumerate(variables)]
    optimizer = keras.optimizers.Adam(name="measuring")
    optimizer.build(copies)

    @tf.function(autograph=False)
    def step(*tensors: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in variables:
                tape.watch(variable.value)
            # In inference: statistics must not move, and no random numbers be drawn from the model's generators.
            results = net(keras.tree.pack_sequence_as(net.input, list(tensors)), training=False)
            floats = [t for t in keras.tree.flatten(results) if t.dtype.is_floating]
            loss = tf.add_n([tf.reduce_mean(tf.square(tf.cast(t, tf.float32))) for t in floats])
        gradients = tape.gradient(loss, [v.value for v in variables])
        pairs = [(g, c) for g, c in zip(gradients, copies, strict=True) if g is not None]
        if pairs:
            optimizer.apply_gradients(pairs)
        return loss

    return lambda: step(*values).numpy()


def _line(places: Sequence[float], known: dict[int, float]) -> list[float]:
    """The straight line through the values at the two positions that are farthest apart, at all places."""
    low, high = min(known), max(known)
    if places[low] == places[high]:
        return [known[low]] * len(places)
    slope = (known[low] - known[high]) / (places[low] - places[high])
    return [known[high] + slope * (place - places[high]) for place in places]


def _engine(network: Piece, entering: dict[int, np.ndarray]) -> tuple[float, float]:
    """Measure the engine that extract() would use on a prefix: seconds to open it, and per example."""
    if network.net is None:
        return 0.0, 0.0
    arrays = [entering[id(t)] for t in network.takes]
    start = time.perf_counter()
    opened, _ = open_engine(network.net, "auto", arrays)
    opened.submit(arrays)()
    opening = time.perf_counter() - start
    try:
        rounds = 3
        start = time.perf_counter()
        for _ in run(opened, itertools.repeat((arrays, None), rounds)):
            pass
        seconds = (time.perf_counter() - start) / rounds
    finally:
        opened.close()
    return max(0.0, opening - seconds), seconds / len(arrays[0])


def _read(batches: Iterable[Sequence[np.ndarray]]) -> tuple[float, float]:
    """Return the seconds until a source is open, and those for each example then."""
    begin = time.perf_counter()
    done, times = [], []
    for arrays in batches:
        done.append(len(arrays[0]))
        times.append(time.perf_counter() - begin)
        if times[-1] > 2 * _ENOUGH:
            break
    if len(done) == 1:
        return 0.0, times[0] / done[0]
    each = (times[-1] - times[0]) / sum(done[1:])
    return max(0.0, times[0] - each * done[0]), each


def _front(staged: Staged, count: int) -> float:
    """Seconds per example of a model's own preprocessing of pixels that have the right size already."""
    if staged.front is None or staged.spec is None:
        return 0.0
    spec = staged.spec
    pixels = tf.fill([count, spec.height, spec.width, spec.channels], tf.constant(128, tf.uint8))
    enter = tf.function(lambda x: staged.enter(x), autograph=False)
    return _timed(lambda: [t.numpy() for t in enter(pixels)])[1] / count


def _fit() -> tuple[float, float]:
    """Measure on a model of one weight what Keras' ``fit`` takes for each step, and once."""
    model = keras.Sequential(
        [keras.Input((1,), name="x"), keras.layers.Dense(1, kernel_initializer="zeros", name="y")], name="measuring"
    )
    model.compile(keras.optimizers.Adam(name="measuring"), "mse", metrics=["mae"])
    data = tf.data.Dataset.from_tensors((tf.zeros([1, 1]), tf.zeros([1, 1]))).repeat(20)
    first, seconds = _timed(lambda: model.fit(data, shuffle=False, verbose=0))
    return seconds / 20, first
