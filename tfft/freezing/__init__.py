"""Choose which parts of a pretrained network train, see the choice, and prove that it held.

Hides how a choice of blocks becomes ``trainable`` flags that Keras obeys, keeps in a ``.keras`` file
and does not silently ignore after a ``fit``. Works on any Keras model, built by tfft or not.
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
