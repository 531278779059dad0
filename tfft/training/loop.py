"""Training in phases with plain Keras: :func:`train`, :func:`train_phase`.

Implementation notes: the best score, the epoch count and the history carry over from phase to phase.
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
from tfft.training.suffix import FeatureSource, TrainableSuffix
from tfft.weight_averaging.selection import Score, selection_of


def train(
    model: keras.Model,
    dataset: tf.data.Dataset | Callable[[], tf.data.Dataset],
    validation: tf.data.Dataset | Callable[[], tf.data.Dataset] | None,
    phases: Sequence[Phase],
    *,
    batch_norm: Literal["fixed", "train"] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool | int = True,
    loss: Any = None,
    metrics: Sequence[Any] | None = None,
    source: FeatureSource | None = None,
    epoch: tf.Variable | None = None,
    l2: float | Literal["auto"] = "auto",
    seed: int = 0,
    microbatch_size: int | None = None,
    class_weight: Mapping[int, float] | None = None,
    after_phase: Callable[[Phase, History, TrainableSuffix | None], Any] | None = None,
    checkpoints: str | os.PathLike[str] | CheckpointConfig | None = None,
    memory: MutableMapping[str, Any] | None = None,
    example_scores: bool = False,
    after_epoch: Callable[[Mapping[str, Any], int], None] | None = None,
) -> History:
    """Train a model through phases, each with its own trainable blocks, rate and schedule.

    Use it for a plan with more than one phase. Afterwards the model is an ordinary compiled Keras model with the best
    weights by validation accuracy, or by the selection metric of its task: a phase in which no epoch beats the
    weights before it restores those, and its history says so. A contrastive phase cannot be compared: its head no
    longer fits the features, so it keeps its last weights, and the next phase starts without a score to beat.

    With a ``source``, frozen layers run once and their features are cached, and only the trainable suffix is fitted;
    the numbers are the same. If that is impossible, the phase fits the whole model on ``dataset``, and the history has
    the reason.

    With ``checkpoints``, the same program resumes at any step of any phase: completed work is not repeated, and the
    final weights are those of an uninterrupted run, bit for bit on a CPU with
    ``tf.config.experimental.enable_op_determinism()``. This requires an ``epoch``, or a dataset that is not shuffled.

    Args:
        model: Model with a head of tfft, or with ``loss``; changed in place.
        dataset: Finite dataset of (inputs, labels) batches; or a function that returns one, called on demand.
        validation: Validation dataset, or a function that returns one, called on demand; None keeps the last weights
            instead of the best.
        phases: Phases in order.
        batch_norm: As in :func:`tfft.unfreeze`.
        callbacks: Keras callbacks, used in every phase with epochs, before tfft's own. Their ``model`` is the whole
            model with its optimizer and metrics, even if a part of it is fitted. Each phase is one ``fit``: a
            ``CSVLogger`` needs ``append=True``. A ``LearningRateScheduler`` or ``ReduceLROnPlateau`` sets the rate, so
            the phase has no schedule. Use ``ema_decay`` instead of ``SwapEMAWeights``.
        verbose: True prints epochs at intervals of half a minute, 2 every epoch and the features, False nothing.
        loss: Loss instead of the head's.
        metrics: Metrics instead of the head's.
        source: Examples behind both datasets. Without it, a phase that solves the head uses ``dataset``.
        epoch: int64 variable on the CPU that is set to the epoch number, counted over all phases, before each epoch:
            pass it to :func:`tfft.data.to_dataset` too, so that the order of the examples does not depend on the number
            of passes.
        l2: Penalty of a solved head, or ``"auto"`` to choose it by cross-validation.
        seed: Seed for that choice.
        microbatch_size: Examples per microbatch, for batches that do not fit into memory; see :func:`microbatched`.
            None for whole batches.
        class_weight: Class weights by class number; see :func:`tfft.data.class_weights`.
        after_phase: Function called with the phase, its history, and the part of the model that it trained with the
            data of that part (None after pairs or low-rank updates), once its best weights are restored; not for phases
            completed before an interruption. It may return another history of the phase, with 0 as the best epoch if it
            restored the weights from before.
        checkpoints: A folder, or :class:`CheckpointConfig`, for checkpoints during training. None saves nothing.
        memory: Values of the caller that belong to the training: numbers, strings, arrays, lists and dicts of those.
            They are saved at the end of each phase, after ``after_phase``, and restored when the training resumes.
        example_scores: Whether to keep the score of each validation example after each epoch, see
            :attr:`History.example_scores`; costs one more pass over them in each epoch.
        after_epoch: Function called after each epoch with its row of the history and the number of epochs so far, over
            all phases; a solved head counts as one.

    Returns:
        The history of all phases.

    Raises:
        PlanError: If settings are out of range (all listed), the loss is not finite, or the checkpoints belong to a
            training with other settings (all differences are listed).
        CheckpointError: If checkpoints cannot be written, or another process is writing to their folder.
        DataError: If the dataset or the validation dataset is empty or infinite.
        AuditError: If a frozen variable changed, or a trainable one with a gradient did not.

    Example:
        >>> phases = [Phase("frozen", "none", 5, 3e-3), Phase("fine-tune", 3, 5, 3e-4)]
        >>> history = tfft.training.train(model, train, validation, phases)
        >>> history.to_csv("history.csv")
    """
    _check(model, dataset, validation, phases, callbacks, loss, metrics)
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
        microbatch_size, class_weight, pretrained, selection_of(model), example_scores, after_epoch,
    )  # fmt: skip
    best: Score | None = None
    if checkpoints is not None:
        context.manager = _manager(checkpoints, context, phases, memory)
        history, best = context.manager.enter(context)
    for phase in phases[len(history.audits) :]:
        context.done = history
        with distribute.scope_of(model):
            done, best = (solve_phase if phase.solves_head else fit_phase)(context, phase, best)
        context.epochs_before += len(done.rows)
        if after_phase is not None:
            changed = after_phase(phase, done, context.trained)
            done = changed if isinstance(changed, History) else done
        history += done
        if context.manager is not None:
            context.manager.finish(context, done, best)
    return history if context.manager is None else context.manager.close(context)


def _check(
    model: keras.Model,
    dataset: Any,
    validation: Any,
    phases: Sequence[Phase],
    callbacks: Sequence[keras.callbacks.Callback],
    loss: Any,
    metrics: Sequence[Any] | None,
) -> None:
    """Check the arguments of :func:`train` before any work starts."""
    check_phases(phases, validation=validation is not None)
    known = callbacks and loss is None and metrics is None
    check_callbacks(callbacks, ["loss", *(each.name for each in heads.from_model(model).metrics())] if known else None)
    if loss is not None and any(phase.mixup_alpha or phase.cutmix_alpha for phase in phases):
        raise PlanError("mixup and cutmix need labels that are shares, which only the losses of tfft's heads take.")
    check_contrast(model, phases)
    for data, what in ((dataset, "training"), (validation, "validation")):
        if isinstance(data, tf.data.Dataset):
            length(data, what)


def _manager(
    checkpoints: Any, context: TrainingContext, phases: Sequence[Phase], memory: MutableMapping[str, Any] | None
) -> CheckpointManager:
    """Return the checkpoints of a training, which belong to its settings."""
    settings = checkpoints if isinstance(checkpoints, CheckpointConfig) else CheckpointConfig(checkpoints)
    weights = None if context.class_weight is None else {str(k): float(v) for k, v in context.class_weight.items()}
    about = {name: getattr(context, name) for name in ("batch_norm", "l2", "seed", "microbatch_size")}
    about["class_weight"] = weights
    return CheckpointManager(settings, context.model, phases, about, memory, context.verbose)


def train_phase(
    model: keras.Model,
    dataset: tf.data.Dataset,
    validation: tf.data.Dataset | Callable[[], tf.data.Dataset] | None,
    phase: Phase,
    **settings: Any,
) -> History:
    """Train one phase: freeze, compile, check the trainable set, fit, keep the best weights, audit.

    Use it to run your own code between phases.

    Args:
        model: As in :func:`train`.
        dataset: As in :func:`train`.
        validation: As in :func:`train`.
        phase: Phase to train.
        **settings: Keyword arguments of :func:`train`.

    Returns:
        The history of the phase.

    Raises:
        TfftError: As in :func:`train`.

    Example:
        >>> history = tfft.training.train_phase(model, train, validation, Phase("fine-tune", 3, 5, 3e-4))
    """
    return train(model, dataset, validation, [phase], **settings)
