"""Transfer of optimizer state to the next phase: :func:`transfer_slots`.

Implementation notes: only state that belongs to a single variable can be transferred.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from tfft.errors import PlanError, join_names
from tfft.keras_compat import slots, trained_variables, variable_index
from tfft.optimizers.per_variable_lr import AGEING, CORRECTED, LayerwiseOptimizer, is_one_of

# Settings that may differ: none of them changes what a slot means.
_FREE = (
    "name", "learning_rate", "weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum",
    "ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SlotTransfer:
    """Result of :func:`transfer_slots`.

    Attributes:
        ages: Steps that each variable whose slots were taken over has been trained so far, by path.
        fresh: Paths of the variables that start with slots of 0.
        note: What was done, in one sentence.
    """

    ages: Mapping[str, int]
    fresh: tuple[str, ...]
    note: str


def transfer_slots(
    old: keras.optimizers.Optimizer, new: keras.optimizers.Optimizer, *, fresh: Collection[str] = ()
) -> SlotTransfer:
    """Copy slots such as momentum for variables that both optimizers train, and set their ages.

    Use it between two phases: ``compile`` creates a new optimizer, which loses the state of the variables that continue
    to train. The steps of ``new`` start at 0, so that its schedule does; the age of each variable keeps Adam's
    correction right. Ages add up over many phases. A phase with transferred slots, the same variables and the same
    rate, gives the weights of uninterrupted training.

    SGD, RMSprop, Adagrad, Adadelta, Lion, Adam, AdamW, Adamax and Lamb are supported. Others (Nadam, Muon, ...) keep
    state that does not belong to one variable, or that depends on the weights; they start from zero and the note says
    so.

    Args:
        old: Previous optimizer, with or without :class:`LayerwiseOptimizer` and loss scaling.
        new: New optimizer of the same class and settings (rate, weight decay, clipping and averaging may differ),
            built, before its first step. For Adam, AdamW, Adamax and Lamb it must be a :class:`LayerwiseOptimizer`.
        fresh: Paths of variables that must start with empty slots, because their values are new.

    Returns:
        The ages, the variables with empty slots, and a note.

    Raises:
        PlanError: If ``new`` is not built, has made a step, or needs ages and cannot have them.

    Example:
        >>> second = tfft.optimizers.LayerwiseOptimizer(keras.optimizers.Adam(1e-4), {})
        >>> second.build(model.trainable_variables)
        >>> print(tfft.optimizers.transfer_slots(model.optimizer, second).note)
        >>> model.compile(second, loss="mse")
    """
    old, new = _unscaled(old), _unscaled(new)
    _check(new)
    pairs, why = [], _why_not(_inside(old), _inside(new))
    if not why:
        pairs = [pair for pair in _pairs(old, new) if pair[1].path not in fresh]
        why = "" if pairs else "no variable is trained by both"
    if pairs:
        _check_ages(new)
    steps = _count(old.iterations)
    ages = {}
    for before, after in pairs:
        for source, target in zip(slots(_inside(old), before), slots(_inside(new), after), strict=True):
            target.assign(keras.ops.convert_to_numpy(source))  # one copy of several, under a strategy
        ages[after.path] = steps + _age(old, before)
    if ages and isinstance(new, LayerwiseOptimizer):
        new.ages.assign(np.array([ages.get(v.path, 0) for v in trained_variables(new)], "int64"))
    left = tuple(v.path for v in trained_variables(new) if v.path not in ages)
    kind = type(_inside(new)).__name__
    if why:
        return SlotTransfer({}, left, f"{kind} starts afresh: {why}.")
    note = f"{kind} keeps its state of {len(ages)} variables"
    return SlotTransfer(ages, left, note + (f"; {len(left)} start afresh." if left else "."))


def _unscaled(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    return getattr(optimizer, "inner_optimizer", optimizer)  # of loss scaling


def _inside(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    return optimizer.optimizer if isinstance(optimizer, LayerwiseOptimizer) else optimizer


def _check(new: keras.optimizers.Optimizer) -> None:
    if not new.built:
        raise PlanError("Slots can be carried into an optimizer that has some: call new.build(variables) before.")
    if _count(new.iterations):
        raise PlanError(
            f"The new optimizer has made {_count(new.iterations)} steps already; carry slots before the first."
        )


def _check_ages(new: keras.optimizers.Optimizer) -> None:
    if is_one_of(new, CORRECTED):
        kind = type(new).__name__
        raise PlanError(
            f"{kind} corrects its slots by the number of its own steps, which starts at 0: slots from elsewhere would "
            "make its first steps several times too large. Give "
            f"LayerwiseOptimizer(keras.optimizers.{kind}(...), {{}})."
        )


def _why_not(old: keras.optimizers.Optimizer, new: keras.optimizers.Optimizer) -> str:
    if type(old) is not type(new):
        return f"the phase before was trained by {type(old).__name__}"
    if not is_one_of(new, AGEING):
        return f"what it keeps is not of single variables; slots are carried for {join_names(AGEING)}"
    if not old.built or not _count(old.iterations):
        return "the phase before has made no step"
    before, after = ({k: v for k, v in o.get_config().items() if k not in _FREE} for o in (old, new))
    differ = [name for name in after if before[name] != after[name]]
    return f"{join_names(differ)} changed" if differ else ""


def _pairs(old: Any, new: Any) -> list[tuple[keras.Variable, keras.Variable]]:
    """Return the variables of both: the same object, or the same path and shape where that is unique."""
    known = trained_variables(_inside(old))
    same = {id(v): v for v in known}
    paths = [v.path for v in known]
    by_path = {v.path: v for v in known if paths.count(v.path) == 1}
    pairs = []
    for variable in trained_variables(_inside(new)):
        before = same.get(id(variable), by_path.get(variable.path))
        if before is not None and tuple(before.shape) == tuple(variable.shape):
            pairs.append((before, variable))
    return pairs


def _age(optimizer: Any, variable: keras.Variable) -> int:
    if not isinstance(optimizer, LayerwiseOptimizer):
        return 0
    return int(keras.ops.convert_to_numpy(optimizer.ages)[variable_index(optimizer, variable)])


def _count(variable: keras.Variable) -> int:
    return int(keras.ops.convert_to_numpy(variable))  # int() does not take the copies of a strategy
