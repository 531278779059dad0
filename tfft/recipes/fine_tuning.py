"""From a folder of labelled images to a trained, measured and exported model: :func:`finetune`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.config import Plan, RunConfig, RunSettings, config_of
from tfft.console.printer import Printer
from tfft.console.progress import reading_bar
from tfft.errors import DataError, PlanError, installed_version, join_names, raise_problems
from tfft.evaluation import Scores, evaluate
from tfft.exporting.parity import FreshProcess
from tfft.freezing import select
from tfft.plans import NamedPlan, format_plan, named, summarize_plan
from tfft.recipes.choosing import choose_plan, store_choice
from tfft.recipes.expectation import expected_time, is_distributed, took
from tfft.recipes.labelled import labelled_data
from tfft.recipes.preparing import check_same_backbone, data_line, open_for, with_new_statistics
from tfft.recipes.run import Run, plan_from_yaml, profiled
from tfft.recipes.run_data import RunData, load_run_data
from tfft.recipes.run_output import RunOutput
from tfft.recipes.run_training import train_run
from tfft.settings import FLAG, NONE, defaults_of, documents, satisfies
from tfft.training import is_chief
from tfft.training.phase_checks import check_phases
from tfft.training.tracking import check_trackers, tracking

_SOON, _FEW = 300.0, 5000  # seconds and examples of a training beside which the process of the check may wait
_PLACE = (
    satisfies("a path", lambda value: isinstance(value, (str, os.PathLike)) and bool(os.fspath(value))) | FLAG | NONE
)
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
    callbacks: Sequence[keras.callbacks.Callback] | keras.callbacks.Callback | None = (),
    log: str | Sequence[str] = (),
    verbose: bool | int = True,
    config: RunConfig | None = None,
    **settings: Unpack[RunSettings],
) -> Run:
    """Train a model on labelled examples from a pretrained backbone, phase by phase, then measure and export it.

    By default tfft first freezes the backbone and computes the best linear head on its features (the linear probe);
    then, unless that head makes no mistake, it trains the last blocks too, starting from it (Kumar et al.,
    "Fine-tuning can distort pretrained features and underperform out-of-distribution", 2022). The frozen part runs
    once, through the fastest available engine; later epochs read its features from a cache. Both phases are
    measured on held-out examples, and an audit proves that frozen weights have not changed. Each phase ends with
    the weights of its best epoch on the held-out examples. If no epoch of the second phase beats the frozen
    backbone, the weights of the frozen backbone stay. Because the held-out examples select the epoch, the scores
    are slightly optimistic. A folder ``test/`` beside ``train/`` is evaluated at the end and not used for
    selection; :func:`tfft.evaluate` measures on any other examples.

    Args:
        backbone: A handle as in :func:`tfft.load_backbone`, an opened backbone, or a Keras model. ``"auto"`` takes
            EfficientNet-Lite0 for images and recordings, MiniLM for texts, and a small network with random weights for
            transcription, text to text and speech synthesis.
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
            every epoch. A ``tf.data.Dataset`` may differ from pass to pass: its features are cached only if this is
            not "auto", and an error is raised if it differs.
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
    callbacks = [] if callbacks is None else keras.tree.flatten(callbacks)  # one, or several, as Keras takes them
    _check(chosen, named_plan, callbacks, {"out": out, "export_to": export_to, "cache": cache})
    output, trackers = RunOutput.of(out, export_to), check_trackers(log, out)
    printer = Printer(int(verbose) if is_chief() else 0)

    run_data, chosen, opened = _opened(data, backbone, chosen, printer)
    plan = _planned(opened, run_data, chosen, named_plan, cache, printer, output.folder)
    output.check_writable()
    resumes = output.resumes
    if output.folder is not None and isinstance(chosen, RunConfig) and not is_distributed(opened):
        store_choice(output.folder, plan, chosen, None if named_plan is None else named_plan.name)
    expected = None if resumes else expected_time(opened, run_data, plan, cache, printer.level)
    if expected is not None:
        printer.say(expected)
    seconds = {} if expected is None else {name: each.seconds for name, each in expected.phases.items()}
    soon = sum(seconds.values()) < _SOON and len(run_data.splits.train) < _FEW and is_chief()
    with (
        # The process of the check imports TensorFlow meanwhile.
        FreshProcess() if soon and output.target is not None else contextlib.nullcontext() as process,
        tracking(trackers, output.folder, plan.to_dict()) as tracked,
    ):
        run, held_out = train_run(
            opened, run_data, plan, cache=cache, callbacks=callbacks, printer=printer, folder=output.folder,
            expected=seconds, tracked=tracked,
        )  # fmt: skip
        run = dataclasses.replace(run, folder=output.folder)
        if line := took(run.seconds, run.expected_seconds, getattr(chosen, "minutes", None)):
            printer.say(line)
        if run_data.splits.test_folder is not None:
            run = dataclasses.replace(run, test_scores=_tested(run, run_data.splits.test_folder, printer))
        output.write(run)
        if output.is_exported(resumes):
            printer.say(f"{output.target} was exported before the run was stopped")
        else:
            run = output.export(run, run_data, held_out, process)
    output.remove_checkpoints(run)
    if run.export is not None:
        printer.detail(f"exported to {run.export.path}, largest difference {run.export.largest_difference:.1e}")
    printer.say(run.summary)
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
        backbone: Backbone instead of the plan's; required if that one was given in memory.
        data: Data instead of the plan's; required if that was given in memory.
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


def _check(
    config: RunConfig | Plan, plan: NamedPlan | None, callbacks: Sequence[Any], places: Mapping[str, Any]
) -> None:
    config.check()
    problems = [f"{name}: {problem}" for name, value in places.items() if (problem := _PLACE(value))]
    problems += [
        f"callbacks: Expected keras.callbacks.Callback objects. Received: {callback!r}"
        + ("; make an object of the class: " + f"{callback.__name__}(...)." if isinstance(callback, type) else ".")
        for callback in callbacks
        if not isinstance(callback, keras.callbacks.Callback)
    ]
    raise_problems(PlanError, "These settings cannot be used", problems)
    if isinstance(config, Plan):
        check_phases(config.phases)
    elif plan is not None:
        plan.check(config)


def _opened(
    data: Any, backbone: Any, chosen: RunConfig | Plan, printer: Printer
) -> tuple[RunData, RunConfig | Plan, Backbone]:
    """Read the data, open the backbone and fit each to the other; return both with the settings chosen for them."""
    with reading_bar(printer.level > 0) as progress:
        run_data = load_run_data(data, chosen, progress)
    printer.say(data_line(run_data))
    keras.utils.set_random_seed(chosen.seed)
    if chosen.deterministic:
        tf.config.experimental.enable_op_determinism()
    run_data, chosen, opened = open_for(backbone, chosen, run_data, verbose=printer.level > 0)
    for note in opened.notes:
        printer.say(f"backbone: {note}")
    return run_data, chosen, opened


def _planned(
    backbone: Backbone,
    data: RunData,
    chosen: RunConfig | Plan,
    named_plan: NamedPlan | None,
    cache: str | os.PathLike[str] | bool | None,
    printer: Printer,
    folder: pathlib.Path | None,
) -> Plan:
    """Return the complete plan, the given one or a new one, and print it."""
    if isinstance(chosen, Plan):
        check_same_backbone(backbone, chosen)
        plan = chosen
    else:
        plan = choose_plan(backbone, data, chosen, cache, named_plan, printer.level, folder)
    for note in data.notes(backbone, plan.image_size):
        printer.say(note)
    plan = dataclasses.replace(plan, versions=_versions(), backbone_digest=backbone.digest)
    for phase in plan.phases:
        select(backbone, phase.unfreeze)  # an unknown block is an error before training
    printer.say(summarize_plan(plan) if printer.level == 1 else format_plan(plan))
    return plan


def _tested(run: Run, folder: str, printer: Printer) -> Scores | None:
    """Return the scores on the labelled examples of a ``test/`` folder; None, and a note, if it has no labels."""
    try:
        dataset, _, _ = labelled_data(run, folder, run.plan.batch_size)
    except DataError as error:
        printer.say(f"{folder} was not measured: {error}")
        return None
    return evaluate(run.model, dataset)


def _versions() -> dict[str, str]:
    return {package: installed_version(package) or "unknown" for package in ("tfft", "tensorflow", "keras", "numpy")}
