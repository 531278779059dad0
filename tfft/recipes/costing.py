"""What a plan will cost, before it is trained: :func:`cost`.

Hides what runs once and what runs in every epoch. The unit is the multiply-add, as :func:`tfft.describe` counts them;
how many a machine does in a second is seen in the first epoch.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from tfft.config import Phase, Plan
from tfft.freezing import describe, select

_BACKWARD = 2  # times the forward pass: gradients of the inputs and of the weights


def cost(model: keras.Model, plan: Plan, examples: int, *, cached: bool) -> str:
    """Says for each phase how many multiply-adds it takes, and how many with everything unfrozen.

    Args:
        model: as it will be trained.
        plan: whose phases are to be trained.
        examples: that an epoch has.
        cached: whether what is frozen runs once for each view of an example, not in every epoch.

    Returns:
        One line for each phase; empty where the multiply-adds of a block are not known.
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
            line += f", {share:.0%} of what {phase.epochs} epochs of everything take"
        lines.append(line + (", less what is in the cache" if cached else ""))
    return "\n".join(lines)


def _first(model: keras.Model, phase: Phase, names: Sequence[str]) -> int:
    """Position of the first block that trains; behind the last where none does."""
    if phase.unfreeze in ("none", 0):
        return len(names)
    return min((names.index(block.name) for block in select(model, phase.unfreeze)), default=len(names))


def _amount(count: float) -> str:
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"
