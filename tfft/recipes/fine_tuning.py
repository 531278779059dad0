"""From a folder of labelled images to a trained, measured and exported model: :func:`finetune`."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from tfft.backbones.base import Backbone
from tfft.console.progress import reading_bar
from tfft.data import class_weights
from tfft.errors import PlanError, TfftError, installed_version, listed, raise_problems
from tfft.evaluation import Scores, evaluate
from tfft.exporting.savedmodel import Exported, export, version_folder
from tfft.freezing import describe, select
from tfft.plans import NamedPlan, Wishes, named, show, wishes_of
from tfft.recipes.costing import cost
from tfft.recipes.gathered import Gathered
from tfft.recipes.gathering import gather
from tfft.recipes.listening import heard_by
from tfft.recipes.preparing import (
    build_model,
    check_same_backbone,
    data_line,
    feature_source,
    is_cached,
    open_backbone,
    plan_for,
    spec_of,
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
    write_model,
    write_run,
)
from tfft.recipes.texts import check_takes_texts, truncation_note
from tfft.specs import Augmentation, Phase, Plan
from tfft.training import Checkpoints, History, is_chief, on_chief, train
from tfft.training.distribute import has_workers
from tfft.training.phase_checks import check_phases


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
    text: str | int | tuple[str | int, str | int] | None = None,
    label: str | int | None = None,
    task: str = "auto",
    separator: str | None = None,
    max_length: int | None = None,
    pooling: Literal["cls", "mean", "last", "pooled_output"] | None = None,
    preprocessor: str | None = None,
    validation: float | str = 0.2,
    group: str | int | None = None,
    image: str | int | None = None,
    audio: str | int | None = None,
    sample_rate: int | None = None,
    seconds: float | None = None,
    dropout: float = 0.2,
    l2: float | Literal["auto"] = "auto",
    label_smoothing: float = 0.0,
    loss: Literal["cross_entropy", "focal"] = "cross_entropy",
    class_weight: Literal["balanced"] | Mapping[str, float] | None = None,
    sampling: Literal["balanced"] | None = None,
    batch_norm: Literal["fixed", "train"] = "fixed",
    deterministic: bool = False,
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
    plan: Plan | NamedPlan | str | os.PathLike[str] | None = None,
) -> Run:
    """Makes a classifier out of a pretrained backbone and labelled images or texts, phase by phase.

    By default the backbone is frozen first and the best linear head on its features is computed (the linear probe);
    then the last blocks are trained too, starting from that head (Kumar et al., "Fine-tuning can distort
    pretrained features and underperform out-of-distribution", 2022). What is frozen runs once, through the
    fastest engine there is; later epochs read its result from a cache. Both phases are measured on held-out
    examples, and frozen weights are proven not to have moved.
    Each phase gives back the weights of its best epoch on those examples (the second phase the frozen
    backbone's, where no epoch of its own was better, and says so), so the scores are a little
    too good; where it matters, measure with :func:`tfft.evaluate` on examples kept out of the run.

    Args:
        backbone: a handle as :func:`tfft.load_backbone` takes it, an opened backbone, or a Keras model.
        data: what :func:`tfft.data.load` takes: a folder with one folder per class (or ``train/`` and ``val/`` with
            those inside) of images, of recordings or of ``.txt`` files; a table of any of these; ``(images, labels)``
            arrays; texts as :func:`tfft.data.load_texts` takes them (a DataFrame, ``(texts, labels)``);
            ``"tfds:NAME"`` or a folder that tensorflow-datasets prepared. Or what it gives; or
            ``(train, validation, class_names)`` with two datasets of batches of inputs and int labels.
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
        text: column of a table that holds the texts, by name, or by number where it has no header; two for pairs.
        label: column that holds the labels. Of TensorFlow Datasets ``image``, ``audio``, ``text`` and ``label`` name
            features, where it is not clear which are meant.
        task: what the labels are: ``"classification"``, ``"binary"``, ``"multilabel"``, ``"regression"`` (numbers),
            ``"token_classification"`` (a tag for each word; data as :func:`tfft.data.load_tagged` takes it, ``text``
            and ``label`` name the lists in JSON lines) or a task of your own; ``"auto"`` looks at them.
        separator: between the labels of one text, where it has several.
        max_length: most pieces of a text that are read; by default the backbone's own choice, which is printed.
        pooling: how the features of all pieces of a text become one; by default the backbone's own choice.
        preprocessor: handle of the SavedModel that makes the inputs of an encoder of TF Hub, where it is not known.
        validation: share of each class to hold out, where the data is not split yet; or the file of an earlier split,
            such as ``split.csv`` in the folder of a run.
        group: what must not be on both sides of the split, such as the pictures of one person: ``"folder"``, or a
            regular expression on the paths of image files, with the telling part in parentheses; for a table its
            column.
        image: column of a table that holds the paths of image files, absolute or beside the table.
        audio: column of a table that holds the paths of recordings, absolute or beside the table.
        sample_rate: that recordings are brought to; the commonest among them by default.
        seconds: of each recording that are heard; by default what 95 % of them fit into, at most 10.
        dropout: share of features dropped before the head.
        l2: weight decay of the head's kernel; ``"auto"`` is what cross-validation finds when the head is
            solved, else 0.
        label_smoothing: share of the target spread over all classes.
        loss: ``"cross_entropy"``, or ``"focal"``, which gives less weight to examples that are right already.
        class_weight: ``"balanced"`` weighs each class by the inverse of its share, a mapping of class names gives
            the weights; None weighs all examples the same.
        sampling: ``"balanced"`` draws all classes equally often; None takes each example once in an epoch.
        batch_norm: ``"fixed"`` keeps BatchNorm statistics, ``"train"`` lets them follow the data.
        deterministic: True lets TensorFlow use only operations that repeat bit for bit, for the rest of the process.
        input_range: overrides the pixel range of the backbone.
        output: which output, for a backbone with several.
        resize: how images of another aspect ratio are fitted: ``"crop"`` (the default), ``"stretch"``
            or ``"pad"``.
        augment: how pictures are varied in the second phase: ``"flip"`` (not for digits or letters),
            ``"crop"``, both in a list, or an :class:`~tfft.specs.Augmentation`; recordings by ``"shift"`` and
            ``"mask"``; None not at all.
        views: variations of each picture, itself included, that are used in turn; with a cache the frozen
            part runs on each of them once. ``"auto"`` follows from the epochs.
        trust: True opens a SavedModel although the scan found operations that reach outside of it.
        strict: True makes an unreadable file an error instead of skipping it.
        out: new or empty folder for plan, metrics, history, labels, model and export; None writes nothing. While
            it trains, the run is saved there: the same call goes on after a kill at any moment, to the same weights
            (to the last bit on a CPU with ``deterministic=True``). Another plan or other data is refused.
        export_to: version folder for the export, such as ``"served/1"``; by default ``export/1`` in
            ``out``; False exports nothing.
        cache: where the result of what is frozen is kept: ``"auto"`` in the user's cache folder (a second run
            finds it there), a folder, ``"memory"`` until the process ends, or None to run everything in
            every epoch. Of ready datasets nobody knows whether they give the same in each pass: they are
            cached if this is not "auto", and refused if they do not.
        callbacks: of Keras, for all epochs. Their ``model`` is the whole model.
        verbose: print plan, progress and results.
        plan: a named plan such as ``"gradual"`` or ``tfft.plans.lp_ft(layer_decay=0.8)``, which gives the phases; or a
            :class:`tfft.Plan` or the file of one, which gives all settings above from ``unfreeze`` to ``strict``.
            None chooses: see :func:`tfft.plans.recommend`.

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
    wishes = Wishes(**(wishes_of(given) if isinstance(given, Plan) else settings))
    wishes, given = with_new_statistics(wishes, given)
    _check(wishes, given, callbacks)
    folder = check_out(out)
    target = None if export_to is None or isinstance(export_to, bool) else version_folder(export_to)
    verbose = verbose and is_chief()
    say = _printer(verbose)

    with reading_bar(verbose) as progress:
        gathered = gather(data, wishes, progress)
    if gathered.is_ready and wishes.augment:
        raise PlanError(
            "augment varies pictures of a folder or of arrays. A ready dataset is varied with its own map()."
        )
    say(data_line(gathered))
    if gathered.is_ready and wishes.sampling:
        raise PlanError("sampling draws from a folder or from arrays; a ready dataset has its order already.")
    keras.utils.set_random_seed(wishes.seed)
    if wishes.deterministic:
        tf.config.experimental.enable_op_determinism()
    opened = open_backbone(backbone, wishes)
    check_takes_texts(opened, gathered)
    gathered, wishes = heard_by(opened, gathered, data, wishes, verbose)
    for note in opened.notes:
        say(f"backbone: {note}")
    if cut := truncation_note(opened, gathered):
        say(cut)
    if isinstance(given, Plan):
        check_same_backbone(opened, given)
    plan = given if isinstance(given, Plan) else plan_for(opened, gathered, wishes, cache, given, verbose)
    plan = dataclasses.replace(plan, versions=_versions(), backbone_digest=opened.digest)
    for phase in plan.phases:
        select(opened, phase.unfreeze)  # a block that does not exist is an error before training
    say(show(plan))

    for place in (folder, None if target is None else target.parent):
        if place is not None:
            check_writable(place)  # told before training, not after
    going_on = folder is not None and is_unfinished(folder)
    run, held_out = _train(opened, gathered, plan, cache, callbacks, verbose, folder)
    run = dataclasses.replace(run, folder=folder)
    if folder is not None:
        on_chief(run.model, lambda: write_run(run, folder))
        target = target or (None if export_to is False else folder / EXPORT / "1")
    if target is not None and going_on and target.is_dir() and target.parent.parent == folder:
        say(f"{target} was exported before the run was stopped")  # exports are whole or not there
        target = None
    if target is not None:
        try:
            exported = on_chief(run.model, lambda: _export(run, target, gathered, held_out))
        except TfftError as error:
            error.run = run  # what was trained is not lost with what was not exported
            error.add_note("The trained model is the attribute `run` of this error.")
            raise
        run = dataclasses.replace(run, export=exported)
    if folder is not None and (folder / CHECKPOINTS).is_dir():
        on_chief(run.model, lambda: shutil.rmtree(folder / CHECKPOINTS))  # from here on nothing is left to do
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


def _plan_of(
    plan: Plan | NamedPlan | str | os.PathLike[str] | None, settings: dict[str, Any]
) -> Plan | NamedPlan | None:
    if plan is None or isinstance(plan, NamedPlan):
        return plan
    if isinstance(plan, str) and plan.isidentifier() and not os.path.exists(plan):
        return named(plan)
    defaults = {field.name: field.default for field in dataclasses.fields(Wishes)}
    twice = [name for name, value in settings.items() if value != defaults[name]]
    if twice:
        raise PlanError(f"{listed(twice)} given beside plan=, which sets them all. Change the plan, or leave it out.")
    return plan if isinstance(plan, Plan) else plan_from_yaml(plan)


def _check(wishes: Wishes, plan: Plan | NamedPlan | None, callbacks: Sequence[Any]) -> None:
    wishes.check()
    problems = [
        f"callbacks must be keras.callbacks.Callback objects, got {callback!r}"
        for callback in callbacks
        if not isinstance(callback, keras.callbacks.Callback)
    ]
    raise_problems(PlanError, "These settings cannot be used", problems)
    if isinstance(plan, Plan):
        check_phases(plan.phases)


def _printer(verbose: bool) -> Callable[[object], None]:
    return (lambda text: print(text, flush=True)) if verbose else (lambda text: None)


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
    model = build_model(backbone, data, plan)
    spec = spec_of(backbone, plan)
    estimate = cost(model, plan, data.examples, cached=is_cached(data, cache))
    if verbose and estimate:
        print(estimate, flush=True)
    held_out = data.validation(spec, plan.batch_size)
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
    memory: dict[str, Any] = {"scores": []}  # of the phases that are done, also before the run was stopped
    say = _printer(verbose)

    def measure(phase: Phase, history: History) -> None:
        if phase.contrastive and memory["scores"] and phase is not plan.phases[-1]:
            line = "features changed; the head will follow them"  # a score of both together would say nothing
        else:
            scores = evaluate(model, held_out)
            memory["scores"].append(json.dumps(scores.to_dict()))
            line = scores.line
        say(f"{phase.name}: {line}\n{history.audits[phase.name].summary}")
        for note in history.notes:
            say(note)
        if folder is not None and phase is not plan.phases[-1]:  # a later phase that fails loses only itself
            on_chief(model, lambda: write_model(model, folder))

    history = train(
        model,
        lambda: data.training(spec, plan, epoch),
        held_out,
        plan.phases,
        source=feature_source(data, spec, plan, cache),
        epoch=epoch,
        l2=plan.l2,
        seed=plan.seed,
        part_size=plan.part_size,
        class_weight=_class_weight(data, plan),
        batch_norm=plan.batch_norm,
        callbacks=callbacks,
        verbose=verbose,
        after_phase=measure,
        checkpoints=_checkpoints(model, plan, data, folder),
        memory=memory,
    )
    say(describe(model))
    scores = [Scores.from_dict(json.loads(text)) for text in memory["scores"]]
    unleaked = None if data.unleaked is None else evaluate(model, data.unleaked(spec, plan.batch_size))
    known = {"checked": data.checked, "items": data.items, "unleaked": unleaked}
    return Run(model, plan, history, scores[0], scores[-1], data.class_names, data.skipped, **known), held_out


def _checkpoints(model: keras.Model, plan: Plan, data: Gathered, folder: pathlib.Path | None) -> Checkpoints | None:
    """Where a run is saved while it trains; several workers cannot be."""
    if folder is None or has_workers(model):
        return None
    settings = {name: value for name, value in plan.to_dict().items() if name not in ("reasons", "versions", "phases")}
    identity = {"plan": settings, "data": data.fingerprint()}
    return Checkpoints(folder / CHECKPOINTS, identity=identity, remove=False)


def _class_weight(data: Gathered, plan: Plan) -> Mapping[int, float] | None:
    if plan.class_weight is None:
        return None
    return class_weights(np.repeat(np.arange(len(data.counts)), data.counts), data.class_names, plan.class_weight)


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
