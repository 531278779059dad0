"""Phases one after the other in plain Keras: :func:`train`, :func:`train_phase`.

Hides what goes from one phase to the next: the best score so far, the count of epochs, the history.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfft import heads
from tfft.config import Phase
from tfft.errors import PlanError
from tfft.training import distribute
from tfft.training.callbacks import check_callbacks
from tfft.training.checkpoint.callback import CheckpointConfig
from tfft.training.checkpoint.manager import CheckpointManager
from tfft.training.context import TrainingContext, length
from tfft.training.contrastive_phase import check_contrast
from tfft.training.history import History
from tfft.training.phase import fit_phase, solve_phase
from tfft.training.phase_checks import check_phases
from tfft.training.suffix import FeatureSource
from tfft.weight_averaging.selection import Score, selection_of


def train(
    model: keras.Model,
    dataset: tf.data.Dataset | Callable[[], tf.data.Dataset],
    validation: tf.data.Dataset | None,
    phases: Sequence[Phase],
    *,
    batch_norm: Literal["fixed", "train"] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    source: FeatureSource | None = None,
    epoch: tf.Variable | None = None,
    l2: float | Literal["auto"] = "auto",
    seed: int = 0,
    microbatch_size: int | None = None,
    class_weight: Mapping[int, float] | None = None,
    after_phase: Callable[[Phase, History], None] | None = None,
    checkpoints: str | os.PathLike[str] | CheckpointConfig | None = None,
    memory: MutableMapping[str, Any] | None = None,
) -> History:
    """Trains a model through phases, each with its own trainable blocks, rate and schedule.

    Use it when a plan has more than one phase. After it the model is an ordinary compiled Keras model with the best
    weights by validation accuracy, or by what else the task of its head measures: a phase none of whose epochs beats
    the weights it started from hands those back, and its history says so. A contrastive phase cannot tell: it leaves a
    head that no longer fits the features, so it keeps its last weights, and what follows begins without a score to
    beat.

    With a ``source``, what is frozen is computed once and kept, and only what trains is fitted, on the
    result; the numbers are the same. Where that cannot be, the phase fits the whole model on ``dataset``,
    and the history says why.

    With ``checkpoints`` the same program goes on where it was stopped, at any step of any phase: what is done is not
    done again, and the final weights are those of a run that was never stopped, to the last bit on a CPU with
    ``tf.config.experimental.enable_op_determinism()``. That takes an ``epoch``, or a dataset that is not shuffled.

    Args:
        model: with a head of tfft, or pass ``loss``; changed in place.
        dataset: finite, batches of (inputs, labels); or a function that makes it, called when it is needed.
        validation: the same, held out; None keeps the last weights instead of the best.
        phases: in order.
        batch_norm: as :func:`tfft.unfreeze` takes it.
        callbacks: of Keras; used in every phase that has epochs, before tfft's own. Their ``model`` is the
            whole one with its optimizer and metrics, also where a part of it is fitted. Each phase is one ``fit`` for
            them: ``CSVLogger`` needs ``append=True`` to keep the rows of the phase before. Where
            ``LearningRateScheduler`` or ``ReduceLROnPlateau`` is among them, it sets the rate, and the phase has no
            schedule. For averaged weights there is ``ema_decay`` in place of ``SwapEMAWeights``.
        verbose: print one line per epoch.
        loss: overrides the head's.
        metrics: override the head's.
        source: the examples behind both datasets. A phase that solves the head takes ``dataset`` without one.
        epoch: int64 variable on the CPU that is set to the number of the epoch, counted through all phases,
            before each one: give it to :func:`tfft.data.to_dataset` too, and the order of the examples does
            not depend on how often the dataset was read.
        l2: penalty of a solved head, or ``"auto"`` to choose it by cross-validation.
        seed: of that choice.
        microbatch_size: examples that are computed at a time, for batches that do not fit into memory; see
            :func:`microbatched`. None for whole batches.
        class_weight: of the examples of each class, by its number; see :func:`tfft.data.class_weights`.
        after_phase: called with the phase and its history when its best weights are back in the model; not for
            phases that were done before the program was stopped.
        checkpoints: a folder, or :class:`CheckpointConfig`, where the training is saved while it runs. None saves
            nothing.
        memory: values of yours that belong to the training: numbers, strings, arrays, lists and dicts of those. They
            are saved with the end of each phase, after ``after_phase``, and put back when the training goes on.

    Returns:
        The history of all phases.

    Raises:
        PlanError: when settings are out of range (all listed), the loss is not a finite number, or the checkpoints
            are of a training with other settings (all differences are listed).
        CheckpointError: when checkpoints cannot be written, or another process is writing to their folder.
        DataError: when the dataset or the validation dataset is empty or never ends.
        AuditError: when a frozen variable moved or a trainable one did not though it has a gradient.

    Example:
        >>> phases = [Phase("frozen", "none", 5, 3e-3), Phase("fine-tune", 3, 5, 3e-4)]
        >>> history = tfft.training.train(model, train, validation, phases)
        >>> history.to_csv("history.csv")
    """
    check_phases(phases, validation=validation is not None)
    check_callbacks(callbacks)
    if loss is not None and any(phase.mixup_alpha or phase.cutmix_alpha for phase in phases):
        raise PlanError("mixup and cutmix need labels that are shares, which only the losses of tfft's heads take.")
    check_contrast(model, phases)
    if isinstance(dataset, tf.data.Dataset):
        length(dataset, "training")
    if validation is not None:
        length(validation, "validation")
    history = History()
    with distribute.scope_of(model):  # metrics have variables, which belong to the model's strategy
        arguments = {"loss": loss, "metrics": metrics} if loss is not None else heads.from_model(model).compile_args()
    if metrics is not None:
        arguments["metrics"] = metrics
    pretrained = None
    if any(phase.l2_sp for phase in phases):
        pretrained = {v.path: keras.ops.convert_to_numpy(v).copy() for v in model.weights}
    context = TrainingContext(
        model, dataset, validation, arguments, batch_norm, tuple(callbacks), verbose, source, epoch, l2, seed,
        microbatch_size, class_weight, pretrained, selection_of(model),
    )  # fmt: skip
    best: Score | None = None
    if checkpoints is not None:
        settings = checkpoints if isinstance(checkpoints, CheckpointConfig) else CheckpointConfig(checkpoints)
        weights = None if class_weight is None else {str(k): float(v) for k, v in class_weight.items()}
        about = {
            "batch_norm": batch_norm,
            "l2": l2,
            "seed": seed,
            "microbatch_size": microbatch_size,
            "class_weight": weights,
        }
        context.manager = CheckpointManager(settings, model, phases, about, memory, verbose)
        history, best = context.manager.enter(context)
    for phase in phases[len(history.audits) :]:
        context.done = history
        with distribute.scope_of(model):
            done, best = (solve_phase if phase.solves_head else fit_phase)(context, phase, best)
        context.epochs_before += len(done.rows)
        history += done
        if after_phase is not None:
            after_phase(phase, done)
        if context.manager is not None:
            context.manager.finish(context, done, best)
    return history if context.manager is None else context.manager.close(context)


def train_phase(
    model: keras.Model, dataset: tf.data.Dataset, validation: tf.data.Dataset | None, phase: Phase, **settings: Any
) -> History:
    """Trains one phase: freezes, compiles, checks the trainable set, fits, keeps the best weights, audits.

    Use it to put something of your own between phases.

    Args:
        model: as in :func:`train`.
        dataset: as in :func:`train`.
        validation: as in :func:`train`.
        phase: what trains, how fast and how long.
        **settings: the keyword arguments of :func:`train`.

    Returns:
        The history of the phase.

    Raises:
        TfftError: as in :func:`train`.

    Example:
        >>> history = tfft.training.train_phase(model, train, validation, Phase("fine-tune", 3, 5, 3e-4))
    """
    return train(model, dataset, validation, [phase], **settings)
