"""Plans: the phases of a training with all settings, and the reason for each.

A plan is data (:class:`tfft.Plan`, :class:`tfft.Phase`). ``tfft.finetune(..., plan=tfft.plans.gradual())`` uses a named
one, :func:`tfft.recommend_plan` chooses. Implementation notes: the numbers follow from a few
statistics of the examples and the backbone, :class:`DatasetStats`.
"""

from __future__ import annotations

from tfft.plans.format import format_plan, summarize_plan
from tfft.plans.recommendation import recommend
from tfft.plans.stats import DatasetStats
from tfft.plans.strategies import (
    PLAN_NAMES,
    NamedPlan,
    bit,
    fastai,
    few_shot,
    from_scratch,
    full,
    gradual,
    linear_probe,
    lp_ft,
    measured,
    named,
    setfit,
    surgical,
)

__all__ = [
    "PLAN_NAMES", "DatasetStats", "NamedPlan", "bit", "fastai", "few_shot", "format_plan", "from_scratch", "full",
    "gradual", "linear_probe", "lp_ft", "measured", "named", "recommend", "setfit", "summarize_plan", "surgical",
]  # fmt: skip
