"""Heads: task-specific layers with their loss, metrics and postprocessing.

A head ends in logits, and its loss, its metrics and :meth:`Head.postprocess` all start from them; one object keeps them
consistent (a metric that expects probabilities but gets logits reports nonsense without an error). The last layer of a
model stores its head in its config, so a saved model knows its classes.

Each task has a class of heads and a factory function: ``heads.classification``, ``heads.binary``, ``heads.multilabel``,
``heads.regression``, ``heads.token_classification``, ``heads.object_detection``, ``heads.semantic_segmentation``,
``heads.transcription``, and ``heads.NAME`` for every task added with :func:`tfft.registry.register_task`. They are in
``tfft/tasks``; this module has their base classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tfft import register_layers, registry
from tfft.errors import did_you_mean, require_platform

require_platform()

import keras  # noqa: E402

from tfft.heads.base import (  # noqa: E402, F401
    DROPOUT_LAYER,
    FOCAL_GAMMA,
    LOGITS_LAYER,
    LOSSES,
    OUTSIDE,
    RAW_SIGNATURE,
    Answer,
    ConvexLoss,
    Head,
    ModelFeatures,
    ServedModel,
    as_names,
)  # fmt: skip
from tfft.heads.logits import Logits, TokenLogits, WordLogits, from_model, logits_layers, set_l2  # noqa: E402, F401

if TYPE_CHECKING:  # what __getattr__ gives
    from tfft.tasks.classification.head import binary, classification
    from tfft.tasks.multilabel.head import multilabel
    from tfft.tasks.object_detection.head import object_detection
    from tfft.tasks.regression.head import regression
    from tfft.tasks.semantic_segmentation.head import semantic_segmentation
    from tfft.tasks.speech_synthesis.head import speech_synthesis
    from tfft.tasks.text_to_text.head import text_to_text
    from tfft.tasks.token_classification.head import token_classification
    from tfft.tasks.transcription.head import transcription

__all__ = [
    "LOSSES", "Head", "Logits", "ModelFeatures", "ServedModel", "TokenLogits", "WordLogits", "binary", "classification",
    "from_model", "multilabel", "object_detection", "regression", "semantic_segmentation", "set_l2",
    "speech_synthesis", "text_to_text", "token_classification", "transcription",
]  # fmt: skip


def __getattr__(name: str) -> Callable[..., Head]:
    if not name.startswith("_") and name in registry.task_names():
        return registry.task(name).head_factory()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{did_you_mean(name, registry.task_names())}")


def __dir__() -> list[str]:
    return sorted([*globals(), *registry.task_names()])


COMPLETE = True
"""Marks the end of this module: only now can the layers of tasks, which import it, be imported."""
register_layers(keras)
