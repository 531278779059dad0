"""What can be wrong with phases before anything is trained: :func:`check_phases`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tfft.errors import PlanError, raise_problems
from tfft.specs import Phase


def check_phases(phases: Sequence[Phase]) -> None:
    """Raises one :class:`PlanError` with everything that is out of range in the phases."""
    problems = [] if phases else ["there is no phase, so nothing would be trained"]
    names = [phase.name for phase in phases]
    problems += [f"two phases are called {name!r}" for name in sorted(set(names)) if names.count(name) > 1]
    for phase in phases:
        where = f"in phase {phase.name!r} "
        if phase.solve:
            if phase.unfreeze not in ("none", 0):
                problems.append(f"{where}the head is solved, so unfreeze must be 'none', got {phase.unfreeze!r}")
            continue
        if isinstance(phase.epochs, bool) or not isinstance(phase.epochs, int) or phase.epochs < 1:
            problems.append(f"{where}epochs must be an int of at least 1, got {phase.epochs!r}")
        if not _number(phase.learning_rate) or not 0 < phase.learning_rate < math.inf:
            problems.append(f"{where}learning_rate must be a number over 0, got {phase.learning_rate!r}")
        if not _number(phase.warmup) or not 0 <= phase.warmup < 1:
            problems.append(f"{where}warmup is a share of the steps, 0 <= warmup < 1, got {phase.warmup!r}")
        if phase.patience is not None and (not isinstance(phase.patience, int) or phase.patience < 1):
            problems.append(f"{where}patience must be None or an int of at least 1, got {phase.patience!r}")
    raise_problems(PlanError, "The phases cannot be trained", problems)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
