"""The optimizer of a phase, by name: :func:`build_optimizer`.

Implementation notes: biases and normalization are excluded from weight decay.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

import keras

from tfft.backbones.base import is_opened
from tfft.config import Phase
from tfft.errors import PlanError, did_you_mean, join_names, raise_problems
from tfft.freezing.batch_norm import is_norm
from tfft.keras_compat import flatten_layers, own_weights
from tfft.optimizers.fused_updates import fuse_updates
from tfft.optimizers.layerwise_lr import layerwise_lr_multipliers
from tfft.optimizers.per_variable_lr import LayerwiseOptimizer
from tfft.optimizers.schedules import SCHEDULES, build_schedule

_WRAPPERS = ("LossScaleOptimizer", "MultiOptimizer", "Optimizer")
_SPARED = ("bias", "gamma", "beta", "scale", "offset")
MOMENTUM = 0.9  # of SGD: Keras' own default is none, which is unusual for fine-tuning


def build_optimizer(
    phase: Phase, model: keras.Model, steps: int, *, wrapped: bool = False
) -> keras.optimizers.Optimizer:
    """Return the optimizer of a phase, built for the currently trainable variables.

    Use it with your own ``compile``, after :func:`tfft.unfreeze`. Settings are Keras' defaults, except for SGD with a
    momentum of 0.9 (not Nesterov). Weight decay is decoupled, with any optimizer; it is 0 if the phase says 0, also
    with AdamW. Biases, normalization and all variables of less than two dimensions are excluded. The global norm of the
    gradients is clipped to ``phase.global_clipnorm``.

    Args:
        phase: Gives ``optimizer``, ``schedule``, ``learning_rate``, ``warmup``, ``weight_decay``, ``global_clipnorm``,
            ``layer_decay`` and ``lr_multipliers``.
        model: Model with the blocks of the phase unfrozen.
        steps: Number of steps of the whole phase.
        wrapped: True gives a :class:`LayerwiseOptimizer` also where all factors are 1, which is what
            :func:`transfer_slots` needs for Adam and its like; else it is one only where a factor is not.

    Returns:
        An optimizer, not used yet.

    Raises:
        PlanError: With everything that is wrong with these settings.

    Example:
        >>> phase = Phase("fine-tune", "all", 5, 1e-4, optimizer="adamw", weight_decay=0.01, layer_decay=0.8)
        >>> tfft.unfreeze(model, phase.unfreeze)
        >>> optimizer = tfft.optimizers.build_optimizer(phase, model, steps=5 * 45)
        >>> model.compile(optimizer, **tfft.heads.from_model(model).compile_args())
    """
    kind, factors = _checked(phase, model, steps)
    settings: dict[str, Any] = {"learning_rate": build_schedule(phase, steps), "global_clipnorm": phase.global_clipnorm}
    strengths = [name for name in inspect.signature(kind).parameters if name.endswith("weight_decay")]
    settings |= {name: _strength(kind, phase) for name in strengths}  # Muon has two
    if kind is keras.optimizers.SGD:
        settings["momentum"] = MOMENTUM
    optimizer = fuse_updates(kind(**settings))
    if phase.weight_decay:
        optimizer.exclude_from_weight_decay(_spared(model))
    if wrapped or any(factor != 1.0 for factor in factors.values()):
        optimizer = LayerwiseOptimizer(optimizer, factors)
    optimizer.build(model.trainable_variables)
    return optimizer


def optimizer_names() -> tuple[str, ...]:
    """Return the names of Keras' optimizers in lower case, as a phase takes them."""
    return tuple(sorted(_kinds()))


def _kinds() -> dict[str, type[keras.optimizers.Optimizer]]:
    found = [value for name, value in vars(keras.optimizers).items() if inspect.isclass(value)]
    every = [kind for kind in found if issubclass(kind, keras.optimizers.Optimizer) and kind.__name__ not in _WRAPPERS]
    return {kind.__name__.lower(): kind for kind in every}


def _checked(phase: Phase, model: keras.Model, steps: int) -> tuple[type[keras.optimizers.Optimizer], dict[str, float]]:
    problems, kinds, factors = [], _kinds(), {}
    name = str(phase.optimizer).lower()
    if name not in kinds:
        hint = did_you_mean(str(phase.optimizer), kinds)
        problems.append(f"unknown optimizer {phase.optimizer!r}.{hint} Optimizers: {join_names(sorted(kinds))}")
    if phase.schedule not in SCHEDULES:
        hint = did_you_mean(str(phase.schedule), SCHEDULES)
        problems.append(f"unknown schedule {phase.schedule!r}.{hint} Schedules: {join_names(SCHEDULES)}")
    if not 0 < phase.learning_rate < math.inf:
        problems.append(f"learning_rate must be a number above 0, received {phase.learning_rate!r}")
    if not 0 <= phase.weight_decay < math.inf:
        problems.append(f"weight_decay must be a number of at least 0, received {phase.weight_decay!r}")
    if phase.global_clipnorm is not None and not 0 < phase.global_clipnorm < math.inf:
        problems.append(f"global_clipnorm must be None or a number above 0, received {phase.global_clipnorm!r}")
    if steps < 1:
        problems.append(f"a phase has at least one step, received {steps}")
    try:
        factors = layerwise_lr_multipliers(model, layer_decay=phase.layer_decay, lr_multipliers=phase.lr_multipliers)
    except PlanError as error:
        problems.append(str(error))
    raise_problems(PlanError, f"Phase {phase.name!r} has no optimizer", problems)
    return kinds[name], factors


def _strength(kind: type[keras.optimizers.Optimizer], phase: Phase) -> float | None:
    # Keras' AdamW refuses None; with the others None saves a pass over the weights.
    return phase.weight_decay if phase.weight_decay or kind is keras.optimizers.AdamW else None


def _spared(model: keras.Model) -> list[keras.Variable]:
    """Return the trainable variables that are excluded from weight decay."""
    spared = set()
    for layer in flatten_layers(model):
        norm = is_norm(layer) and not is_opened(layer)
        leaves = {id(v): re.split(r"[/.]", v.path)[-1] for v in own_weights(layer)}
        spared |= {key for key, leaf in leaves.items() if norm or leaf in _SPARED}
    return [v for v in model.trainable_variables if id(v) in spared or len(v.shape) < 2]
