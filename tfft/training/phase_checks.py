"""What can be wrong with phases before anything is trained: :func:`check_phases`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfft.errors import PlanError, did_you_mean, listed, raise_problems
from tfft.optimizers import SCHEDULES, optimizer_names
from tfft.specs import Phase

_SHARES = ("warmup", "ema", "swa")  # 0 <= value < 1
_AMOUNTS = ("weight_decay", "l2_sp", "mixup", "cutmix")  # 0 <= value
_COUNTS = ("surgical", "reinitialize", "lora", "contrastive")  # whole, 0 <= value


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
        found = _solved(phase) if phase.solve else [*_ranges(phase), *_choices(phase), *_together(phase, validation)]
        problems += [f"in phase {phase.name!r} {problem}" for problem in found]
    raise_problems(PlanError, "The phases cannot be trained", problems)


def _solved(phase: Phase) -> Iterator[str]:
    if phase.solve not in (True, "prototypes"):
        yield f"solve must be False, True or 'prototypes', got {phase.solve!r}"
    if phase.unfreeze not in ("none", 0):
        yield f"the head is solved, so unfreeze must be 'none', got {phase.unfreeze!r}"
    if phase.contrastive:
        yield "contrastive tunes the features and solve computes the head: make two phases of them, one after the other"


def _ranges(phase: Phase) -> Iterator[str]:
    if not _whole(phase.epochs, 1):
        yield f"epochs must be an int of at least 1, got {phase.epochs!r}"
    if not _number(phase.learning_rate) or not 0 < phase.learning_rate < math.inf:
        yield f"learning_rate must be a number over 0, got {phase.learning_rate!r}"
    if phase.patience is not None and not _whole(phase.patience, 1):
        yield f"patience must be None or an int of at least 1, got {phase.patience!r}"
    for name in _SHARES:
        value = getattr(phase, name)
        if not _number(value) or not 0 <= value < 1:
            what = "a share of the steps, " if name != "ema" else ""
            yield f"{name} is {what}0 <= {name} < 1, got {value!r}"
    for name in _AMOUNTS:
        value = getattr(phase, name)
        if not _number(value) or not 0 <= value < math.inf:
            yield f"{name} must be 0 or more, got {value!r}"
    for name in _COUNTS:
        if not _whole(getattr(phase, name), 0):
            yield f"{name} must be a whole number of at least 0, got {getattr(phase, name)!r}"
    if not _number(phase.layer_decay) or not 0 < phase.layer_decay <= 1:
        yield f"layer_decay must be over 0 and at most 1, got {phase.layer_decay!r}"
    if phase.clip_norm is not None and not (_number(phase.clip_norm) and 0 < phase.clip_norm < math.inf):
        yield f"clip_norm must be None or a number over 0, got {phase.clip_norm!r}"


def _choices(phase: Phase) -> Iterator[str]:
    for name, choices in (("schedule", SCHEDULES), ("optimizer", optimizer_names())):
        value = getattr(phase, name)
        if value not in choices:
            hint = did_you_mean(str(value), choices)
            yield f"{name} must be one of {listed(choices)}, got {value!r}.{hint}"
    if not isinstance(phase.rates, Mapping):
        yield f"rates must map blocks to factors of the rate, got {phase.rates!r}"
        return
    for block, factor in phase.rates.items():
        if not _number(factor) or not 0 < factor < math.inf:
            yield (
                f"the rate of {block!r} must be a factor over 0, got {factor!r}; to keep a block as it is, leave it "
                "out of unfreeze"
            )


def _together(phase: Phase, validation: bool) -> Iterator[str]:
    if phase.l2_sp and phase.weight_decay:
        yield "l2_sp pulls to the pretrained weights and weight_decay to 0: give one of them"
    if phase.ema and phase.swa:
        yield "ema and swa are both averages of the weights: give one of them"
    if phase.lora and (phase.reinitialize or phase.l2_sp):
        yield "lora leaves the kernels as they are, so reinitialize and l2_sp do not fit"
    if phase.lora and phase.surgical:
        yield "surgical chooses among the blocks itself, and lora takes those of unfreeze: give one of them"
    if isinstance(phase.unfreeze, int) and _whole(phase.reinitialize, 0) and phase.reinitialize > phase.unfreeze > 0:
        yield f"reinitialize={phase.reinitialize} is more than the {phase.unfreeze} blocks that train"
    if phase.reinitialize and phase.interpolate:
        yield "interpolate goes back to the weights before the phase, and reinitialize throws those away"
    if phase.unfreeze in ("none", 0):
        asked = [
            name
            for name in ("l2_sp", "surgical", "reinitialize", "lora", "contrastive")
            if _number(getattr(phase, name)) and getattr(phase, name)
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


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
