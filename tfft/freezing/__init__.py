"""Freezing of blocks in a pretrained network, with a table and an audit of the result.

Implementation notes: the flags are set so that Keras respects them after a ``fit`` and stores them in a ``.keras``
file. All of this works on any Keras model.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402, F401  before the modules: importing Keras imports layers that need them

from tfft.freezing.batch_norm import refresh_batch_norm  # noqa: E402
from tfft.freezing.gradient_ratios import RelativeGradients, relative_gradients, surgical_blocks  # noqa: E402
from tfft.freezing.lora import add_lora, merge_lora  # noqa: E402
from tfft.freezing.reinitialization import reinitialize  # noqa: E402
from tfft.freezing.selection import freeze, select, unfreeze  # noqa: E402
from tfft.freezing.summary import Description, describe  # noqa: E402
from tfft.freezing.weight_audit import Audit, AuditReport, audit  # noqa: E402

__all__ = [
    "Audit", "AuditReport", "Description", "RelativeGradients", "add_lora", "audit", "describe", "freeze", "merge_lora",
    "refresh_batch_norm", "reinitialize", "relative_gradients", "select", "surgical_blocks", "unfreeze",
]  # fmt: skip
