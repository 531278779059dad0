"""Cut of a plan to the minutes that the user gives: :func:`within`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from tfft.config import Phase, Plan
from tfft.recipes.expectation import Stopwatch, label

_LEAST = 0.5  # share of the epochs that stays, as long as fewer blocks are left to try
_PARTS = (2, 3, 6)  # of the blocks: the last half, third and sixth


def within(plan: Plan, seconds: float, minutes: float, stopwatch: Stopwatch) -> Plan:
    """Return a plan that is expected to train in some time; the plan itself if it does.

    First the epochs are cut, down to half of them; then fewer of the last blocks train; then the epochs are cut to one;
    at last the head alone is computed.

    Args:
        plan: Plan with all settings.
        seconds: Seconds that are left for training.
        minutes: Minutes that the user gave, for the reason.
        stopwatch: Expected seconds of phases.

    Returns:
        A plan whose reasons say what was cut; the cheapest one, and by how much it is too long, if none fits.
    """
    if minutes >= 1 and stopwatch.is_quick(plan):
        return plan
    cheapest: tuple[float, Plan] | None = None
    for candidate in _candidates(plan, seconds, stopwatch):
        expected = stopwatch.expect(candidate).seconds
        if cheapest is None or expected < cheapest[0]:
            cheapest = expected, candidate
        if expected <= seconds:
            break
    else:
        if cheapest is None:
            return plan
        expected, candidate = cheapest
    return _with_reason(plan, candidate, expected, seconds, minutes)


def _candidates(plan: Plan, seconds: float, stopwatch: Stopwatch) -> Iterator[Plan]:
    """Yield plans from the most to the least training; none that takes far too long by its multiply-adds."""
    yield plan
    longest = stopwatch.expect(plan).seconds
    shares = sum(stopwatch.trained_share(phase) for phase in plan.phases)
    fewer = list(_fewer(plan, stopwatch))
    for least in (_LEAST, 0.0):
        for cut in fewer:
            share = sum(stopwatch.trained_share(phase) for phase in cut.phases) / shares if shares else 1.0
            last = not least and cut is fewer[-1]
            if cut is not plan and not last and longest * share * max(least, 0.1) > 1.5 * seconds:
                continue
            yield _fewer_epochs(cut, seconds, least, stopwatch)
    if plan.phases[0].solves_head and len(plan.phases) > 1:
        yield dataclasses.replace(plan, name="linear_probe", phases=plan.phases[:1])


def _fewer(plan: Plan, stopwatch: Stopwatch) -> Iterator[Plan]:
    """Yield the plan, then plans that train fewer blocks."""
    yield plan
    count = stopwatch.blocks
    for parts in _PARTS:
        most = math.ceil(count / parts)
        cut = [_at_most(phase, most, count) for phase in plan.phases]
        if tuple(cut) != plan.phases:
            yield dataclasses.replace(plan, phases=tuple(cut))


def _at_most(phase: Phase, most: int, count: int) -> Phase:
    trains = count if phase.unfreeze == "all" else phase.unfreeze
    if not isinstance(trains, int) or trains <= most or phase.num_surgical_blocks:
        return phase
    return dataclasses.replace(phase, unfreeze=most)


def _fewer_epochs(plan: Plan, seconds: float, least: float, stopwatch: Stopwatch) -> Plan:
    """Return the plan with as many epochs as fit, at least a share of them and at least one in each phase."""
    expected = stopwatch.expect(plan)
    epochs = {p.name: p.epochs * stopwatch.epoch(p) for p in plan.phases if p.epochs}
    fixed = expected.seconds - sum(epochs.values())
    factor = (seconds - fixed) / sum(epochs.values()) if epochs else 1.0
    factor = min(1.0, max(least, factor))
    phases = (dataclasses.replace(p, epochs=max(1, math.floor(p.epochs * factor))) if p.epochs else p
              for p in plan.phases)  # fmt: skip
    return dataclasses.replace(plan, phases=tuple(phases))


def _with_reason(plan: Plan, cut: Plan, expected: float, seconds: float, minutes: float) -> Plan:
    about = f"about {expected / 60:.1f} of {seconds / 60:.1f} minutes that are left of {minutes:g}"
    if cut.phases == plan.phases:
        reason = f"{about}: nothing was cut"
    else:
        reason = f"{_words(cut)} instead of {_words(plan)}: {about}"
    if expected > seconds:
        reason += "; nothing is left to cut, so the run takes longer than that"
    reasons = {name: text for name, text in plan.reasons.items() if name not in ("epochs", "unfreeze")}
    kept = plan.reasons if cut.phases == plan.phases else reasons
    return dataclasses.replace(cut, reasons={**kept, "minutes": reason})


def _words(plan: Plan) -> str:
    trained = [
        f"{phase.epochs} epochs of {'' if phase.unfreeze == 'all' else 'the '}{label(phase)}"
        for phase in plan.phases
        if phase.epochs
    ]
    return " and ".join(trained) or "the head alone"
