"""Estimated compute of a plan, before training: :func:`cost`.

Implementation notes: the unit is the multiply-add, as counted by :func:`tfft.describe`; frozen blocks count once if
they are cached, else in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfft.config import Phase, Plan
from tfft.freezing import describe, select

_BACKWARD = 2  # times the forward pass: gradients of the inputs and of the weights


def cost(model: keras.Model, plan: Plan, examples: int, *, cached: bool) -> str:
    """Return the multiply-adds of each phase, and its share of training everything.

    Args:
        model: Model, as it will be trained.
        plan: Plan with the phases.
        examples: Number of examples per epoch.
        cached: Whether the frozen blocks run once per view of an example instead of in every epoch.

    Returns:
        One line per phase; an empty string if the multiply-adds of a block are unknown.
    """
    rows = describe(model).rows
    names = [row.block for row in rows if row.part == "backbone"]
    each = [row.flops for row in rows if row.part == "backbone" and row.flops is not None]
    if len(each) < len(names) or not sum(each):
        return ""
    lines, whole = [], sum(each) * (1 + _BACKWARD) * examples
    for phase in plan.phases:
        below = sum(each[: _first(model, phase, names)])
        above = sum(each) - below
        once = below * examples * (plan.views if cached else max(1, phase.epochs))
        shown = max(1, phase.contrastive_repeats)  # times that an epoch shows each example
        work = once + above * (1 + _BACKWARD) * examples * phase.epochs * shown
        line = f"cost of {phase.name}: {_amount(work)} multiply-adds"
        if phase.epochs:
            share = work / (whole * phase.epochs)
            line += f", {share:.0%} of the cost of training everything for {phase.epochs} epochs"
        lines.append(line + (", less the cached part" if cached else ""))
    return "\n".join(lines)


def _first(model: keras.Model, phase: Phase, names: Sequence[str]) -> int:
    """Return the position of the first block that trains, or one past the last block if none does."""
    if phase.unfreeze in ("none", 0):
        return len(names)
    return min((names.index(block.name) for block in select(model, phase.unfreeze)), default=len(names))


def _amount(count: float) -> str:
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"
