"""All settings of a run: :class:`RunConfig`, :class:`Phase` and :class:`Plan`.

The keywords of :func:`tfft.finetune`, the options of ``tfft train``, the keys of ``plan.yaml`` and their documentation
come from the fields here. This package never imports TensorFlow.
"""

from __future__ import annotations

from tfft.config.plan import Phase, Plan
from tfft.config.run_config import RunConfig, RunSettings, config_of
from tfft.config.shared_settings import SharedSettings

__all__ = ["Phase", "Plan", "RunConfig", "RunSettings", "SharedSettings", "config_of"]
