"""Advisory tools beside the training walk; experimental, their form may change.

:func:`plan_cut` estimates what every cut of a network would cost; :func:`flip_difference` measures whether mirrored
features equal the features of mirrored images.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.tools.cut_planner.flip import flip_difference  # noqa: E402
from tfft.tools.cut_planner.planner import Cut, CutPlan, plan_cut  # noqa: E402

__all__ = ["Cut", "CutPlan", "flip_difference", "plan_cut"]
