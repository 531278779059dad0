"""Learning rate schedules of a phase: :func:`build_schedule`, :data:`SCHEDULES`.

Implementation notes: all schedules consist of segments of one kind, with exact ends and no step at rate 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import keras
from keras import ops

from tfft.config import Phase
from tfft.errors import PlanError, did_you_mean, join_names

Curve = Literal["linear", "cosine"]
Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule

_ONE_CYCLE_RISE, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.25, 25.0, 1e5  # as fastai has them
_SLANTED_RISE, _SLANTED_RATIO = 0.1, 32.0  # as ULMFiT has them


@dataclasses.dataclass(frozen=True)
class Segment:
    """One stretch of a :class:`PiecewiseSchedule`.

    Attributes:
        start: First step of the piece, counted from 0.
        stop: Step at which ``end`` is reached; where the next piece starts earlier, it is not.
        begin: Rate at ``start``.
        end: Rate at ``stop``.
        curve: ``"linear"``, or ``"cosine"`` (half a wave: flat, steep, flat).
    """

    start: int
    stop: int
    begin: float
    end: float
    curve: Curve = "linear"


@keras.saving.register_keras_serializable(package="tfft")
class PiecewiseSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A rate made of pieces, each a straight line or half a cosine; a pure function of the step.

    Use it for a schedule that :func:`build_schedule` does not have. The ends of pieces are exact, also where they
    are many orders of magnitude apart. After ``steps`` the rate stays what it was at the last step.

    Args:
        pieces: In the order of their first steps, the first of which is 0; as :class:`Segment` or as
            ``(start, stop, begin, end, curve)``.
        steps: Number of steps in all.

    Raises:
        PlanError: If the pieces are not in order or a number is out of range.

    Example:
        >>> PiecewiseSchedule([(0, 10, 1e-4, 1e-3, "linear"), (10, 100, 1e-3, 1e-5, "cosine")], steps=101)
    """

    def __init__(self, pieces: Sequence[Segment | Sequence[Any]], steps: int) -> None:
        self.pieces = tuple(piece if isinstance(piece, Segment) else Segment(*piece) for piece in pieces)
        self.steps = int(steps)
        starts = [piece.start for piece in self.pieces]
        curves = {piece.curve for piece in self.pieces}
        if not starts or starts[0] != 0 or sorted(set(starts)) != starts or self.steps < 1:
            raise PlanError(
                "Pieces of a schedule start at step 0 and follow in order, over at least one step; "
                f"received starts {starts} and {self.steps} steps."
            )
        if not curves <= {"linear", "cosine"}:
            raise PlanError(f"The curve of a piece is 'linear' or 'cosine', received {join_names(sorted(curves))}.")
        if any(piece.stop < piece.start or min(piece.begin, piece.end) < 0 for piece in self.pieces):
            raise PlanError(f"A piece of a schedule ends before it starts, or its rate is negative: {self.pieces}.")

    def __call__(self, step: Any) -> Any:
        """Return the rate at a step, a float32 scalar."""
        step = ops.minimum(ops.cast(step, "float32"), float(self.steps - 1))
        rate = ops.convert_to_tensor(self.pieces[0].begin, "float32")
        for piece in self.pieces:
            share = ops.clip((step - piece.start) / max(piece.stop - piece.start, 1), 0.0, 1.0)
            if piece.curve == "cosine":
                share = 0.5 * (1.0 - ops.cos(math.pi * share))
            # Not begin + share * (end - begin): that would round an end away which is 1e-5 of the beginning.
            value = piece.begin * (1.0 - share) + piece.end * share if piece.begin != piece.end else piece.begin
            rate = ops.where(step >= piece.start, value, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Return plain values."""
        return {"pieces": [list(dataclasses.astuple(piece)) for piece in self.pieces], "steps": self.steps}


def build_schedule(phase: Phase, steps: int) -> Schedule | float:
    """Return the rate of a phase as a function of the step, for any Keras optimizer.

    The first step is never at rate 0, and neither is the last, so that even one step trains.

    - ``"cosine"``: a linear rise over ``phase.warmup`` of the steps, then a cosine to nearly 0 (Loshchilov and
      Hutter 2017, without restarts). The schedule for most things.
    - ``"linear"``: the same rise, then a straight line to nearly 0 (Devlin et al. 2019, BERT). For transformers.
    - ``"constant"``: the same rise, then the same rate. For averages of weights.
    - ``"one_cycle"``: half a cosine from 1/25 of the rate up to it over a quarter of the steps, then half a
      cosine down to 1e-5 of it (Smith 2018, in fastai's form). For high rates and few epochs. Its momentum stays.
    - ``"slanted"``: a line from 1/32 of the rate up over a tenth of the steps, then a line down (Howard and Ruder
      2018, ULMFiT). For text.
    - ``"steps"``: the rise, then a tenth of the rate at 2/5, again at 3/5 and at 4/5 of the steps (Kolesnikov et
      al. 2020, BiT, which takes ``warmup=0.2``). For SGD.
    - ``"plateau"``: the peak itself, as a number: ``keras.callbacks.ReduceLROnPlateau`` has to be able to set the
      rate, which Keras allows for a number only. So it has no rise.

    ``one_cycle`` and ``slanted`` have rises of their own and do not use ``phase.warmup``.

    Args:
        phase: Gives ``schedule``, ``learning_rate`` (the peak) and ``warmup``.
        steps: Number of steps of the whole phase, at least 1.

    Returns:
        A schedule that ``.keras`` files can hold, or the peak rate for ``"plateau"``.

    Raises:
        PlanError: For an unknown schedule, or fewer than one step.

    Example:
        >>> phase = Phase("fine-tune", 3, 5, 3e-4, schedule="one_cycle")
        >>> keras.optimizers.Adam(tfft.optimizers.build_schedule(phase, steps=5 * 45))
    """
    if phase.schedule not in _MAKERS:
        hint = did_you_mean(str(phase.schedule), SCHEDULES)
        raise PlanError(f"Unknown schedule {phase.schedule!r}.{hint} Schedules: {join_names(SCHEDULES)}.")
    if steps < 1:
        raise PlanError(f"A schedule needs at least one step, received {steps}.")
    return _MAKERS[phase.schedule](phase, steps)


def _rise(phase: Phase, steps: int) -> int:
    return min(int(phase.warmup * steps), steps - 1)


def _risen(phase: Phase, rise: int, rest: Sequence[Segment], steps: int) -> PiecewiseSchedule:
    peak = phase.learning_rate
    first = [Segment(0, rise, peak / (rise + 1), peak)] if rise else []
    return PiecewiseSchedule([*first, *rest], steps)


def _cosine(phase: Phase, steps: int) -> Schedule:
    rise, peak = _rise(phase, steps), phase.learning_rate
    if not rise:
        return keras.optimizers.schedules.CosineDecay(peak, steps)
    return keras.optimizers.schedules.CosineDecay(
        peak / (rise + 1), steps - rise, warmup_target=peak, warmup_steps=rise
    )


def _linear(phase: Phase, steps: int) -> Schedule:
    rise = _rise(phase, steps)
    return _risen(phase, rise, [Segment(rise, steps, phase.learning_rate, 0.0)], steps)


def _constant(phase: Phase, steps: int) -> Schedule:
    rise, peak = _rise(phase, steps), phase.learning_rate
    return _risen(phase, rise, [Segment(rise, steps, peak, peak)], steps)


def _one_cycle(phase: Phase, steps: int) -> Schedule:
    peak, last = phase.learning_rate, steps - 1
    if not last:
        return PiecewiseSchedule([Segment(0, 1, peak, peak)], 1)
    top = max(1, round(_ONE_CYCLE_RISE * last))
    up = Segment(0, top, peak / _ONE_CYCLE_START, peak, "cosine")
    return PiecewiseSchedule([up, Segment(top, last, peak, peak / _ONE_CYCLE_END, "cosine")], steps)


def _slanted(phase: Phase, steps: int) -> Schedule:
    peak, low = phase.learning_rate, phase.learning_rate / _SLANTED_RATIO
    if steps == 1:
        return PiecewiseSchedule([Segment(0, 1, peak, peak)], 1)
    cut = max(1, int(_SLANTED_RISE * steps))
    return PiecewiseSchedule([Segment(0, cut, low, peak), Segment(cut, steps, peak, low)], steps)


def _steps(phase: Phase, steps: int) -> Schedule:
    bounds = [-(-k * steps // 5) for k in (2, 3, 4)]  # rounded up, so that the first step has the whole rate
    rise = min(_rise(phase, steps), bounds[0] - 1)
    pieces: dict[int, Segment] = {}  # by start: in very short phases several bounds are one step
    for k, (start, stop) in enumerate(zip([rise, *bounds], [*bounds, steps], strict=True)):
        rate = phase.learning_rate / 10**k
        pieces[start] = Segment(start, max(start, stop), rate, rate)
    return _risen(phase, rise, list(pieces.values()), steps)


_MAKERS: dict[str, Callable[[Phase, int], Schedule | float]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "one_cycle": _one_cycle,
    "slanted": _slanted,
    "steps": _steps,
    "plateau": lambda phase, steps: float(phase.learning_rate),
}

SCHEDULES: tuple[str, ...] = tuple(_MAKERS)
