"""Contract tests for backbones, heads, tasks and exports.

tfft's own tests run these on every kind of model; run them on your own backbone before you use it. They train for a few
steps on random data of the right shape, so they take seconds.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.testing.backbone_contract import check_backbone, sample_inputs  # noqa: E402
from tfft.testing.contract import Contract, ContractError  # noqa: E402
from tfft.testing.export_contract import check_export  # noqa: E402
from tfft.testing.head_contract import check_head, check_task  # noqa: E402

__all__ = [
    "Contract", "ContractError", "check_backbone", "check_export", "check_head", "check_task", "sample_inputs",
]  # fmt: skip
