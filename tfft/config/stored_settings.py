"""Settings as plans and checkpoints of all versions store them: :func:`current_names`, :func:`plain`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from tfft.config.shared_settings import SharedSettings
from tfft.settings import defaults_of

# New names by old name, for plans and checkpoints of earlier versions.
ALIASES: dict[str, str] = {
    "part_size": "microbatch_size",
    "rates": "lr_multipliers",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "ema": "ema_decay",
    "swa": "swa_fraction",
    "surgical": "num_surgical_blocks",
    "lora": "lora_rank",
    "clip_norm": "global_clipnorm",
    "contrastive": "contrastive_repeats",
}
_CLASSES = {
    "ScaledOptimizer": "LayerwiseOptimizer",
    "ExponentialAverage": "ExponentialMovingAverage",
    "WeightAverage": "StochasticWeightAveraging",
}
_SOLVE = {False: "train", True: "linear_probe", "prototypes": "nearest_mean"}  # `solve` became `head`


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored settings under their names of today."""
    known = {ALIASES.get(name, name): value for name, value in values.items()}
    if "solve" in known:
        known["head"] = _SOLVE.get(known.pop("solve"), "train")
    return known


def current_names(value: Any) -> Any:
    """Return stored settings as they are called today, with the defaults of those that came later.

    The names are those of settings, and of classes under ``class``.

    Args:
        value: Nested plain values, such as the settings stored with a checkpoint.
    """
    if isinstance(value, list):
        return [current_names(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    named = {}
    for name, one in renamed(value).items():
        if name == "class":
            named[name] = _CLASSES.get(one, one)
        elif name == "phases" and isinstance(one, Mapping):  # by their names, which are the user's
            named[name] = {phase: current_names(settings) for phase, settings in one.items()}
        elif name == "augment":  # has a "mixup" and a "cutmix" of its own
            named[name] = one
        else:
            named[name] = current_names(one)
    if "backbone_digest" in named:  # a plan, of a version that may have had fewer settings
        named = {name: plain(default) for name, default in defaults_of(SharedSettings).items()} | named
    return named


def plain(value: Any) -> Any:
    """Convert the value of a setting to plain YAML and JSON values."""
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value
