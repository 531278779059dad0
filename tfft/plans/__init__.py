"""Plans: which phases a training has, and every number in them, with the reason for each.

A plan is data (:class:`tfft.Plan`, :class:`tfft.Phase`). Hidden here: how it follows from a few facts about the
examples and the backbone.
"""

from __future__ import annotations

from tfft.plans.recommending import Facts, Wishes, recommend, show, wishes_of

__all__ = ["Facts", "Wishes", "recommend", "show", "wishes_of"]
