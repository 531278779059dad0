"""Plans: which phases a training has, and every number in them, with the reason for each.

A plan is data (:class:`tfft.Plan`, :class:`tfft.Phase`). ``tfft.finetune(..., plan=tfft.plans.gradual())`` uses a named
one, :func:`tfft.recommend_plan` chooses. Hidden here: how the numbers follow from a few facts about the examples and
the backbone.
"""

from __future__ import annotations

from tfft.plans.facts import Facts, Wishes, wishes_of
from tfft.plans.format import show
from tfft.plans.recommendation import recommend
from tfft.plans.strategies import (
    NAMES,
    NamedPlan,
    bit,
    fastai,
    few_shot,
    full,
    gradual,
    linear_probe,
    lp_ft,
    named,
    setfit,
    surgical,
)

__all__ = [
    "NAMES", "Facts", "NamedPlan", "Wishes", "bit", "fastai", "few_shot", "full", "gradual", "linear_probe", "lp_ft",
    "named", "recommend", "setfit", "show", "surgical", "wishes_of",
]  # fmt: skip
