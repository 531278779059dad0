"""Choice of a backbone for some data: :func:`recommend`.

Implementation notes: candidates meet in pairs on the same examples, so that the difference between two is known far
better than the score of each.
"""

from __future__ import annotations

from tfft.recommendation.backbone_choice import recommend
from tfft.recommendation.result import CandidateResult, Recommendation

__all__ = ["CandidateResult", "Recommendation", "recommend"]
