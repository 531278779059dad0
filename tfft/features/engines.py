"""Engines for a frozen prefix: LiteRT on a CPU if possible, otherwise TensorFlow.

Implementation notes: LiteRT is checked against TensorFlow on the first batch. TensorFlow resizes and scales raw pixels
in the input pipeline; only the network itself is converted.
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

from tfft.backbones.savedmodel.block_graph import count_multiply_adds
from tfft.console import profile
from tfft.errors import BackboneError, PlanError, did_you_mean, missing_package
from tfft.features import litert
from tfft.features.converted import converted
from tfft.features.functional_graph import Step, ancestors, divide, flat_inputs, flatten, steps_of
from tfft.layers.raw_input import RawInput
from tfft.specs import AudioSpec, InputSpec

TOLERANCE = 1e-4  # maximum difference between LiteRT and TensorFlow, relative to the largest feature
ENGINES = ("auto", "litert", "tensorflow")
AHEAD = 2  # batches in progress, so that no core waits for the last example of a batch

# A 6-layer encoder of width 384 takes 1.1 to 1.4 times as long with LiteRT, for 16, 32 and 64 tokens.
_OF_TEXTS = "TensorFlow computed the features: text encoders are no faster with LiteRT."
# Conversion and check of EfficientNet-Lite0 take 4 s, and LiteRT saves 7 ms per billion multiply-adds on two cores.
_WORTH_CONVERTING = 6e11  # multiply-adds for all examples
_CALLS = frozenset({"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If", "StatelessIf"})

EngineName = Literal["auto", "litert", "tensorflow"]
Arrays = Sequence[np.ndarray]

_log = logging.getLogger(__name__)
_said: set[str] = set()


@dataclasses.dataclass(frozen=True, eq=False)
class Staged:
    """Prefix in two stages.

    Attributes:
        front: From raw pixels or texts to the inputs of the network; TensorFlow runs it in the input pipeline. None if
            the network takes the inputs of the prefix directly.
        net: Network.
        spec: Size and scaling of the images, or None.
        audio: Sample rate and clip length of the prefix' waveforms, or None.
        mask: Position of the network input with the padding mask of texts, or None.
        inputs: Inputs of the prefix, in order.
        takes: Function from the argument of the prefix to a list in the order of ``inputs``.
    """

    front: keras.Model | None
    net: keras.Model
    spec: InputSpec | None
    inputs: tuple[keras.KerasTensor, ...]
    takes: Callable[[Any], list[Any]]
    mask: int | None = None
    audio: AudioSpec | None = None

    def enter(self, value: Any) -> list[tf.Tensor]:
        """Run the front and return the network's inputs; can be used in tf.data."""
        tensors = self.takes(value)
        if self.front is None:
            return [tf.cast(t, i.dtype) for t, i in zip(tensors, self.inputs, strict=True)]
        packed = keras.tree.pack_sequence_as(self.front.input, tensors)
        return keras.tree.flatten(self.front(packed, training=False))


def stage(prefix: keras.Model) -> Staged:
    """Separate the preprocessing of pixels or texts from a prefix, so that the rest can be converted.

    Raises:
        BackboneError: If the model is not functional.
    """
    flat = flatten(prefix)
    steps = steps_of(flat)
    raw = [s for s in steps if isinstance(s.operation, RawInput)]

    def takes(value: Any) -> list[Any]:
        return flat_inputs(flat, value)

    if not raw:
        return Staged(None, flat, None, tuple(flat.inputs), takes)
    front, net = divide(flat, ancestors(steps, raw), (f"{prefix.name}_raw", f"{prefix.name}_network"))
    masks = {id(mask_of(s)) for s in raw if s.operation.mask is not None}
    mask = next((i for i, t in enumerate(front.outputs) if id(t) in masks), None)
    spec = next((s.operation.spec for s in raw if s.operation.spec is not None), None)
    audio = next((s.operation.audio for s in raw if s.operation.audio is not None), None)
    return Staged(front, net, spec, tuple(flat.inputs), takes, mask, audio)


def mask_of(step: Step) -> keras.KerasTensor:
    """Return the padding mask among the outputs of a ``Tokenize`` call."""
    return step.outputs[sorted(step.operation.names).index(step.operation.mask)]  # Keras sorts dictionaries by name


class TensorFlowEngine:
    """Network as a TensorFlow graph, on the GPU if there is one."""

    name = "tensorflow"

    def __init__(self, net: keras.Model) -> None:
        self._net = net
        self._function = litert.trace(net, [t.shape for t in net.inputs])

    @property
    def multiply_adds(self) -> int | None:
        """Multiply-adds for one example; None if sizes are open or work is in functions that are not looked into."""
        if any(None in t.shape[1:] for t in self._net.inputs):
            return None
        graph = self._function.graph
        opened = sum(getattr(layer, "flops", None) or 0 for layer in self._net.layers)  # of blocks of SavedModels
        if not opened and any(op.type in _CALLS for op in graph.get_operations()):
            return None
        return opened + count_multiply_adds(graph)

    def submit(self, arrays: Arrays) -> Callable[[], list[np.ndarray]]:
        """Run a batch."""
        result = [np.asarray(t) for t in self._function(*(tf.convert_to_tensor(a) for a in arrays))]
        return lambda: result

    def close(self) -> None:
        """Do nothing; there is nothing to close."""


class LiteRTEngine:
    """Network through LiteRT; inputs that are also outputs bypass it.

    Args:
        net: Network.
        plain: Engine for batches with other example shapes than those of the conversion.
        first: First batch.
        texts: Whether the network takes texts of any length.
        keep: Whether to keep the converted network in tfft's cache, and to look there first.
    """

    name = "litert"

    def __init__(
        self, net: keras.Model, plain: TensorFlowEngine, first: Arrays, texts: bool = False, keep: bool = False
    ) -> None:
        self._plain, self._texts = plain, texts
        self._shapes = [a.shape[1:] for a in first]
        position = {id(t): i for i, t in enumerate(net.inputs)}
        self._passed = [position.get(id(t)) for t in net.outputs]
        computed = [t for t, i in zip(net.outputs, self._passed, strict=True) if i is None]
        if not computed:
            raise litert.Unfit("there is nothing to compute")
        # Shapes known only from data are fixed: few graphs convert otherwise.
        shapes = [t.shape for t in net.inputs] if texts else [(None, *shape) for shape in self._shapes]
        content = converted(keras.Model(net.input, computed), shapes, keep=keep)
        self._pool = litert.Pool(content)

    @property
    def layout(self) -> str:
        """Description of the use of cores."""
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
        """Stop its threads."""
        self._pool.close()


def choose(engine: str, texts: bool = False) -> tuple[str, str]:
    """Select the engine to try, without converting anything.

    Args:
        engine: ``"auto"``, ``"litert"`` or ``"tensorflow"``.
        texts: Whether the network takes texts.

    Returns:
        Name of the engine, and the reason why it is not LiteRT, or an empty string.

    Raises:
        PlanError: For another name.
        DependencyError: If LiteRT was requested and is not installed.
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
            "which is faster on a CPU."
        )
    return "litert", ""


@profile.stage("convert the frozen part")
def open_engine(
    net: keras.Model,
    engine: str,
    first: Arrays,
    texts: bool = False,
    keep: bool = False,
    examples: int | None = None,
) -> tuple[TensorFlowEngine | LiteRTEngine, str]:
    """Open an engine for a network, and check it against TensorFlow on the first batch.

    With ``"auto"``, few examples of a small network run in TensorFlow, where a conversion would take longer than it
    saves.

    Args:
        net: Network from :func:`stage`.
        engine: ``"auto"``, ``"litert"`` or ``"tensorflow"``.
        first: Inputs of the network for the first batch.
        texts: Whether the network takes texts of any length.
        keep: As in :class:`LiteRTEngine`.
        examples: Number of examples that will run; None if unknown, which counts as many.

    Returns:
        The engine, and a note with the reason why it is not LiteRT, or the result of the check.

    Raises:
        BackboneError: If LiteRT was requested and cannot run the network.
    """
    plain = TensorFlowEngine(net)
    chosen, note = choose(engine, texts)
    if chosen == "tensorflow":
        if note != _OF_TEXTS:
            _say(note)
        return plain, note
    if engine == "auto" and not _is_worth_converting(plain, examples):
        return plain, (
            f"TensorFlow computed the features: for {examples:,} examples, converting the network takes longer than it "
            "saves."
        )
    try:
        fast = LiteRTEngine(net, plain, first, texts, keep)
        difference = _compare(plain, fast, first)
    except litert.Unfit as why:
        if engine == "litert":
            raise BackboneError(f"{net.name!r} cannot run through LiteRT: {why}. Leave engine= at 'auto'.") from why
        note = f"TensorFlow computed the features, not LiteRT: {why}."
        _say(note)
        return plain, note
    return fast, (
        f"LiteRT computed the features ({fast.layout}); on the first batch they differ from TensorFlow's by "
        f"{difference:.1g} of the largest (tolerance {TOLERANCE:g})."
    )


def _is_worth_converting(plain: TensorFlowEngine, examples: int | None) -> bool:
    each = plain.multiply_adds
    return examples is None or each is None or each * examples >= _WORTH_CONVERTING


class Opener:
    """Context manager that opens an engine with the first batch and keeps it for later datasets.

    Args:
        net: Network from :func:`stage`.
        engine: ``"auto"``, ``"litert"`` or ``"tensorflow"``.
        texts: Whether the network takes texts of any length.
        keep: As in :class:`LiteRTEngine`.
        examples: Function that gives the number of examples of all datasets, as in :func:`open_engine`.
    """

    def __init__(
        self,
        net: keras.Model,
        engine: str,
        texts: bool = False,
        keep: bool = False,
        examples: Callable[[], int | None] = lambda: None,
    ) -> None:
        self.net, self.engine, self.texts, self.keep, self.examples = net, engine, texts, keep, examples
        self._opened: tuple[TensorFlowEngine | LiteRTEngine, str] | None = None

    @property
    def opened(self) -> tuple[TensorFlowEngine | LiteRTEngine, str]:
        """Result of :meth:`open`."""
        if self._opened is None:
            raise RuntimeError("The engine is opened with the first batch.")
        return self._opened

    def open(self, first: Arrays) -> tuple[TensorFlowEngine | LiteRTEngine, str]:
        """Return the result of :func:`open_engine` for the first batch."""
        if self._opened is None:
            self._opened = open_engine(self.net, self.engine, first, self.texts, self.keep, self.examples())
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
            f"on the first batch its features differ by {difference:.2g} of the largest (tolerance {TOLERANCE:g})"
        )
    return difference


def run(
    engine: TensorFlowEngine | LiteRTEngine, batches: Iterable[tuple[Arrays, Any]]
) -> Iterator[tuple[list[np.ndarray], Any]]:
    """Run batches through an engine, a few at a time, in order.

    Args:
        engine: Engine from :func:`open_engine`.
        batches: Pairs of the network's inputs and any associated value.

    Yields:
        Pairs of the outputs and the associated values.
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
