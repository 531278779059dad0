"""Training in phases, with an audit of each phase: :func:`train`.

Each phase is a plain ``model.compile`` and ``model.fit``. For batches that do not fit into memory, see
:func:`find_batch_size` and :func:`microbatched`.
"""

from __future__ import annotations

from tfft.errors import require_platform

require_platform()

from tfft.io.allocator import advise_memory  # noqa: E402
from tfft.training.batch_size import BatchSize, find_batch_size  # noqa: E402
from tfft.training.checkpoint.callback import CheckpointConfig  # noqa: E402
from tfft.training.checkpoint.resume import Resume  # noqa: E402
from tfft.training.checkpoint.store import CheckpointError, CheckpointStore  # noqa: E402
from tfft.training.distribute import fit, is_chief, on_chief  # noqa: E402
from tfft.training.history import History  # noqa: E402
from tfft.training.loop import train, train_phase  # noqa: E402
from tfft.training.microbatch import microbatched  # noqa: E402
from tfft.training.plotting import plot_history  # noqa: E402
from tfft.training.suffix import FeatureSource, TrainableSuffix  # noqa: E402

__all__ = [
    "BatchSize", "CheckpointError", "CheckpointStore", "CheckpointConfig", "FeatureSource", "History", "Resume",
    "TrainableSuffix", "advise_memory", "find_batch_size", "fit", "is_chief", "microbatched", "on_chief",
    "plot_history", "train", "train_phase",
]  # fmt: skip
