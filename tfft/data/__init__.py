"""Labelled examples of any modality, from a source to a ``tf.data.Dataset`` that fits a backbone.

The packages in ``tfft.modalities`` define the examples of each modality, with loaders and tools of their own.
"""

from tfft.errors import require_platform

require_platform()

from tfft.data.batches import BatchOptions  # noqa: E402
from tfft.data.class_balance import apply_class_weights, class_weights  # noqa: E402
from tfft.data.examples import Examples, Skipped, Splits, fold_splits  # noqa: E402
from tfft.data.labels import check_labels  # noqa: E402
from tfft.data.loader import load, to_dataset  # noqa: E402
from tfft.data.mixup import apply_mixup, one_hot  # noqa: E402
from tfft.data.split import SplitOptions, read_split, write_split  # noqa: E402

__all__ = [
    "BatchOptions",
    "Examples",
    "Skipped",
    "SplitOptions",
    "Splits",
    "check_labels",
    "class_weights",
    "fold_splits",
    "load",
    "apply_mixup",
    "one_hot",
    "read_split",
    "to_dataset",
    "apply_class_weights",
    "write_split",
]
