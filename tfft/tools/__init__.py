"""Advisory tools; experimental, their interface may change.

:func:`plan_cut` estimates the size and time of a feature cache for every cut of a network.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.tools.cut_planner.planner import Cut, CutPlan, plan_cut  # noqa: E402

__all__ = ["Cut", "CutPlan", "plan_cut"]
