"""Complete runs, from labelled data to a served model: :func:`finetune`.

Implementation notes: this package alone imports all other parts. It orders the steps, chooses the settings that are
"auto" and writes the files of a run.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.config import RunConfig  # noqa: E402
from tfft.plans import DatasetStats, recommend  # noqa: E402
from tfft.recipes.choosing import recommend_plan  # noqa: E402
from tfft.recipes.cross_validation import SeedRuns, cross_validate, finetune_seeds  # noqa: E402
from tfft.recipes.feature_caching import CachedFeatures, cache_features  # noqa: E402
from tfft.recipes.fine_tuning import finetune, rerun  # noqa: E402
from tfft.recipes.run import Run, load_run, plan_from_yaml  # noqa: E402

__all__ = [
    "CachedFeatures",
    "DatasetStats",
    "Run",
    "RunConfig",
    "SeedRuns",
    "cache_features",
    "cross_validate",
    "finetune",
    "finetune_seeds",
    "load_run",
    "plan_from_yaml",
    "recommend",
    "recommend_plan",
    "rerun",
]
