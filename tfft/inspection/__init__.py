"""Checks of a dataset before training: :func:`check`."""

from tfft.errors import require_platform

require_platform()

import keras  # noqa: E402, F401  before tfft.backbones: tfft registers its layers when Keras is imported

from tfft.inspection.dataset_check import check, check_splits  # noqa: E402
from tfft.inspection.findings import DataReport, Finding, Item  # noqa: E402
from tfft.inspection.heatmaps import grad_cam  # noqa: E402
from tfft.inspection.label_noise import LabelCandidate, label_candidates  # noqa: E402

__all__ = [
    "DataReport",
    "Finding",
    "Item",
    "LabelCandidate",
    "check",
    "check_splits",
    "grad_cam",
    "label_candidates",
]
