"""Planner for the cut of a feature cache: :func:`plan_cut`.

Implementation notes: sizes follow from shapes, times from a few measurements.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from rich import box
from rich.table import Table

from tfft.arrays.store import megabytes
from tfft.console.tables import render
from tfft.data.batches import CACHE_LIMIT
from tfft.data.examples import Examples
from tfft.errors import BackboneError, PlanError, join_names, raise_problems
from tfft.features.batching import typical
from tfft.features.cache import default_folder
from tfft.features.engines import Staged, stage
from tfft.features.job import DTYPES
from tfft.features.sources import DatasetSource, Source, open_source
from tfft.io.cache_dir import SPARE, free_space
from tfft.settings import is_count
from tfft.tools.cut_planner.profile import Times, measured, product_rate, stated
from tfft.tools.cut_planner.segments import Look, Pieces, look_at, take_apart


@dataclasses.dataclass(frozen=True)
class Cut:
    """Possible cut of a model: the frozen prefix in front of it, the trainable suffix behind it.

    Attributes:
        block: Block that ends the prefix; ``"(pixels)"`` or ``"(tokens)"`` in front of the first one, where nothing is
            frozen.
        crossing: Shape of one example and type of each tensor that crosses the cut.
        example_bytes: Size of that.
        bytes: Size for all examples.
        fits: Whether it fits on the disk.
        flops_before: In front of the cut, per example: two for each multiply-add.
        flops_behind: Behind it.
        seconds_cached: Expected with features computed once, when all blocks behind the cut train; None
            where there is nothing to compute once.
        seconds_uncached: The same when every epoch runs the whole model.
        seconds_now: Expected with features from this cut, for what trains now; None where that does not
            allow the cut.
        prefix_seconds: Part of that, once for each example: reading it and computing what is in front of the cut.
        start_seconds: Part of that, once: opening the engine, tracing, and what ``fit`` takes for itself.
        refused: Why :func:`tfft.features.split_frozen` would not cut here now, or empty.
    """

    block: str
    crossing: tuple[tuple[tuple[int, ...], str], ...]
    example_bytes: int
    bytes: int
    fits: bool
    flops_before: int
    flops_behind: int
    seconds_cached: float | None
    seconds_uncached: float
    seconds_now: float | None
    prefix_seconds: float
    start_seconds: float
    refused: str

    @property
    def gain(self) -> float | None:
        """Time without a cache divided by the time with it."""
        return None if not self.seconds_cached else self.seconds_uncached / self.seconds_cached


@dataclasses.dataclass(frozen=True)
class CutPlan:
    """Result of :func:`plan_cut`; ``print`` shows it as a table.

    Attributes:
        model: Name of the model.
        examples: Number of examples.
        epochs: Number of epochs.
        batch_size: Examples per batch in training.
        dtype: Type of the features.
        cuts: Every place to cut, from the front to the end.
        latest: Name of the last block that the prefix may end with while what trains now trains, or None.
        choice: Name of the block to cut at: of those allowed the one of the least expected time that fits on
            the disk; None where there is none.
        seconds_uncached: Expected for what trains now, without features.
        folder: Folder of the cache.
        basis: Origin of the seconds.
        notes: What was assumed, one sentence each.
    """

    model: str
    examples: int
    epochs: int
    batch_size: int
    dtype: str
    cuts: tuple[Cut, ...]
    latest: str | None
    choice: str | None
    seconds_uncached: float
    folder: Path
    basis: str
    notes: tuple[str, ...] = ()

    @property
    def worth_it(self) -> bool:
        """Whether features from the chosen cut are expected to save time."""
        chosen = self._chosen
        return chosen is not None and (chosen.seconds_now or 0.0) < self.seconds_uncached

    @property
    def sentence(self) -> str:
        """The choice with its arithmetic, in words."""
        chosen = self._chosen
        if chosen is None:
            reasons = [f"{cut.block}: {cut.refused or 'no room on the disk'}" for cut in self.cuts[1:]]
            return (
                f"There is no cut for what trains now ({join_names(reasons, limit=3)}). Every epoch runs the "
                "whole model: "
                f"{_time(self.seconds_uncached)}. tfft.unfreeze(model, n) trains the last n blocks only."
            )
        now, without = chosen.seconds_now or 0.0, self.seconds_uncached
        call = "split(model)" if chosen.block == self.latest else f"split(model, cut={chosen.block!r})"
        once = self.examples * chosen.prefix_seconds
        step = (now - once - chosen.start_seconds) / (self.epochs * self.examples)
        cost = (
            f"{self.examples:,} examples x {_size(chosen.example_bytes)} = {_size(chosen.bytes)}; {self.examples:,} x "
            f"{_time(chosen.prefix_seconds)} once + {self.epochs:,} x {self.examples:,} x {_time(step)} of training + "
            f"{_time(chosen.start_seconds)} to start = {_time(now)}; without features {_time(without)}"
        )
        if not self.worth_it:
            return f"Features are not worth it here. The best cut is after {chosen.block}: {cost}."
        return f"Cut after {chosen.block}, {call}: {cost}, {without / max(now, 1e-12):.1f} times as long."

    @property
    def _chosen(self) -> Cut | None:
        return next((cut for cut in self.cuts if cut.block == self.choice), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, fit for JSON."""
        values = dataclasses.asdict(self)
        values["cuts"] = [
            {**cut, "crossing": [{"shape": list(s), "dtype": d} for s, d in cut["crossing"]]} for cut in values["cuts"]
        ]
        return {**values, "folder": str(self.folder), "notes": list(self.notes)}

    def __str__(self) -> str:
        title = f"{self.model}: {self.examples:,} examples, {_epochs(self.epochs)}; seconds {self.basis}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column("cut after", no_wrap=True)
        table.add_column("crosses", overflow="fold")
        for name in ("each", "all", "MFLOP before", "MFLOP behind", "cached", "uncached", "gain", "now"):
            table.add_column(name, justify="right", no_wrap=not name.startswith("MFLOP"))
        table.add_column("", min_width=14, overflow="fold")
        for cut in self.cuts:
            kinds = [f"{'x'.join(map(str, s)) or '1'}{'' if d == self.dtype else f' {d}'}" for s, d in cut.crossing]
            flops = [f"{n / 1e6:,.0f}" if n >= 1e7 else f"{n / 1e6:.2g}" for n in (cut.flops_before, cut.flops_behind)]
            gain = "" if cut.gain is None else f"{cut.gain:.1f}x"
            times = [_time(cut.seconds_cached), _time(cut.seconds_uncached), gain, _time(cut.seconds_now)]
            sizes = [_size(cut.example_bytes), _size(cut.bytes)]
            table.add_row(cut.block, " + ".join(kinds), *sizes, *flops, *times, self._mark(cut))
        return "\n".join([render(table, least=120), _LEGEND, *self.notes, self.sentence])

    def _mark(self, cut: Cut) -> str:
        marks = ["CHOICE"] if cut.block == self.choice else []
        marks += [] if cut.fits else ["no room on the disk"]
        marks += [cut.refused] if cut.refused else []
        return "; ".join([*marks, "latest"] if cut.block == self.latest else marks)


_LEGEND = (
    "cached, uncached: if all blocks behind the cut train, with the part in front of it computed once or in every "
    "epoch. now: cached, for what trains now; latest: the last cut which that allows. A multiply-add is two FLOP."
)


def plan_cut(
    model: keras.Model,
    dataset: Any,
    epochs: int,
    *,
    batch_size: int = 32,
    measure: bool | float = True,
    dtype: Literal["float32", "float16"] = "float32",
    ignore_dropout: bool = False,
) -> CutPlan:
    """Estimate the cost and the savings of features for each cut of a model, and choose one.

    Use it before :func:`tfft.unfreeze` to see what training more blocks costs, and after it to see whether
    :func:`tfft.features.split_frozen` and :func:`tfft.features.extract` are worthwhile. Nothing in the model changes.

    With N examples and E epochs, training on features costs N times the prefix and E N times a training step
    of the suffix; without them, E N times both. Reading, converting the prefix and tracing are added.

    These are measured on one batch of the data, or of random numbers if only a number is given: the forward pass of
    each block and of the whole model in TensorFlow; the engine of ``extract`` on the prefix of the latest cut allowed,
    whose ratio to TensorFlow is used for all prefixes; Adam's step of two suffixes, behind the last block and behind
    the latest cut allowed (or half of the FLOP, if those are the same). Steps of other suffixes are interpolated
    linearly by the FLOP behind the cut. Steps are measured in inference mode and write to copies.

    Args:
        model: Model from :func:`tfft.build`, with or without :func:`tfft.unfreeze`.
        dataset: Anything that :func:`tfft.features.extract` takes, or the number of examples.
        epochs: Number of epochs for which the suffix will train.
        batch_size: Examples per batch in training.
        measure: True measures, which takes as long as some training steps and a conversion. False takes the
            rate of one matrix product for everything, three forward passes for a training step, and nothing
            else: too low, but quick. A number is such a rate in FLOP per second.
        dtype: Type of the features.
        ignore_dropout: As in :func:`tfft.features.split_frozen`.

    Returns:
        :class:`CutPlan`: ``print(plan)``; ``.cuts``, ``.choice`` and ``.to_dict()`` for programs.

    Raises:
        PlanError: Arguments are out of range.
        BackboneError: The model has no blocks, nothing trains, or Keras knows no graph of it.
        DataError: The examples do not fit the model.

    Example:
        >>> tfft.unfreeze(model, 3)
        >>> print(tfft.tools.plan_cut(model, tfft.data.load("photos/").train, epochs=20))
    """
    _check_arguments(model, dataset, epochs, batch_size, measure, dtype)
    pieces = take_apart(model, ignore_dropout=ignore_dropout)
    if not model.trainable_variables:
        raise BackboneError(
            f"Nothing in {model.name!r} trains, so there is no training to plan. "
            "tfft.unfreeze(model, blocks) trains a part of the backbone; a head from tfft.build trains by itself."
        )
    staged = stage(model)
    source = None if isinstance(dataset, (int, np.integer)) else open_source(dataset, staged, batch_size)
    notes: list[str] = []
    count = int(dataset) if source is None else _count(source, dataset, notes)
    arrays = _random(staged, min(batch_size, count)) if source is None else next(source.batches(staged))
    if staged.mask is not None:
        arrays, length = typical(staged, [a[:batch_size] for a in arrays])
        notes.append(f"Sizes and seconds are for texts of {length} tokens, the mean of the first {len(arrays[0])}.")
    look = look_at(pieces, _for_first_cut(pieces, staged, arrays))
    if look.loops:
        notes.append(f"There are loops behind {join_names(look.loops)}; one round of each is in the FLOP at most.")
    times = _times(model, pieces, look, staged, source, arrays, measure)
    readings = 1 if isinstance(dataset, Examples) and _kept(dataset, staged) else epochs
    work = _Work(count, epochs, batch_size, times, 0 if source is None else readings)
    return _decide(model.name, pieces, look, work, dtype, tuple(notes))


@dataclasses.dataclass(frozen=True)
class _Work:
    """A training whose seconds are wanted."""

    count: int
    epochs: int
    batch_size: int
    times: Times
    readings: int  # how often each example is read from where it comes from when there are no features

    @property
    def passes(self) -> int:
        return self.epochs * self.count

    @property
    def fitting(self) -> float:
        return self.times.fit + self.times.per_step * self.epochs * math.ceil(self.count / self.batch_size)

    def once(self, cut: int) -> float:
        """Seconds per example in front of a cut, where features are computed."""
        return self.times.read + self.times.engine * sum(self.times.forward[:cut])

    def start(self, cut: int) -> float:
        """Seconds that features from a cut take whatever the number of examples, and ``fit`` for itself."""
        return self.times.opening + self.times.tracing[cut] + self.fitting

    def cached(self, cut: int, step: float) -> float:
        """Seconds with features from a cut, for a training step of some seconds per example."""
        return self.start(cut) + self.count * self.once(cut) + self.passes * step

    def uncached(self, cut: int, step: float) -> float:
        """Seconds without features, for a training step of the part behind a cut."""
        t = self.times
        entering = self.readings * self.count * (t.read - t.front) + self.passes * t.front
        tracing = t.tracing[cut] + t.tracing_whole * cut / len(t.forward)
        return entering + tracing + self.fitting + self.passes * (sum(t.forward[:cut]) + step)


def _decide(
    name: str, pieces: Pieces, look: Look, work: _Work, dtype: str, notes: tuple[str, ...], free: int | None = None
) -> CutPlan:
    folder = default_folder()
    free = max(0, free_space(folder) - SPARE) if free is None else free
    times, latest = work.times, pieces.latest
    cuts = []
    for at, block in enumerate(pieces.cuts):
        crossing = tuple((shape, dtype if kind == np.float32 else kind.name) for shape, kind in look.shapes[at])
        each = sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in crossing)
        between = times.now + sum(times.forward[at:latest])
        cut = Cut(
            block=block,
            crossing=crossing,
            example_bytes=each,
            bytes=each * work.count,
            fits=each * work.count < free,
            flops_before=sum(look.flops[:at]),
            flops_behind=sum(look.flops[at:]),
            seconds_cached=work.cached(at, times.step[at]) if at else None,
            seconds_uncached=work.uncached(at, times.step[at]),
            seconds_now=None if pieces.refused[at] else work.cached(at, between),
            prefix_seconds=work.once(at),
            start_seconds=work.start(at),
            refused=pieces.refused[at],
        )
        cuts.append(cut)
    open_ones = [cut for cut in cuts if cut.seconds_now is not None and cut.fits]
    # Of equal ones the later cut, which is the smaller one as a rule.
    best = min(reversed(open_ones), key=lambda cut: float(f"{cut.seconds_now:.6g}"), default=None)
    return CutPlan(
        model=name, examples=work.count, epochs=work.epochs, batch_size=work.batch_size, dtype=dtype, cuts=tuple(cuts),
        latest=pieces.cuts[latest] if latest else None, choice=None if best is None else best.block,
        seconds_uncached=work.uncached(latest, times.now), folder=folder, basis=times.basis,
        notes=notes,
    )  # fmt: skip


def _times(
    model: keras.Model, pieces: Pieces, look: Look, staged: Staged, source: Source | None, arrays: Any, measure: Any
) -> Times:
    if measure is True:
        return measured(model, pieces, look, staged, source, _for_first_cut(pieces, staged, arrays))
    if measure is False:
        rate = product_rate()
        return stated(look, pieces.latest, rate, f"at the {rate / 1e9:,.0f} GFLOP/s of a matrix product")
    return stated(look, pieces.latest, float(measure), f"at {measure / 1e9:,g} GFLOP/s")


def _for_first_cut(pieces: Pieces, staged: Staged, arrays: Any) -> list[np.ndarray]:
    """Pick what crosses the first cut; a model may have inputs that nothing reads."""
    if staged.front is not None:
        return list(arrays)
    wanted = {id(t) for t in pieces.crossing[0]}
    return [a for t, a in zip(pieces.flat.inputs, arrays, strict=True) if id(t) in wanted]


def _random(staged: Staged, count: int) -> list[np.ndarray]:
    """Make inputs of the network where there are no examples to look at."""
    generator = np.random.default_rng(0)
    made = []
    for tensor in staged.net.inputs:
        shape, kind = tuple(tensor.shape[1:]), np.dtype(tensor.dtype) if tensor.dtype != "string" else None
        if None in shape or kind is None:
            raise PlanError(
                f"How large the inputs of the model are is not known from their number: {tensor.name} has the shape "
                f"{shape} and the type {tensor.dtype}. Pass the examples instead of their number."
            )
        made.append((generator.random((count, *shape)) if kind.kind == "f" else np.ones((count, *shape))).astype(kind))
    return made


def _count(source: Source, dataset: Any, notes: list[str]) -> int:
    if source.count is None and isinstance(source, DatasetSource):
        batches = int(dataset.cardinality())
        if batches < 0:
            source.identity()  # which counts in passing
        else:
            size = next(len(leaf) for element in dataset.take(1) for leaf in keras.tree.flatten(element))
            if batches > 1:
                notes.append(f"{batches} batches of {size} examples are counted; the last one may be smaller.")
            return batches * size
    return source.count or 0


def _kept(examples: Examples, staged: Staged) -> bool:
    """Whether :func:`tfft.data.to_dataset` would decode the files only once."""
    if staged.spec is None:
        return False
    spec = staged.spec
    return len(examples) * spec.height * spec.width * spec.channels < CACHE_LIMIT


def _size(count: int) -> str:
    return megabytes(count) if count >= 1e5 else f"{count / 1e3:,.1f} KB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:,.1f} s" if seconds >= 0.1 else f"{seconds * 1e3:,.2g} ms"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _epochs(count: int) -> str:
    return f"{count:,} epoch{'' if count == 1 else 's'}"


def _check_arguments(model: Any, dataset: Any, epochs: Any, batch_size: Any, measure: Any, dtype: Any) -> None:
    problems = []
    if not isinstance(model, keras.Model):
        problems.append(f"model must be a keras.Model, such as tfft.build gives, received {type(model).__name__}")
    if isinstance(dataset, (int, float, np.number)) and not is_count(dataset):
        problems.append(f"the number of examples must be an integer of at least 1, received {dataset!r}")
    if not is_count(epochs):
        problems.append(f"epochs must be an integer of at least 1, received {epochs!r}")
    if not is_count(batch_size):
        problems.append(f"batch_size must be an integer of at least 1, received {batch_size!r}")
    if not isinstance(measure, bool) and not (isinstance(measure, (int, float)) and 0 < measure < math.inf):
        problems.append(f"measure must be True, False or FLOP per second, received {measure!r}")
    if dtype not in DTYPES:
        problems.append(f"dtype must be one of {', '.join(DTYPES)}, received {dtype!r}")
    raise_problems(PlanError, "A cut cannot be planned", problems)
