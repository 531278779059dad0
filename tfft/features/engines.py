"""What runs a frozen prefix: LiteRT on the processor where it can, TensorFlow otherwise.

Hides the choice, the check of one against the other on the first batch, and that raw pixels are resized
and scaled by TensorFlow in the input pipeline while only the network itself is converted.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.errors import BackboneError, PlanError, did_you_mean, missing_package
from tfft.features import litert
from tfft.features.functional_graph import Step, ancestors, divide, flat_inputs, flatten, steps_of
from tfft.layers.log_mel import Clip, LogMel
from tfft.layers.preprocess import Preprocess
from tfft.layers.tokenize import Tokenize
from tfft.specs import AudioSpec

TOLERANCE = 1e-4  # largest difference of LiteRT to TensorFlow that is accepted, relative to the largest feature
ENGINES = ("auto", "litert", "tensorflow")
AHEAD = 2  # batches that are being worked on at a time, so that no core waits for a batch's last example

# A 6-layer encoder of width 384 takes 1.1 to 1.4 times as long with LiteRT, for 16, 32 and 64 pieces alike.
_OF_TEXTS = "TensorFlow computed the features: encoders of texts are no faster with LiteRT."

EngineName = Literal["auto", "litert", "tensorflow"]
Arrays = Sequence[np.ndarray]

_log = logging.getLogger(__name__)
_said: set[str] = set()


@dataclasses.dataclass(frozen=True, eq=False)
class Staged:
    """A prefix in two stages.

    Attributes:
        front: raw pixels or texts to what the network takes; TensorFlow runs it in the input pipeline. None
            where the network takes the prefix' inputs as they are.
        net: the network.
        preprocess: the layer in front that knows the size of the images, or None.
        audio: rate and length of the sound waves that the prefix takes, or None.
        mask: position of the network's input that tells the pieces of texts from padding, or None.
        inputs: of the prefix, in order.
        takes: maps what is passed to the prefix to a list in the order of ``inputs``.
    """

    front: keras.Model | None
    net: keras.Model
    preprocess: Preprocess | None
    inputs: tuple[keras.KerasTensor, ...]
    takes: Callable[[Any], list[Any]]
    mask: int | None = None
    audio: AudioSpec | None = None

    def enter(self, value: Any) -> list[tf.Tensor]:
        """Run the front on what is passed to the prefix, and return the network's inputs; fit for tf.data."""
        tensors = self.takes(value)
        if self.front is None:
            return [tf.cast(t, i.dtype) for t, i in zip(tensors, self.inputs, strict=True)]
        packed = keras.tree.pack_sequence_as(self.front.input, tensors)
        return keras.tree.flatten(self.front(packed, training=False))


def stage(prefix: keras.Model) -> Staged:
    """Take the preprocessing off a prefix, of pixels or of texts, so that the rest can be converted.

    Raises:
        BackboneError: If Keras knows no graph of it.
    """
    flat = flatten(prefix)
    steps = steps_of(flat)
    raw = [s for s in steps if isinstance(s.operation, (Preprocess, Tokenize, LogMel, Clip))]

    def takes(value: Any) -> list[Any]:
        return flat_inputs(flat, value)

    if not raw:
        return Staged(None, flat, None, tuple(flat.inputs), takes)
    front, net = divide(flat, ancestors(steps, raw), (f"{prefix.name}_raw", f"{prefix.name}_network"))
    masks = {id(mask_of(s)) for s in raw if isinstance(s.operation, Tokenize)}
    mask = next((i for i, t in enumerate(front.outputs) if id(t) in masks), None)
    preprocess = next((s.operation for s in raw if isinstance(s.operation, Preprocess)), None)
    audio = next((s.operation.audio for s in raw if isinstance(s.operation, (LogMel, Clip))), None)
    return Staged(front, net, preprocess, tuple(flat.inputs), takes, mask, audio)


def mask_of(step: Step) -> keras.KerasTensor:
    """Return what tells pieces from padding in what a call of ``Tokenize`` gives."""
    return step.outputs[sorted(step.operation.names).index(step.operation.mask)]  # Keras sorts dictionaries by name


class TensorFlowEngine:
    """The network as a TensorFlow graph, on the GPU where there is one."""

    name = "tensorflow"

    def __init__(self, net: keras.Model) -> None:
        self._function = litert.trace(net, [t.shape for t in net.inputs])

    def submit(self, arrays: Arrays) -> Callable[[], list[np.ndarray]]:
        """Run a batch."""
        result = [np.asarray(t) for t in self._function(*(tf.convert_to_tensor(a) for a in arrays))]
        return lambda: result

    def close(self) -> None:
        """Nothing to end."""


class LiteRTEngine:
    """The network through LiteRT; inputs that are also outputs do not go through it.

    Args:
        net: the network.
        plain: runs batches whose examples have another shape than those it was converted for.
        first: the first batch.
        texts: whether the network takes texts of any length.
    """

    name = "litert"

    def __init__(self, net: keras.Model, plain: TensorFlowEngine, first: Arrays, texts: bool = False) -> None:
        self._plain, self._texts = plain, texts
        self._shapes = [a.shape[1:] for a in first]
        position = {id(t): i for i, t in enumerate(net.inputs)}
        self._passed = [position.get(id(t)) for t in net.outputs]
        computed = [t for t, i in zip(net.outputs, self._passed, strict=True) if i is None]
        if not computed:
            raise litert.Unfit("there is nothing to compute")
        # Shapes that only the data tells are fixed: few graphs convert without.
        shapes = [t.shape for t in net.inputs] if texts else [(None, *shape) for shape in self._shapes]
        content = litert.convert(keras.Model(net.input, computed), shapes)
        self._pool = litert.Pool(content)

    @property
    def layout(self) -> str:
        """How the cores are used, in words."""
        return f"{self._pool.workers} x {self._pool.threads} threads"

    def submit(self, arrays: Arrays) -> Callable[[], list[np.ndarray]]:
        """Start on a batch."""
        if not self._texts and [a.shape[1:] for a in arrays] != self._shapes:
            return self._plain.submit(arrays)
        waiting = self._pool.submit(arrays)

        def result() -> list[np.ndarray]:
            computed = iter(waiting())
            return [next(computed) if i is None else np.asarray(arrays[i]) for i in self._passed]

        return result

    def close(self) -> None:
        """End its threads."""
        self._pool.close()


def choose(engine: str, texts: bool = False) -> tuple[str, str]:
    """Decide which engine to try, without converting anything.

    Args:
        engine: ``"auto"``, ``"litert"`` or ``"tensorflow"``.
        texts: whether the network takes texts.

    Returns:
        Name of the engine, and why it is not LiteRT, in words, or an empty string.

    Raises:
        PlanError: for another name.
        DependencyError: LiteRT was asked for and is not installed.
    """
    if engine not in ENGINES:
        raise PlanError(
            f"engine must be one of {', '.join(ENGINES)}, received {engine!r}.{did_you_mean(engine, ENGINES)}"
        )
    if engine == "tensorflow":
        return engine, ""
    if engine == "auto" and tf.config.get_visible_devices("GPU"):
        return "tensorflow", "TensorFlow computed the features: there is a GPU."
    if engine == "auto" and texts:
        return "tensorflow", _OF_TEXTS
    if litert.version() is None:
        if engine == "litert":
            missing_package(litert.PACKAGE, "engine='litert'", f"pip install {litert.PACKAGE}")
        return "tensorflow", (
            f"TensorFlow computed the features: {litert.PACKAGE} is not installed (pip install {litert.PACKAGE}), "
            "with which it is faster on a processor."
        )
    return "litert", ""


def open_engine(
    net: keras.Model, engine: str, first: Arrays, texts: bool = False
) -> tuple[TensorFlowEngine | LiteRTEngine, str]:
    """Open an engine for a network, and check it against TensorFlow on the first batch.

    Args:
        net: from :func:`stage`.
        engine: ``"auto"``, ``"litert"`` or ``"tensorflow"``.
        first: the network's inputs for the first batch.
        texts: whether the network takes texts of any length.

    Returns:
        The engine, and a note why it is not LiteRT, or what the check found.

    Raises:
        BackboneError: LiteRT was asked for and cannot run the network.
    """
    plain = TensorFlowEngine(net)
    chosen, note = choose(engine, texts)
    if chosen == "tensorflow":
        if note != _OF_TEXTS:
            _say(note)
        return plain, note
    try:
        fast = LiteRTEngine(net, plain, first, texts)
        difference = _compare(plain, fast, first)
    except litert.Unfit as why:
        if engine == "litert":
            raise BackboneError(f"{net.name!r} cannot run through LiteRT: {why}. Leave engine= at 'auto'.") from why
        note = f"TensorFlow computed the features, not LiteRT: {why}."
        _say(note)
        return plain, note
    return fast, (
        f"LiteRT computed the features ({fast.layout}); on the first batch they differ from TensorFlow's by "
        f"{difference:.1g} of the largest, allowed is {TOLERANCE:g}."
    )


class Opener:
    """Opens an engine for a network when the first batch is there, and keeps it for the next data set. A context.

    Args:
        net: from :func:`stage`.
        engine: ``"auto"``, ``"litert"`` or ``"tensorflow"``.
        texts: whether the network takes texts of any length.
    """

    def __init__(self, net: keras.Model, engine: str, texts: bool = False) -> None:
        self.net, self.engine, self.texts = net, engine, texts
        self._opened: tuple[TensorFlowEngine | LiteRTEngine, str] | None = None

    @property
    def opened(self) -> tuple[TensorFlowEngine | LiteRTEngine, str]:
        """What :meth:`open` gave."""
        if self._opened is None:
            raise RuntimeError("The engine is opened with the first batch.")
        return self._opened

    def open(self, first: Arrays) -> tuple[TensorFlowEngine | LiteRTEngine, str]:
        """Return what :func:`open_engine` gave for the first batch of all."""
        if self._opened is None:
            self._opened = open_engine(self.net, self.engine, first, self.texts)
        return self._opened

    def __enter__(self) -> Opener:
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened is not None:
            self._opened[0].close()


def _compare(plain: TensorFlowEngine, fast: LiteRTEngine, first: Arrays) -> float:
    try:
        got = fast.submit(first)()
    except (RuntimeError, ValueError) as error:  # LiteRT has no classes of its own
        fast.close()
        raise litert.Unfit(f"it failed on the first batch: {litert.first_line(error)}") from error
    difference = largest_difference(plain.submit(first)(), got)
    if not difference <= TOLERANCE:
        fast.close()
        raise litert.Unfit(
            f"on the first batch its features differ by {difference:.2g} of the largest, allowed is {TOLERANCE:g}"
        )
    return difference


def run(
    engine: TensorFlowEngine | LiteRTEngine, batches: Iterable[tuple[Arrays, Any]]
) -> Iterator[tuple[list[np.ndarray], Any]]:
    """Run batches through an engine, some at a time, in order.

    Args:
        engine: from :func:`open_engine`.
        batches: pairs of the network's inputs and anything that belongs to them.

    Yields:
        Pairs of the outputs and what belonged to the inputs.
    """
    waiting: deque[tuple[Callable[[], list[np.ndarray]], Any]] = deque()
    for arrays, rest in batches:
        waiting.append((engine.submit(arrays), rest))
        if len(waiting) > AHEAD - 1:
            result, belonging = waiting.popleft()
            yield result(), belonging
    while waiting:
        result, belonging = waiting.popleft()
        yield result(), belonging


def _say(note: str) -> None:
    if note and note not in _said:
        _said.add(note)
        _log.warning(note)


def largest_difference(wanted: Arrays, got: Arrays) -> float:
    """Return the largest difference between results, relative to the largest value of each; inf if shapes differ."""
    worst = 0.0
    for a, b in zip(wanted, got, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return float("inf")
        if a.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(a, b) else float("inf"))
        elif a.size:
            same = np.array_equal(np.isfinite(a), np.isfinite(b))
            scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
            gap = float(np.max(np.abs(a - b), initial=0.0, where=np.isfinite(a) & np.isfinite(b)))
            worst = max(worst, gap / scale if scale else gap) if same else float("inf")
    return worst
