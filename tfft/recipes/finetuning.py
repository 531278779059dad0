"""From a folder of labelled images to a trained, measured and exported model: :func:`finetune`."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft import heads
from tfft.backbones import load_backbone
from tfft.backbones.base import Backbone
from tfft.errors import PlanError, TfftError, did_you_mean, installed_version, listed, raise_problems
from tfft.evaluation import Scores, evaluate
from tfft.exporting.savedmodel import Exported, export, version_folder
from tfft.models import build
from tfft.plans import Facts, Wishes, recommend, show, wishes_of
from tfft.recipes.gathering import Gathered, gather
from tfft.recipes.runs import (
    EXPORT,
    Run,
    check_out,
    check_writable,
    plan_from_yaml,
    write_model,
    write_run,
)
from tfft.recipes.sizing import fitting_batch_size
from tfft.slicing import describe, select
from tfft.specs import Augmentation, InputSpec, Phase, Plan
from tfft.training import FeatureSource, History, is_chief, on_chief, train
from tfft.training.engine import check_phases


def finetune(
    backbone: str | os.PathLike[str] | Backbone | keras.Model,
    data: Any,
    *,
    unfreeze: int | float | str | list[str] = "auto",
    epochs: int | Literal["auto"] = "auto",
    frozen_epochs: int | Literal["auto"] = "auto",
    batch_size: int | Literal["auto"] = 32,
    part_size: int | None = None,
    learning_rate: float | tuple[float, float] | Literal["auto"] = "auto",
    seed: int = 0,
    image_size: int | tuple[int, int] | Literal["auto"] = "auto",
    validation: float = 0.2,
    dropout: float = 0.2,
    l2: float | Literal["auto"] = "auto",
    label_smoothing: float = 0.0,
    batch_norm: Literal["fixed", "train"] = "fixed",
    input_range: tuple[float, float] | None = None,
    output: str | None = None,
    resize: Literal["crop", "stretch", "pad"] | None = None,
    augment: Augmentation | str | Sequence[str] | None = None,
    views: int | Literal["auto"] = "auto",
    trust: bool = False,
    strict: bool = False,
    out: str | os.PathLike[str] | None = None,
    export_to: str | os.PathLike[str] | bool | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
    plan: Plan | str | os.PathLike[str] | None = None,
) -> Run:
    """Makes a classifier out of a pretrained backbone and labelled images, in two phases.

    First the backbone is frozen and the best linear head on its features is computed (the linear probe);
    then the last blocks are trained too, starting from that head (Kumar et al., "Fine-tuning can distort
    pretrained features and underperform out-of-distribution", 2022). What is frozen runs once, through the
    fastest engine there is; later epochs read its result from a cache. Both phases are measured on held-out
    examples, and frozen weights are proven not to have moved.
    Each phase gives back the weights of its best epoch on those examples (the second phase the frozen
    backbone's, where no epoch of its own was better, and says so), so the scores are a little
    too good; where it matters, measure with :func:`tfft.evaluate` on examples kept out of the run.

    Args:
        backbone: a handle as :func:`tfft.load_backbone` takes it, an opened backbone, or a Keras model.
        data: a folder with one folder per class (or ``train/`` and ``val/`` with those inside),
            ``(images, labels)`` arrays, or ``(train, validation, class_names)`` with two datasets of
            batches of inputs and int labels.
        unfreeze: blocks that the second phase trains, as :func:`tfft.unfreeze` takes it; ``"none"``
            leaves that phase out.
        epochs: of the second phase; 0 leaves it out.
        frozen_epochs: ``"auto"`` solves the head; a number of at least 1 trains it for as many epochs.
        batch_size: examples per step; of no effect on ready datasets. ``"auto"`` tries sizes, see
            :func:`tfft.training.find_batch_size`.
        part_size: examples that are computed at a time, where batches of that size do not fit into memory,
            see :func:`tfft.training.in_parts`; None for whole batches.
        learning_rate: peak rate of the second phase, or a pair for (first, second), which trains the head too.
        seed: of split, order, new weights and dropout; the same seed on the same machine repeats a run.
        image_size: pixels, one number or (height, width).
        validation: share of each class to hold out, where the data is not split yet.
        dropout: share of features dropped before the head.
        l2: weight decay of the head's kernel; ``"auto"`` is what cross-validation finds when the head is
            solved, else 0.
        label_smoothing: share of the target spread over all classes.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics, ``"train"`` lets them follow the data.
        input_range: overrides the pixel range of the backbone.
        output: which output, for a backbone with several.
        resize: how images of another aspect ratio are fitted: ``"crop"`` (the default), ``"stretch"``
            or ``"pad"``.
        augment: how pictures are varied in the second phase: ``"flip"`` (not for digits or letters),
            ``"crop"``, both in a list, or an :class:`~tfft.specs.Augmentation`; None not at all.
        views: variations of each picture, itself included, that are used in turn; with a cache the frozen
            part runs on each of them once. ``"auto"`` follows from the epochs.
        trust: True opens a SavedModel although the scan found operations that reach outside of it.
        strict: True makes an unreadable file an error instead of skipping it.
        out: new or empty folder for plan, metrics, history, labels, model and export; None writes nothing.
        export_to: version folder for the export, such as ``"served/1"``; by default ``export/1`` in
            ``out``; False exports nothing.
        cache: where the result of what is frozen is kept: ``"auto"`` in the user's cache folder (a second run
            finds it there), a folder, ``"memory"`` until the process ends, or None to run everything in
            every epoch. Of ready datasets nobody knows whether they give the same in each pass: they are
            cached if this is not "auto", and refused if they do not.
        callbacks: of Keras, for all epochs. Their ``model`` is the whole model.
        verbose: print plan, progress and results.
        plan: a plan, or the file of one, that gives all settings above from ``unfreeze`` to ``strict``.

    Returns:
        A :class:`~tfft.recipes.Run` with the model, the scores of both phases and the export.

    Raises:
        PlanError: for settings that cannot be used, all at once, before anything is loaded; ``out`` not
            empty; a loss that is not a number.
        TfftError: for data, a backbone or an export that does not work out, each with its own class.

    Example:
        >>> run = tfft.finetune("efficientnet-lite0", "photos/", out="runs/photos")
        >>> run.final.accuracy, run.final.interval
        (0.9542, (0.9085, 0.9776))
    """
    arguments = locals()
    settings = {field.name: arguments[field.name] for field in dataclasses.fields(Wishes)}
    given = _plan_of(plan, settings)
    wishes = Wishes(**(wishes_of(given) if given else settings))
    _check(wishes, given, callbacks)
    folder = check_out(out)
    target = None if export_to is None or isinstance(export_to, bool) else version_folder(export_to)
    verbose = verbose and is_chief()
    say = _printer(verbose)

    gathered = gather(data, validation=wishes.validation, seed=wishes.seed, strict=wishes.strict)
    if gathered.is_ready and wishes.augment:
        raise PlanError(
            "augment varies pictures of a folder or of arrays. A ready dataset is varied with its own map()."
        )
    say(_data_line(gathered))
    keras.utils.set_random_seed(wishes.seed)
    opened = _open(backbone, wishes)
    for note in opened.notes:
        say(f"backbone: {note}")
    plan = given or _recommend(opened, gathered, wishes, cache)
    plan = dataclasses.replace(plan, versions=_versions())
    for phase in plan.phases:
        select(opened, phase.unfreeze)  # a block that does not exist is an error before training
    say(show(plan))

    for place in (folder, None if target is None else target.parent):
        if place is not None:
            check_writable(place)  # told before training, not after
    run, held_out = _train(opened, gathered, plan, cache, callbacks, verbose, folder)
    run = dataclasses.replace(run, folder=folder)
    if folder is not None:
        on_chief(run.model, lambda: write_run(run, folder))
        target = target or (None if export_to is False else folder / EXPORT / "1")
    if target is not None:
        try:
            exported = on_chief(run.model, lambda: _export(run, target, gathered, held_out))
        except TfftError as error:
            error.run = run  # what was trained is not lost with what was not exported
            error.add_note("The trained model is the attribute `run` of this error.")
            raise
        run = dataclasses.replace(run, export=exported)
    if run.export is not None:
        say(f"exported to {run.export.path}, largest difference {run.export.largest_difference:.1e}")
    say(run.summary)
    return run


def repeat(
    plan: Plan | str | os.PathLike[str],
    *,
    backbone: str | os.PathLike[str] | Backbone | keras.Model | None = None,
    data: Any = None,
    out: str | os.PathLike[str] | None = None,
    export_to: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: bool = True,
) -> Run:
    """Does again what a plan says.

    Use it with the ``plan.yaml`` of a run: the same data, versions, machine and number of threads give
    the same weights.

    Args:
        plan: a plan, or the file of one.
        backbone: in place of the plan's; needed where that was given in memory.
        data: in place of the plan's; needed where that was given in memory.
        out: as in :func:`finetune`.
        export_to: as in :func:`finetune`.
        cache: as in :func:`finetune`.
        callbacks: as in :func:`finetune`.
        verbose: as in :func:`finetune`.

    Returns:
        A new run.

    Raises:
        TfftError: as :func:`finetune`.

    Example:
        >>> tfft.recipes.repeat("runs/photos/plan.yaml", out="runs/photos-again")
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


def _absolute(name: str) -> str:
    """A local folder by its whole path, so that a plan can be repeated from anywhere."""
    return os.path.abspath(name) if os.path.isdir(name) else name


def _plan_of(plan: Plan | str | os.PathLike[str] | None, settings: dict[str, Any]) -> Plan | None:
    if plan is None:
        return None
    defaults = {field.name: field.default for field in dataclasses.fields(Wishes)}
    twice = [name for name, value in settings.items() if value != defaults[name]]
    if twice:
        raise PlanError(f"{listed(twice)} given beside plan=, which sets them all. Change the plan, or leave it out.")
    return plan if isinstance(plan, Plan) else plan_from_yaml(plan)


def _check(wishes: Wishes, plan: Plan | None, callbacks: Sequence[Any]) -> None:
    wishes.check()
    problems = [
        f"callbacks must be keras.callbacks.Callback objects, got {callback!r}"
        for callback in callbacks
        if not isinstance(callback, keras.callbacks.Callback)
    ]
    if plan is not None and plan.task != "classification":
        hint = did_you_mean(plan.task, ["classification"])
        problems.append(f"task must be 'classification', got {plan.task!r}.{hint}")
    raise_problems(PlanError, "These settings cannot be used", problems)
    if plan is not None:
        check_phases(plan.phases)


def _printer(verbose: bool) -> Callable[[object], None]:
    return (lambda text: print(text, flush=True)) if verbose else (lambda text: None)


def _data_line(data: Gathered) -> str:
    text = f"data: {data.examples} examples to learn from, {data.held_out} held out ({data.origin}); "
    text += f"{len(data.class_names)} classes: {listed(data.class_names, limit=12)}"
    if data.skipped:
        text += f"\n{len(data.skipped)} files skipped: " + "; ".join(map(str, data.skipped[:3]))
        text += "; ..." if len(data.skipped) > 3 else ""
    return text


def _open(backbone: Any, wishes: Wishes) -> Backbone:
    if isinstance(backbone, Backbone):
        beside = [name for name in ("input_range", "output", "trust") if getattr(wishes, name)]
        if beside:
            raise PlanError(
                f"{listed(beside)} say how to open a backbone, and this one is open: pass them to load_backbone."
            )
        return _fitted(backbone, wishes)
    asked = {"input_range": wishes.input_range, "output": wishes.output, "trust": wishes.trust or None}
    options = {name: value for name, value in asked.items() if value is not None}
    if wishes.batch_norm == "train" and not isinstance(backbone, keras.Model):
        options["batch_norm"] = "train"
    return _fitted(load_backbone(backbone, **options), wishes)


def _fitted(backbone: Backbone, wishes: Wishes) -> Backbone:
    if wishes.resize is None or backbone.input_spec is None:
        return backbone
    return dataclasses.replace(backbone, input_spec=dataclasses.replace(backbone.input_spec, resize=wishes.resize))


def _recommend(backbone: Backbone, data: Gathered, wishes: Wishes, cache: object) -> Plan:
    facts = _facts(backbone, data, cache)
    names = {"backbone": _absolute(backbone.origin), "data": _absolute(data.name)}
    if wishes.batch_size != "auto":
        return recommend(facts, wishes, **names)
    first = recommend(facts, dataclasses.replace(wishes, batch_size=32), **names)
    batch = next(iter(data.validation(_spec(backbone, first), 32)))
    trial = {"examples": data.examples, "cached": facts.cached}
    found = fitting_batch_size(_build(backbone, data, first), batch[:2], first.phases[-1], **trial)
    plan = recommend(facts, dataclasses.replace(wishes, batch_size=found.size), **names)
    return dataclasses.replace(plan, reasons={**plan.reasons, "batch_size": found.reason})


def _facts(backbone: Backbone, data: Gathered, cache: object) -> Facts:
    spec = backbone.input_spec
    return Facts(
        examples=data.examples,
        classes=len(data.class_names),
        blocks=len(backbone.blocks),
        image_size=None if spec is None else spec.image_size,
        flexible=spec is not None and spec.flexible,
        image_side=data.image_side,
        cached=_is_cached(data, cache),
    )


def _build(backbone: Backbone, data: Gathered, plan: Plan) -> keras.Model:
    l2 = 0.0 if plan.l2 == "auto" else plan.l2
    head = heads.classification(data.class_names, dropout=plan.dropout, l2=l2, label_smoothing=plan.label_smoothing)
    return build(backbone, head, image_size=None if backbone.input_spec is None else plan.image_size)


def _train(
    backbone: Backbone,
    data: Gathered,
    plan: Plan,
    cache: str | os.PathLike[str] | bool | None,
    callbacks: Sequence[keras.callbacks.Callback],
    verbose: bool,
    folder: pathlib.Path | None,
) -> tuple[Run, tf.data.Dataset]:
    keras.utils.set_random_seed(plan.seed)  # again: opening may or may not have drawn numbers
    model = _build(backbone, data, plan)
    spec = _spec(backbone, plan)
    held_out = data.validation(spec, plan.batch_size)
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
    scores: list[Scores] = []
    say = _printer(verbose)

    def measure(phase: Phase, history: History) -> None:
        scores.append(evaluate(model, held_out))
        say(f"{phase.name}: {scores[-1].line}\n{history.audits[phase.name].summary}")
        for note in history.notes:
            say(note)
        if folder is not None and phase is not plan.phases[-1]:  # a later phase that fails loses only itself
            on_chief(model, lambda: write_model(model, folder))

    history = train(
        model,
        lambda: data.training(spec, plan, epoch),
        held_out,
        plan.phases,
        source=_source(data, spec, plan, cache),
        epoch=epoch,
        l2=plan.l2,
        seed=plan.seed,
        part_size=plan.part_size,
        batch_norm=plan.batch_norm,
        callbacks=callbacks,
        verbose=verbose,
        after_phase=measure,
    )
    say(describe(model))
    return Run(model, plan, history, scores[0], scores[-1], data.class_names, data.skipped), held_out


def _source(
    data: Gathered, spec: InputSpec | None, plan: Plan, cache: str | os.PathLike[str] | bool | None
) -> FeatureSource | None:
    if not _is_cached(data, cache):
        return None
    batch_size = data.batch_size or plan.batch_size
    shuffle = not data.is_ready
    varied = {"augment": plan.augment, "views": plan.views}
    return FeatureSource(
        *data.ordered(spec), batch_size=batch_size, shuffle=shuffle, seed=plan.seed, cache=cache, **varied
    )


def _is_cached(data: Gathered, cache: object) -> bool:
    return not (cache is None or cache is False or (data.is_ready and cache == "auto"))


def _spec(backbone: Backbone, plan: Plan) -> InputSpec | None:
    if backbone.input_spec is None:
        return None
    return dataclasses.replace(backbone.input_spec, height=plan.image_size[0], width=plan.image_size[1])


def _export(run: Run, target: pathlib.Path, data: Gathered, held_out: tf.data.Dataset) -> Exported:
    examples: Any = list(data.probe)
    if not examples:
        inputs = next(iter(held_out))[0]
        examples = {k: np.asarray(v)[:8] for k, v in inputs.items()} if isinstance(inputs, dict) else None
        if isinstance(inputs, tf.Tensor):
            examples = np.asarray(inputs)[:8]
    return export(run.model, target, examples=examples, card=run.card)


def _versions() -> dict[str, str]:
    return {package: installed_version(package) or "unknown" for package in ("tfft", "tensorflow", "keras", "numpy")}
