"""From a folder of labelled images to a trained, measured and exported model: :func:`finetune`."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.backbones.base import Backbone
from tfft.config import Phase, Plan, RunConfig, RunSettings, config_of
from tfft.console.progress import reading_bar
from tfft.data import class_weights
from tfft.errors import DataError, PlanError, TfftError, installed_version, join_names, raise_problems
from tfft.evaluation import Scores, evaluate
from tfft.exporting.parity import FreshProcess
from tfft.exporting.savedmodel import ExportResult, export, version_folder
from tfft.freezing import describe, select
from tfft.plans import NamedPlan, format_plan, named, summarize_plan
from tfft.recipes.choosing import choose_plan, store_choice
from tfft.recipes.costing import cost
from tfft.recipes.expectation import expected_time, is_distributed, took
from tfft.recipes.labelled import labelled_data
from tfft.recipes.preparing import (
    build_model,
    check_same_backbone,
    data_line,
    is_cached,
    open_backbone,
    spec_of,
    training_source,
    with_new_statistics,
)
from tfft.recipes.run import (
    CHECKPOINTS,
    EXPORT,
    Run,
    check_out,
    check_writable,
    is_unfinished,
    plan_from_yaml,
    profiled,
    write_model,
    write_run,
)
from tfft.recipes.run_data import RunData, load_run_data
from tfft.settings import defaults_of, documents
from tfft.training import CheckpointConfig, History, TrainableSuffix, is_chief, on_chief, train
from tfft.training.distribute import has_workers
from tfft.training.phase_checks import check_phases
from tfft.training.tracking import RunTracking, check_trackers, tracking

_SOON, _FEW = 300.0, 5000  # seconds and examples of a training beside which the process of the check may wait
_OTHERS = ("plan", "out", "export_to", "cache", "callbacks", "log", "verbose", "config")


@documents(RunConfig)
@profiled
def finetune(
    backbone: str | os.PathLike[str] | Backbone | keras.Model,
    data: Any,
    task: str = "auto",
    *,
    plan: Plan | NamedPlan | str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    export_to: str | os.PathLike[str] | bool | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    log: str | Sequence[str] = (),
    verbose: bool | int = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> Run:
    """Train a model on labelled examples from a pretrained backbone, phase by phase, then measure and export it.

    By default tfft first freezes the backbone and computes the best linear head on its features (the linear probe);
    then it trains the last blocks too, starting from that head (Kumar et al., "Fine-tuning can distort pretrained
    features and underperform out-of-distribution", 2022). The frozen part runs once, through the fastest available
    engine; later epochs read its features from a cache. Both phases are measured on held-out examples, and an audit
    proves that frozen weights have not changed. Each phase ends with the weights of its best epoch on the held-out
    examples. If no epoch of the second phase beats the frozen backbone, the weights of the frozen backbone stay.
    Because the held-out examples select the epoch, the scores are slightly optimistic. A folder ``test/`` beside
    ``train/`` is measured at the end and selects nothing; :func:`tfft.evaluate` measures on any other examples.

    Args:
        backbone: A handle as in :func:`tfft.load_backbone`, an opened backbone, or a Keras model.
        data: Any source that :func:`tfft.data.load` reads: a folder with one folder per class (or ``train/`` and
            ``val/`` with those inside) of images, of recordings or of ``.txt`` files; a table of any of these;
            ``(images, labels)`` arrays; texts as :func:`tfft.modalities.text.load_texts` takes them (a DataFrame,
            ``(texts, labels)``); ``"tfds:NAME"`` or a folder that tensorflow-datasets prepared. Or its result; or
            ``(train, validation, class_names)`` with two datasets of batches of inputs and int labels.
        task: Meaning of the labels; see below. Defaults to "auto".
        plan: A named plan such as ``"gradual"`` or ``tfft.plans.lp_ft(layer_decay=0.8)``, which gives the phases; or a
            :class:`tfft.Plan` or the file of one, which gives the phases and all settings.
            None chooses: see :func:`tfft.plans.recommend`.
        out: New or empty folder for the plan, metrics, history, labels, model and export; None writes nothing. During
            training, checkpoints are saved there: after a kill at any moment the same call resumes, to the same weights
            (bit for bit on a CPU with ``deterministic=True``). Another plan or other data raises an error.
        export_to: Version folder for the export, such as ``"served/1"``. Defaults to ``export/1`` in
            ``out``; False exports nothing.
        cache: Place for the features of the frozen part: ``"auto"`` in the user's cache folder (a second run
            finds them there), a folder, ``"memory"`` until the process ends, or None to run everything in
            every epoch. Ready datasets may differ from pass to pass: tfft caches them only if this is not "auto", and
            raises an error if they differ.
        callbacks: Keras callbacks for all epochs. Their ``model`` is the whole model.
        log: Experiment trackers that follow the run: ``"tensorboard"`` (event files in ``out``), ``"mlflow"``,
            ``"wandb"``, or several. They get the settings, each epoch, the scores of each phase and the records.
        verbose: True prints the plan and the result of each phase in a few lines, 2 all settings with their reasons,
            every epoch and the table of blocks, False nothing.
        config: All settings as one object; keywords override its values. None means the defaults.
        **settings: Settings by name, see below.

    Keyword Args:
        {settings}

    Returns:
        A :class:`~tfft.recipes.Run` with the model, the scores of both phases and the export.

    Raises:
        PlanError: If settings cannot be used (all problems in one error, before anything is loaded), if ``out`` is not
            empty, or if the loss is not finite.
        TfftError: If the data, backbone or export fails, each with its own class.

    Example:
        >>> run = tfft.finetune("efficientnet-lite0", "photos/", out="runs/photos")
        >>> run.final_scores.accuracy, run.final_scores.interval
        (0.9542, (0.9085, 0.9776))
    """
    chosen, named_plan = _chosen(plan, config_of(config, task, settings, _OTHERS))
    _check(chosen, named_plan, callbacks)
    folder, trackers = check_out(out), check_trackers(log, out)
    target = None if export_to is None or isinstance(export_to, bool) else version_folder(export_to)
    level = int(verbose) if is_chief() else 0
    say, detail = _printer(level), _printer(level - 1)

    with reading_bar(level > 0) as progress:
        run_data = load_run_data(data, chosen, progress)
    if run_data.is_ready and chosen.augment:
        raise PlanError(
            "augment= expects images in a folder or arrays. For a ready dataset, augment with its own map()."
        )
    say(data_line(run_data))
    if run_data.is_ready and chosen.sampling:
        raise PlanError("sampling= expects a folder or arrays. A ready dataset has its own order: leave sampling out.")
    keras.utils.set_random_seed(chosen.seed)
    if chosen.deterministic:
        tf.config.experimental.enable_op_determinism()
    opened = open_backbone(backbone, chosen, run_data.task)
    run_data.check_backbone(opened)
    run_data, chosen, opened = run_data.adapted(opened, chosen, level > 0)
    for note in opened.notes:
        say(f"backbone: {note}")
    if isinstance(chosen, Plan):
        check_same_backbone(opened, chosen)
        plan = chosen
    else:
        plan = choose_plan(opened, run_data, chosen, cache, named_plan, level, folder)
    for note in run_data.notes(opened, plan.image_size):
        say(note)
    plan = dataclasses.replace(plan, versions=_versions(), backbone_digest=opened.digest)
    for phase in plan.phases:
        select(opened, phase.unfreeze)  # an unknown block is an error before training
    say(summarize_plan(plan) if level == 1 else format_plan(plan))

    for place in (folder, None if target is None else target.parent):
        if place is not None:
            check_writable(place)  # fail before training, not after
    going_on = folder is not None and is_unfinished(folder)
    if folder is not None and isinstance(chosen, RunConfig) and not is_distributed(opened):
        store_choice(folder, plan, chosen, None if named_plan is None else named_plan.name)
    expected = None if going_on else expected_time(opened, run_data, plan, cache, level)
    if expected is not None:
        say(expected)
    seconds = {} if expected is None else {name: each.seconds for name, each in expected.phases.items()}
    if folder is not None:
        target = target or (None if export_to is False else folder / EXPORT / "1")
    soon = target is not None and sum(seconds.values()) < _SOON and len(run_data.splits.train) < _FEW and is_chief()
    with (
        FreshProcess() if soon else contextlib.nullcontext() as process,  # it imports TensorFlow meanwhile
        tracking(trackers, folder, plan.to_dict()) as tracked,
    ):
        run, held_out = _train(opened, run_data, plan, cache, callbacks, level, folder, seconds, tracked)
        run = dataclasses.replace(run, folder=folder)
        if line := took(run.seconds, run.expected_seconds, getattr(chosen, "minutes", None)):
            say(line)
        if run_data.splits.test_folder is not None:
            run = dataclasses.replace(run, test_scores=_tested(run, run_data.splits.test_folder, say))
        if folder is not None:
            on_chief(run.model, lambda: write_run(run, folder))
        if target is not None and going_on and target.is_dir() and target.parent.parent == folder:
            say(f"{target} was exported before the run was stopped")  # exports are complete or absent
            target = None
        if target is not None:
            try:
                exported = on_chief(run.model, lambda: _export(run, target, run_data, held_out, process))
            except TfftError as error:
                error.run = run  # type: ignore[attr-defined]  # a failed export does not lose the trained model
                error.add_note("The attribute `run` of this error holds the trained model.")
                raise
            run = dataclasses.replace(run, export=exported)
    if folder is not None and (folder / CHECKPOINTS).is_dir():
        on_chief(run.model, lambda: shutil.rmtree(folder / CHECKPOINTS))  # the run is complete
    if run.export is not None:
        detail(f"exported to {run.export.path}, largest difference {run.export.largest_difference:.1e}")
    say(run.summary)
    return run


def rerun(
    plan: Plan | str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | Backbone | keras.Model | None = None,
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    export_to: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool | int = True,
) -> Run:
    """Repeat a run from its plan.

    Call it with the ``plan.yaml`` of a run: the same data, versions, machine and number of threads give the same
    weights.

    Args:
        plan: Plan, or the path of one.
        backbone: Backbone in place of the plan's; required if that one was given in memory.
        data: Data in place of the plan's; required if that was given in memory.
        out: As in :func:`finetune`.
        export_to: As in :func:`finetune`.
        cache: As in :func:`finetune`.
        callbacks: As in :func:`finetune`.
        verbose: As in :func:`finetune`.

    Returns:
        A new run.

    Raises:
        TfftError: As in :func:`finetune`.

    Example:
        >>> tfft.recipes.rerun("runs/photos/plan.yaml", out="runs/photos-again")
    """
    plan = plan if isinstance(plan, Plan) else plan_from_yaml(plan)
    return finetune(
        plan.backbone if backbone is None else backbone,
        plan.data if data is None else data,
        plan=plan,
        out=out,
        export_to=export_to,
        cache=cache,
        callbacks=callbacks,
        verbose=verbose,
    )


def _chosen(
    plan: Plan | NamedPlan | str | os.PathLike[str] | None, config: RunConfig
) -> tuple[RunConfig | Plan, NamedPlan | None]:
    """Return the settings of a run, taken from a complete plan if given, and the named plan."""
    if isinstance(plan, str) and plan.isidentifier() and not os.path.exists(plan):
        plan = named(plan)
    if plan is None or isinstance(plan, NamedPlan):
        return with_new_statistics(config, plan), plan
    twice = [name for name, default in defaults_of(RunConfig).items() if getattr(config, name) != default]
    if twice:
        raise PlanError(
            f"{join_names(twice)} given together with plan=, which sets them all. Change the plan, or leave it out."
        )
    return with_new_statistics(plan if isinstance(plan, Plan) else plan_from_yaml(plan), None), None


def _check(config: RunConfig | Plan, plan: NamedPlan | None, callbacks: Sequence[Any]) -> None:
    config.check()
    problems = [
        f"callbacks: Expected keras.callbacks.Callback objects. Received: {callback!r}"
        for callback in callbacks
        if not isinstance(callback, keras.callbacks.Callback)
    ]
    raise_problems(PlanError, "These settings cannot be used", problems)
    if isinstance(config, Plan):
        check_phases(config.phases)
    elif plan is not None:
        plan.check(config)


def _printer(level: int) -> Callable[[object], None]:
    return (lambda text: print(text, flush=True)) if level > 0 else (lambda text: None)


def _train(
    backbone: Backbone,
    data: RunData,
    plan: Plan,
    cache: str | os.PathLike[str] | bool | None,
    callbacks: Sequence[keras.callbacks.Callback],
    level: int,
    folder: pathlib.Path | None,
    expected: Mapping[str, float],
    tracked: RunTracking,
) -> tuple[Run, Callable[[], tf.data.Dataset]]:
    keras.utils.set_random_seed(plan.seed)  # again: opening may or may not have drawn numbers
    model = build_model(backbone, data, plan)
    spec = spec_of(backbone, plan)
    estimate = cost(model, plan, len(data.splits.train), cached=is_cached(data, cache))
    say, detail = _printer(level), _printer(level - 1)
    if estimate:
        detail(estimate)
    held_out = functools.cache(lambda: data.validation(spec, plan.batch_size))
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
    # Of completed phases, also those before an interruption.
    memory: dict[str, Any] = {"scores": [], "seconds": {}, "expected_seconds": dict(expected)}
    clock = [time.perf_counter()]

    def measure(phase: Phase, history: History, part: TrainableSuffix | None) -> None:
        if phase.contrastive_repeats and memory["scores"] and phase is not plan.phases[-1]:
            line = "features changed; the head will follow"  # a score would mean nothing
        else:
            scores = _scores(model, part, lambda: data.evaluation(spec, plan.batch_size))
            memory["scores"].append(json.dumps(scores.to_dict()))
            tracked.log_scores(phase.name, {"loss": scores.loss, scores.metric: scores.value})
            line = scores.summary if level > 1 else scores.brief
        if phase.epochs and not phase.contrastive_repeats:
            line += f", epoch {history.best[phase.name]} of {phase.epochs}"
        memory["seconds"][phase.name] = time.perf_counter() - clock[-1]
        clock.append(time.perf_counter())
        say(f"{phase.name}: {line}\n  {history.audits[phase.name].summary}")
        for note in history.notes:
            say("  " + note.removeprefix(f"phase {phase.name!r}: "))
        if folder is not None and phase is not plan.phases[-1]:  # a failure in a later phase loses that phase only
            on_chief(model, lambda: write_model(model, folder))

    history = train(
        model,
        lambda: data.training(spec, plan, epoch),
        held_out() if data.is_ready or spec is None else held_out,  # what may not fit the model is an error at once
        plan.phases,
        source=training_source(data, plan, cache),
        epoch=epoch,
        l2=plan.l2,
        seed=plan.seed,
        microbatch_size=plan.microbatch_size,
        class_weight=_class_weight(data, plan),
        batch_norm=plan.batch_norm,
        callbacks=callbacks,
        verbose=level,
        after_phase=measure,
        checkpoints=_checkpoints(model, plan, data, folder),
        memory=memory,
        example_scores=True,
        after_epoch=tracked.log,
    )
    detail(describe(model))
    scores = [Scores.from_dict(json.loads(text)) for text in memory["scores"]]
    clean = data.deduplicated(spec, plan.batch_size)
    run = Run(
        model, plan, history, scores[0], scores[-1], data.class_names, data.splits.skipped, data_report=data.checked,
        split_names=data.splits.items, deduplicated_scores=None if clean is None else evaluate(model, clean),
        seconds=memory["seconds"], expected_seconds=memory["expected_seconds"],
    )  # fmt: skip
    return run, held_out


def _scores(model: keras.Model, part: TrainableSuffix | None, held_out: Callable[[], tf.data.Dataset]) -> Scores:
    """Return the scores of a model, computed on the features of the held-out examples if a phase has them."""
    if part is None or part.features is None or part.validation is None:
        return evaluate(model, held_out())
    return evaluate(part.model, part.validation, head=heads.from_model(model))


def _tested(run: Run, folder: str, say: Callable[[object], None]) -> Scores | None:
    """Return the scores on the labelled examples of a ``test/`` folder; None, and a note, if it has no labels."""
    try:
        dataset, _, _ = labelled_data(run, folder, run.plan.batch_size)
    except DataError as error:
        say(f"{folder} was not measured: {error}")
        return None
    return evaluate(run.model, dataset)


def _checkpoints(model: keras.Model, plan: Plan, data: RunData, folder: pathlib.Path | None) -> CheckpointConfig | None:
    """Return where to write checkpoints; None with several workers, which cannot write them."""
    if folder is None or has_workers(model):
        return None
    settings = {name: value for name, value in plan.to_dict().items() if name not in ("reasons", "versions", "phases")}
    identity = {"plan": settings, "data": data.splits.fingerprint()}
    return CheckpointConfig(folder / CHECKPOINTS, identity=identity, remove=False)


def _class_weight(data: RunData, plan: Plan) -> Mapping[int, float] | None:
    if plan.class_weight is None:
        return None
    weights: Any = plan.class_weight
    return class_weights(np.repeat(np.arange(len(data.counts)), data.counts), data.class_names, weights)


def _export(
    run: Run,
    target: pathlib.Path,
    data: RunData,
    held_out: Callable[[], tf.data.Dataset],
    process: FreshProcess | None,
) -> ExportResult:
    examples: Any = list(data.splits.validation.export_files)
    if not examples:
        inputs = next(iter(held_out()))[0]
        examples = {k: np.asarray(v)[:8] for k, v in inputs.items()} if isinstance(inputs, dict) else None
        if isinstance(inputs, tf.Tensor):
            examples = np.asarray(inputs)[:8]
    return export(run.model, target, examples=examples, card=run.card, process=process)


def _versions() -> dict[str, str]:
    return {package: installed_version(package) or "unknown" for package in ("tfft", "tensorflow", "keras", "numpy")}
