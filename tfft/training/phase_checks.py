"""Checks of phases before training: :func:`check_phases`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tfft.config import Phase
from tfft.errors import PlanError, did_you_mean, join_names, raise_problems
from tfft.optimizers import SCHEDULES, optimizer_names
from tfft.settings import is_number, is_whole, problems_of


def check_phases(phases: Sequence[Phase], *, validation: bool = True) -> None:
    """Find all values in phases that are out of range or incompatible.

    Args:
        phases: Phases in order.
        validation: Whether there are validation examples, which some settings need.

    Raises:
        PlanError: With all problems at once.
    """
    problems = [] if phases else ["there is no phase, so nothing would be trained"]
    names = [phase.name for phase in phases]
    problems += [f"two phases are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    for phase in phases:
        if phase.solves_head:
            found = list(_solved(phase))
        else:
            found = [*problems_of(phase), *_choices(phase), *_together(phase, validation)]
        problems += [f"in phase {phase.name!r}, {problem}" for problem in found]
    raise_problems(PlanError, "The phases cannot be trained", problems)


def _solved(phase: Phase) -> Iterator[str]:
    yield from (problem for problem in problems_of(phase) if problem.startswith("head: "))
    if phase.unfreeze not in ("none", 0):
        yield f"head={phase.head!r} needs unfreeze='none'. Received: unfreeze={phase.unfreeze!r}"
    if phase.contrastive_repeats:
        yield f"contrastive_repeats tunes the features, head={phase.head!r} computes the head: use two phases"


def _choices(phase: Phase) -> Iterator[str]:
    for name, choices in (("schedule", SCHEDULES), ("optimizer", optimizer_names())):
        value = getattr(phase, name)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            yield f"{name}: Expected one of {join_names(choices)}. Received: {value!r}.{hint}"


def _together(phase: Phase, validation: bool) -> Iterator[str]:
    contradictions = [
        (
            phase.l2_sp and phase.weight_decay,
            "l2_sp pulls towards the pretrained weights and weight_decay towards 0: give one of them",
        ),
        (
            phase.ema_decay and phase.swa_fraction,
            "ema_decay and swa_fraction are both averages of the weights: give one of them",
        ),
        (
            phase.lora_rank and (phase.reinitialize or phase.l2_sp),
            "lora_rank does not train the kernels, so reinitialize and l2_sp do not apply",
        ),
        (
            phase.lora_rank and phase.num_surgical_blocks,
            "num_surgical_blocks chooses among the blocks, and lora_rank takes those of unfreeze: give one of them",
        ),
        (
            isinstance(phase.unfreeze, int)
            and is_whole(phase.reinitialize)
            and phase.reinitialize > phase.unfreeze > 0,
            f"reinitialize={phase.reinitialize} exceeds the {phase.unfreeze} blocks that train",
        ),
        (
            phase.reinitialize and phase.interpolate,
            "interpolate goes back to the weights before the phase, and reinitialize discards those",
        ),
        (
            phase.interpolate and not validation,
            "interpolate chooses by the validation examples, and there are none",
        ),
        (
            phase.schedule == "plateau" and not validation,
            "the schedule 'plateau' waits for the validation loss, and there are no validation examples",
        ),
    ]
    yield from (message for contradicts, message in contradictions if contradicts)
    if phase.unfreeze in ("none", 0):
        yield from _without_blocks(phase)
    if phase.contrastive_repeats:
        yield from _contrastive(phase)


def _without_blocks(phase: Phase) -> Iterator[str]:
    names = ("l2_sp", "num_surgical_blocks", "reinitialize", "lora_rank", "contrastive_repeats")
    asked = [name for name in names if is_number(getattr(phase, name)) and getattr(phase, name)]
    if phase.layer_decay != 1 or phase.lr_multipliers:
        asked.append("layer_decay or lr_multipliers")
    if asked:
        yield f"no block trains, so {join_names(asked)} would have no effect"


def _contrastive(phase: Phase) -> Iterator[str]:
    if phase.mixup_alpha or phase.cutmix_alpha:
        yield "contrastive_repeats compares examples by class; mixup and cutmix mix classes"
    if phase.num_surgical_blocks:
        yield "num_surgical_blocks chooses blocks by the loss of the head, which a contrastive phase does not train"
    if phase.reinitialize:
        yield "contrastive_repeats is for few examples, which are too few to train the new weights of reinitialize"
    if phase.interpolate or phase.schedule == "plateau":
        waits = [
            n for n, asked in (("interpolate", phase.interpolate), ("plateau", phase.schedule == "plateau")) if asked
        ]
        yield f"contrastive_repeats leaves the head as it was, so there is no validation loss for {join_names(waits)}"
