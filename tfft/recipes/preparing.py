"""Preparation of a run, before training: opened backbone, data and plan: :func:`plan_for`.

Implementation notes: data and backbone determine each other's settings, so this module fixes the order of opening and
reading.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, TypeVar

import keras

from tfft import registry
from tfft.backbones import load_backbone
from tfft.backbones.base import Backbone
from tfft.backbones.fetch.digests import pinned, split_pin
from tfft.config import Plan, RunConfig, SharedSettings
from tfft.console.profile import stage
from tfft.data.examples import Examples
from tfft.errors import BackboneError, PlanError, join_names, quantity
from tfft.models import build
from tfft.plans import DatasetStats, NamedPlan, recommend
from tfft.recipes.probing import fit_of
from tfft.recipes.run import MODEL, PLAN
from tfft.recipes.run_data import RunData, check_supported
from tfft.recipes.sizing import fitting_batch_size
from tfft.specs import InputSpec
from tfft.training import FeatureSource

_Config = TypeVar("_Config", bound=SharedSettings)


def with_new_statistics(config: _Config, plan: NamedPlan | None) -> _Config:
    """Set ``batch_norm="train"`` if a phase reinitializes blocks: the old statistics would not fit new weights."""
    anew = plan is not None and bool(plan.settings.get("reinitialize"))
    if isinstance(config, Plan):
        anew = any(phase.reinitialize for phase in config.phases)
    return dataclasses.replace(config, batch_norm="train") if anew else config


def open_for(
    backbone: Any, config: _Config, data: RunData, *, verbose: bool = False
) -> tuple[RunData, _Config, Backbone]:
    """Open a backbone for the data of a run, and fit each to the other.

    Args:
        backbone: As in :func:`tfft.finetune`; "auto" opens the default of the modality.
        config: Settings of the run.
        data: Data of the run.
        verbose: Print what was chosen.

    Returns:
        The data in the form that the backbone takes, the settings chosen for both, and the opened backbone.

    Raises:
        PlanError: If the backbone takes another modality, or a setting does not apply to it.
        BackboneError: If it cannot be opened.
    """
    if isinstance(backbone, str) and backbone == "auto":
        backbone = data.default_backbone
    opened = open_backbone(backbone, config, data.task, data.splits.train.image_shape)
    data.check_backbone(opened)
    return data.adapted(opened, config, verbose)


@stage("open the backbone")
def open_backbone(
    backbone: Any, config: SharedSettings, task: str, shape: tuple[float, float] | None = None
) -> Backbone:
    """Open a backbone with the settings of a run, unless it is open already.

    Args:
        backbone: As in :func:`tfft.finetune`.
        config: Settings of the run.
        task: Name of the task, which may have its own way to resize images and its own image size.
        shape: Median height and width of the images in pixels; None if unknown.
    """
    options = config.given("opening")
    if isinstance(backbone, Backbone):
        if options:
            raise PlanError(
                f"{join_names(options)} apply to unopened backbones, this one is open: pass them to load_backbone."
            )
        return _fitted(backbone, config, task)
    if config.batch_norm == "train" and not isinstance(backbone, keras.Model):
        options["batch_norm"] = "train"
    handle = _model_of_run(backbone)
    opened = load_backbone(handle, **options)
    if opened.input_spec is not None and not opened.input_spec.flexible:
        preferred = None if shape is None else registry.task(task).preferred_image_size(shape)
        opened = _resized(opened, handle, options, config.image_size, preferred)
    return _fitted(opened, config, task)


def _resized(
    opened: Backbone, handle: Any, options: dict[str, Any], wanted: Any, preferred: tuple[int, int] | None
) -> Backbone:
    """Open a SavedModel of one image size for another: the wanted one, or the preferred one where that is possible."""
    usual = None if opened.input_spec is None else opened.input_spec.image_size
    if wanted != "auto":
        size = (wanted, wanted) if isinstance(wanted, int) else (int(wanted[0]), int(wanted[1]))
        return opened if size == usual else load_backbone(handle, image_size=size, **options)
    if preferred is None or preferred == usual or isinstance(handle, keras.Model):
        return opened
    try:
        return load_backbone(handle, image_size=preferred, **options)
    except BackboneError:  # not fully convolutional, so it takes only its own size
        return opened


def _model_of_run(handle: Any) -> Any:
    """Return the model file of a run, for the folder of a run; any other handle as it is."""
    if not isinstance(handle, (str, os.PathLike)):
        return handle
    folder = Path(handle).expanduser()
    return folder / MODEL if all((folder / name).is_file() for name in (MODEL, PLAN)) else handle


def _fitted(backbone: Backbone, config: SharedSettings, task: str) -> Backbone:
    """Return a backbone that resizes and decodes images in the way of the task."""
    if backbone.input_spec is None:
        return backbone
    kind = registry.task(task)
    spec = dataclasses.replace(
        backbone.input_spec,
        resize=config.resize or kind.resize or backbone.input_spec.resize,
        downscaled_decoding=not (config.full_decoding or kind.moves_with_pixels),
    )
    return dataclasses.replace(backbone, input_spec=spec)


def plan_for(
    backbone: Backbone,
    data: RunData,
    config: RunConfig,
    cache: str | os.PathLike[str] | bool | None,
    plan: NamedPlan | None,
    verbose: int = 0,
    *,
    measure: bool = True,
) -> Plan:
    """Fill in every setting that was left open.

    Args:
        backbone: Opened backbone.
        data: Data of the run.
        config: Settings of the user.
        cache: As in :func:`tfft.finetune`.
        plan: Named plan; None chooses one.
        verbose: As in :func:`tfft.features.extract`.
        measure: Whether a linear probe and a trial batch may decide; False keeps the defaults for what they decide.
    """
    before = None if config.preprocessor is None else _absolute(os.fspath(config.preprocessor))
    task = registry.task(data.task)
    resolved: dict[str, Any] = {"task": data.task, "preprocessor": before}
    if not backbone.pretrained:
        resolved["batch_norm"] = "train"  # there are no statistics to keep
    stats, config = _facts(backbone, data, cache), dataclasses.replace(config, **resolved)
    check_supported(config)
    names: dict[str, Any] = {"plan": plan, "backbone": _absolute(backbone.origin), "data": _absolute(data.name)}
    known = dataclasses.replace(config, batch_size=32) if config.batch_size == "auto" else config
    first = recommend(stats, known, **names)
    if (
        measure
        and stats.cached
        and task.exclusive_classes
        and task.solves_head
        and (first.name == "lp_ft" or (first.name == "few_shot" and plan is None))
        and config.unfreeze == "auto"
        and first.phases[0].head == "linear_probe"
    ):
        model, source = build_model(backbone, data, first), feature_source(data, first, cache)
        if source is not None:
            found = fit_of(model, data, source, seed=first.seed, verbose=verbose, grouped=data.is_grouped)
            fit, high = (None, None) if found is None else found
            stats = dataclasses.replace(stats, fit=fit, fit_high=high)
            first = recommend(stats, known, **names)
    if config.batch_size != "auto" or not measure:
        return first
    batch = next(iter(data.validation(spec_of(backbone, first), 32)))
    model = build_model(backbone, data, first)
    sized = fitting_batch_size(model, batch[:2], first.phases[-1], examples=len(data.splits.train), cached=stats.cached)
    final = recommend(stats, dataclasses.replace(config, batch_size=sized.size), **names)
    return dataclasses.replace(final, reasons={**final.reasons, "batch_size": sized.reason})


def feature_source(data: RunData, plan: Plan, cache: str | os.PathLike[str] | bool | None) -> FeatureSource | None:
    """Return the examples as a source of frozen features; None if features are not cached."""
    if not is_cached(data, cache):
        return None
    train = data.splits.train
    return FeatureSource(
        train, data.splits.validation, batch_size=train.batch_size or plan.batch_size, shuffle=not data.is_ready,
        seed=plan.seed, cache=cache, augment=plan.augment, views=plan.views, sampling=plan.sampling,
        lengths=train.lengths, dtype=registry.task(data.task).feature_dtype,
    )  # fmt: skip


def training_source(data: RunData, plan: Plan, cache: str | os.PathLike[str] | bool | None) -> FeatureSource | None:
    """Return :func:`feature_source`, or the examples that make their own features; None if nothing is cached."""
    if not (makes_own_features(data) and wants_cache(data, cache)):
        return feature_source(data, plan, cache)
    train, held_out = data.splits.train, data.splits.validation
    return FeatureSource(train, held_out, batch_size=plan.batch_size, seed=plan.seed, cache=cache)


def makes_own_features(data: RunData) -> bool:
    """Whether the examples compute what a frozen part of the model gives for them themselves."""
    return type(data.splits.train).trainable_part is not Examples.trainable_part


def _facts(backbone: Backbone, data: RunData, cache: object) -> DatasetStats:
    spec = backbone.input_spec
    return DatasetStats(
        examples=len(data.splits.train),
        classes=len(data.class_names),
        blocks=len(backbone.blocks) if backbone.can_train else 0,
        image_size=None if spec is None else spec.image_size,
        flexible=spec is not None and spec.flexible,
        image_side=data.splits.train.shorter_side,
        image_shape=data.splits.train.image_shape,
        cached=is_cached(data, cache),
        smallest=min(data.counts, default=None),
        largest=max(data.counts, default=None),
        texts=data.is_text,
        pretrained=backbone.pretrained,
    )


def build_model(backbone: Backbone, data: RunData, plan: Plan) -> keras.Model:
    """Build the model: a backbone with the head of the task."""
    l2 = 0.0 if plan.l2 == "auto" else plan.l2
    task = registry.task(plan.task)
    own = {name: getattr(plan, name) for name in task.head_settings}
    head = task.make_head(
        data.class_names, dropout=plan.dropout, l2=l2, label_smoothing=plan.label_smoothing, loss=plan.loss, **own
    )
    head = head.fitted_to(data.splits.train.head_facts)
    size = None if backbone.input_spec is None else plan.image_size
    return build(backbone, head, image_size=size, **data.model_options(backbone))


def is_cached(data: RunData, cache: object) -> bool:
    """Whether the frozen part of the model runs once for all epochs."""
    return wants_cache(data, cache) and registry.task(data.task).caches_features and not makes_own_features(data)


def wants_cache(data: RunData, cache: object) -> bool:
    """Whether the user wants features to be kept."""
    return not (cache is None or cache is False or (data.is_ready and cache == "auto"))


def spec_of(backbone: Backbone, plan: Plan) -> InputSpec | None:
    """Return the input spec of the backbone, with the image size of the plan."""
    if backbone.input_spec is None:
        return None
    return dataclasses.replace(backbone.input_spec, height=plan.image_size[0], width=plan.image_size[1])


def data_line(data: RunData) -> str:
    """Summarize the data in a few lines."""
    splits = data.splits
    text = f"data: {quantity(len(splits.train), 'training example')}, {len(splits.validation)} held out "
    text += f"({splits.split_from}); "
    if data.class_names:
        text += f"{quantity(len(data.class_names), 'class', 'classes')}: {join_names(data.class_names, limit=12)}"
    else:
        text += f"task: {data.task}"
    text += f"\n{data.report}" if data.report else ""
    if data.unseen:
        text += f"\nno held-out example of {join_names(data.unseen, limit=5)}: the scores do not cover it"
    return text


def _absolute(name: str) -> str:
    """Make a local path absolute, so that a plan can be repeated from any folder; a pin is kept."""
    plain, pin = split_pin(name)
    return pinned(os.path.abspath(plain), pin) if os.path.exists(plain) else name


def check_same_backbone(backbone: Backbone, plan: Plan) -> None:
    """Check that a backbone has the digest in the plan.

    Raises:
        PlanError: If the digests differ; the message has both.
    """
    differ = plan.backbone_digest and backbone.digest and backbone.digest != plan.backbone_digest
    if differ and _absolute(backbone.origin) == plan.backbone:
        raise PlanError(
            f"The backbone {plan.backbone!r} has changed since the plan was made: its digest is "
            f"{backbone.digest}, the plan says backbone_digest: {plan.backbone_digest}. Restore those files, "
            "or set backbone_digest to null in the plan to train on the new ones."
        )
