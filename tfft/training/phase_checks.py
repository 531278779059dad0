"""What can be wrong with phases before anything is trained: :func:`check_phases`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfft.config import Phase
from tfft.errors import PlanError, did_you_mean, listed, raise_problems
from tfft.optimizers import SCHEDULES, optimizer_names
from tfft.settings import is_number, is_whole, problems_of


def check_phases(phases: Sequence[Phase], *, validation: bool = True) -> None:
    """Finds everything that is out of range in phases, or does not go together.

    Args:
        phases: in order.
        validation: whether there are validation examples, which some settings need.

    Raises:
        PlanError: with all problems at once.
    """
    problems = [] if phases else ["there is no phase, so nothing would be trained"]
    names = [phase.name for phase in phases]
    problems += [f"two phases are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    for phase in phases:
        if phase.solve:
            found = list(_solved(phase))
        else:
            found = [*problems_of(phase), *_choices(phase), *_together(phase, validation)]
        problems += [f"in phase {phase.name!r}, {problem}" for problem in found]
    raise_problems(PlanError, "The phases cannot be trained", problems)


def _solved(phase: Phase) -> Iterator[str]:
    yield from (problem for problem in problems_of(phase) if problem.startswith("solve: "))
    if phase.unfreeze not in ("none", 0):
        yield f"the head is solved, so unfreeze must be 'none', got {phase.unfreeze!r}"
    if phase.contrastive:
        yield "contrastive tunes the features and solve computes the head: make two phases of them, one after the other"


def _choices(phase: Phase) -> Iterator[str]:
    for name, choices in (("schedule", SCHEDULES), ("optimizer", optimizer_names())):
        value = getattr(phase, name)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            yield f"{name}: Expected one of {listed(choices)}. Received: {value!r}.{hint}"


def _together(phase: Phase, validation: bool) -> Iterator[str]:
    if phase.l2_sp and phase.weight_decay:
        yield "l2_sp pulls to the pretrained weights and weight_decay to 0: give one of them"
    if phase.ema and phase.swa:
        yield "ema and swa are both averages of the weights: give one of them"
    if phase.lora and (phase.reinitialize or phase.l2_sp):
        yield "lora leaves the kernels as they are, so reinitialize and l2_sp do not fit"
    if phase.lora and phase.surgical:
        yield "surgical chooses among the blocks itself, and lora takes those of unfreeze: give one of them"
    if isinstance(phase.unfreeze, int) and is_whole(phase.reinitialize) and phase.reinitialize > phase.unfreeze > 0:
        yield f"reinitialize={phase.reinitialize} is more than the {phase.unfreeze} blocks that train"
    if phase.reinitialize and phase.interpolate:
        yield "interpolate goes back to the weights before the phase, and reinitialize throws those away"
    if phase.unfreeze in ("none", 0):
        asked = [
            name
            for name in ("l2_sp", "surgical", "reinitialize", "lora", "contrastive")
            if is_number(getattr(phase, name)) and getattr(phase, name)
        ]
        if phase.layer_decay != 1 or phase.rates:
            asked.append("layer_decay or rates")
        if asked:
            yield f"no block trains, so {listed(asked)} would do nothing"
    if phase.contrastive:
        yield from _contrastive(phase)
    if not validation:
        if phase.interpolate:
            yield "interpolate chooses by the validation examples, and there are none"
        if phase.schedule == "plateau":
            yield "the schedule 'plateau' waits for the validation loss, and there are no validation examples"


def _contrastive(phase: Phase) -> Iterator[str]:
    if phase.mixup or phase.cutmix:
        yield "contrastive compares examples of one class or of two, and mixup and cutmix make examples of both"
    if phase.surgical:
        yield "surgical chooses blocks by the loss of the head, which a contrastive phase does not train"
    if phase.reinitialize:
        yield "contrastive is for few examples, which cannot teach the new weights of reinitialize anything"
    if phase.interpolate or phase.schedule == "plateau":
        waits = [
            n for n, asked in (("interpolate", phase.interpolate), ("plateau", phase.schedule == "plateau")) if asked
        ]
        yield f"contrastive leaves the head as it was, so there is no validation loss for {listed(waits)}"
