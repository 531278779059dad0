"""tfft: transfer learning for TensorFlow and Keras 3.

    backbone = tfft.load_backbone("efficientnet-lite0")
    model = tfft.build(backbone, tfft.heads.classification(["cat", "dog"]))
    tfft.unfreeze(model, 3)
    model.compile("adam", **tfft.heads.from_model(model).compile_args())
    model.fit(...)
    tfft.export(model, "served/1")

Importing tfft is cheap: names load on first use, and TensorFlow with them. The layers that ``.keras`` files need are
registered as soon as Keras is imported.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

__version__ = "0.2.0"

_NAMES = {
    "load_backbone": "tfft.backbones",
    "list_backbones": "tfft.backbones",
    "resolve": "tfft.backbones",
    "build": "tfft.models",
    "unfreeze": "tfft.freezing",
    "freeze": "tfft.freezing",
    "describe": "tfft.freezing",
    "audit": "tfft.freezing",
    "evaluate": "tfft.evaluation",
    "calibrate": "tfft.evaluation",
    "choose_thresholds": "tfft.evaluation",
    "explain": "tfft.explanation",
    "export": "tfft.exporting.savedmodel",
    "check": "tfft.inspection",
    "finetune": "tfft.recipes",
    "load_run": "tfft.recipes",
    "finetune_seeds": "tfft.recipes",
    "cross_validate": "tfft.recipes",
    "recommend": "tfft.recommendation",
    "recommend_plan": "tfft.recipes",
    "plot_history": "tfft.training",
    "write_report": "tfft.reporting",
    "lr_find": "tfft.optimizers",
    "AudioSpec": "tfft.specs",
    "InputSpec": "tfft.specs",
    "Phase": "tfft.config",
    "Plan": "tfft.config",
    "RunConfig": "tfft.config",
    "TfftError": "tfft.errors",
}
_MODULES = (
    "backbones", "config", "contrastive", "data", "errors", "evaluation", "explanation", "exporting", "features",
    "freezing", "heads", "inspection", "modalities", "models", "optimizers", "plans", "recipes", "recommendation",
    "registry", "regularizers", "reporting", "serving", "specs", "tasks", "testing", "tools", "training",
    "weight_averaging",
)  # fmt: skip
# Modules with classes that a `.keras` file may name.
_REGISTERED = (
    "tfft.layers.pooling", "tfft.layers.pixel_checks", "tfft.layers.preprocess", "tfft.layers.log_mel",
    "tfft.layers.tokenize", "tfft.layers.word_alignment", "tfft.layers.waveform", "tfft.layers.each_example",
    "tfft.layers.relative_positions", "tfft.layers.speech_blocks", "tfft.layers.voice_blocks",
    "tfft.layers.transformer_blocks", "tfft.layers.bart_blocks", "tfft.layers.t5_blocks",
    "tfft.layers.moonshine_blocks", "tfft.layers.moonshine_decoder",
    "tfft.layers.pair_tokenizer", "tfft.layers.caffe_pixels", "tfft.layers.start_end_packer",
    "tfft.layers.keras_hub_layers",
    "tfft.layers.litert_model", "tfft.backbones.savedmodel.layer", "tfft.contrastive", "tfft.heads",
    "tfft.tasks.object_detection.layers", "tfft.tasks.object_detection.loss", "tfft.tasks.object_detection.metric",
    "tfft.tasks.object_detection.retinanet",
    "tfft.tasks.semantic_segmentation.layers", "tfft.tasks.semantic_segmentation.losses",
    "tfft.tasks.transcription.layers", "tfft.tasks.transcription.loss", "tfft.tasks.transcription.metric",
    "tfft.tasks.speech_synthesis.layers", "tfft.tasks.speech_synthesis.losses", "tfft.tasks.speech_synthesis.vocoder",
    "tfft.losses",
    "tfft.optimizers.per_variable_lr", "tfft.optimizers.schedules", "tfft.regularizers.l2_sp",
)  # fmt: skip

# Modules that these import and that may be the first to import Keras.
_BELOW_LAYERS = ("tfft.keras_compat", "tfft.backbones.base", "tfft.heads")

__all__ = sorted([*_NAMES, *_MODULES, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"tfft.{name}")
    raise AttributeError(f"module 'tfft' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def register_layers(keras: Any) -> None:
    """Register tfft's layers for ``keras.saving.load_model``; called once Keras has been imported."""
    if keras.config.backend() != "tensorflow":
        return  # tfft cannot run, but importing Keras must work; using tfft raises the error
    started = [sys.modules[name] for name in _BELOW_LAYERS if name in sys.modules]
    if not all(hasattr(module, "COMPLETE") for module in started):
        return  # this module imports Keras and calls this function at its end
    if _registering:
        return
    from tfft.errors import DependencyError

    _registering.append(True)
    with contextlib.suppress(DependencyError):  # also for versions that are too old
        for module in _REGISTERED:
            importlib.import_module(module)


_registering: list[bool] = []  # non-empty after the first call: importing the layers calls it again

wrapt.register_post_import_hook(register_layers, "keras")

if TYPE_CHECKING:
    from tfft import backbones, config, contrastive, data, errors, evaluation, explanation, exporting  # noqa: I001
    from tfft import features, freezing, heads
    from tfft import inspection, modalities, models, optimizers, plans, recipes, recommendation, registry, regularizers
    from tfft import specs, tasks, testing, tools, training, weight_averaging
    from tfft.backbones import list_backbones, load_backbone, resolve
    from tfft.errors import TfftError
    from tfft.evaluation import calibrate, choose_thresholds, evaluate
    from tfft.explanation import explain
    from tfft.exporting.savedmodel import export
    from tfft.inspection import check
    from tfft.models import build
    from tfft.optimizers import lr_find
    from tfft.recipes import cross_validate, finetune, finetune_seeds, load_run, recommend_plan
    from tfft.recommendation import recommend
    from tfft.freezing import audit, describe, freeze, unfreeze
    from tfft.config import Phase, Plan, RunConfig
    from tfft.specs import AudioSpec, InputSpec
    from tfft.reporting import write_report
    from tfft.training import plot_history
