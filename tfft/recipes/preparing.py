"""What is known before a training begins: the opened backbone, the data and the plan: :func:`recommend_plan`.

Hides the order in which they depend on each other.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras

from tfft import registry
from tfft.backbones import load_backbone
from tfft.backbones.base import Backbone
from tfft.backbones.fetch.digests import pinned, split_pin
from tfft.errors import PlanError, listed
from tfft.models import build
from tfft.plans import Facts, NamedPlan, Wishes, recommend
from tfft.recipes.gathered import Gathered
from tfft.recipes.gathering import gather
from tfft.recipes.listening import heard_by
from tfft.recipes.probing import fit_of
from tfft.recipes.sizing import fitting_batch_size
from tfft.recipes.texts import check_supported, check_takes_texts
from tfft.specs import InputSpec, Plan
from tfft.training import FeatureSource


def recommend_plan(
    data: Any,
    backbone: str | os.PathLike[str] | Backbone | keras.Model,
    *,
    plan: NamedPlan | None = None,
    cache: str | os.PathLike[str] | bool | None = "auto",
    **wishes: Any,
) -> Plan:
    """Says what :func:`tfft.finetune` would do with some data and a backbone, and why; trains nothing.

    Where it decides how many blocks train, it first runs the frozen backbone over the examples, and keeps the result
    for the training: how well a linear head does on it tells whether the backbone knows such data.

    Use it to see and change a plan before it costs anything: the result is data, and ``finetune(plan=...)`` takes it.

    Args:
        data: as :func:`tfft.finetune` takes it.
        backbone: as :func:`tfft.finetune` takes it.
        plan: a named plan whose phases are wanted; None chooses one.
        cache: as :func:`tfft.finetune` takes it.
        **wishes: settings of :func:`tfft.finetune` that are not to be chosen.

    Returns:
        A plan with its ``reasons``; ``print(tfft.plans.show(plan))`` shows it as tables.

    Raises:
        TfftError: for settings, data or a backbone that cannot be used.

    Example:
        >>> plan = tfft.recommend_plan("photos/", "efficientnet-lite0", seed=1)
        >>> print(tfft.plans.show(plan))
        >>> tfft.finetune("efficientnet-lite0", "photos/", plan=plan)
    """
    wanted, plan = with_new_statistics(Wishes(**wishes), plan)
    wanted.check()
    gathered = gather(data, wanted)
    opened = open_backbone(backbone, wanted)
    check_takes_texts(opened, gathered)
    gathered, wanted = heard_by(opened, gathered, data, wanted, verbose=False)
    return plan_for(opened, gathered, wanted, cache, plan)


_OPENING = ("input_range", "output", "max_length", "pooling", "preprocessor")


def with_new_statistics(wishes: Wishes, plan: Plan | NamedPlan | None) -> tuple[Wishes, Plan | NamedPlan | None]:
    """Lets BatchNorm statistics follow where a phase starts blocks anew: those of the old weights would be wrong."""
    if isinstance(plan, Plan):
        anew = any(phase.reinitialize for phase in plan.phases)
        plan = dataclasses.replace(plan, batch_norm="train") if anew else plan
    else:
        anew = plan is not None and bool(plan.settings.get("reinitialize"))
    return (dataclasses.replace(wishes, batch_norm="train") if anew else wishes), plan


def open_backbone(backbone: Any, wishes: Wishes) -> Backbone:
    """Opens a backbone as the user wants it, unless it is open."""
    if isinstance(backbone, Backbone):
        beside = [name for name in (*_OPENING, "trust") if getattr(wishes, name)]
        if beside:
            raise PlanError(
                f"{listed(beside)} say how to open a backbone, and this one is open: pass them to load_backbone."
            )
        return _fitted(backbone, wishes)
    asked = {name: getattr(wishes, name) for name in _OPENING} | {"trust": wishes.trust or None}
    options = {name: value for name, value in asked.items() if value is not None}
    if wishes.batch_norm == "train" and not isinstance(backbone, keras.Model):
        options["batch_norm"] = "train"
    return _fitted(load_backbone(backbone, **options), wishes)


def _fitted(backbone: Backbone, wishes: Wishes) -> Backbone:
    if wishes.resize is None or backbone.input_spec is None:
        return backbone
    return dataclasses.replace(backbone, input_spec=dataclasses.replace(backbone.input_spec, resize=wishes.resize))


def plan_for(
    backbone: Backbone,
    data: Gathered,
    wishes: Wishes,
    cache: str | os.PathLike[str] | bool | None,
    plan: NamedPlan | None,
    verbose: bool = False,
) -> Plan:
    """Fills every setting that was left open."""
    before = None if wishes.preprocessor is None else _absolute(os.fspath(wishes.preprocessor))
    task = registry.task(data.task)
    facts, wishes = _facts(backbone, data, cache), dataclasses.replace(wishes, task=data.task, preprocessor=before)
    check_supported(wishes)
    names: dict[str, Any] = {"plan": plan, "backbone": _absolute(backbone.origin), "data": _absolute(data.name)}
    known = dataclasses.replace(wishes, batch_size=32) if wishes.batch_size == "auto" else wishes
    first = recommend(facts, known, **names)
    if (
        facts.cached
        and task.exclusive_classes
        and task.solves_head
        and first.name == "lp_ft"
        and wishes.unfreeze == "auto"
        and first.phases[0].solve is True
    ):
        model, source = build_model(backbone, data, first), feature_source(data, spec_of(backbone, first), first, cache)
        facts = dataclasses.replace(
            facts, fit=fit_of(model, data, source, seed=first.seed, verbose=verbose, apart=data.apart)
        )
        first = recommend(facts, known, **names)
    if wishes.batch_size != "auto":
        return first
    batch = next(iter(data.validation(spec_of(backbone, first), 32)))
    trial = {"examples": data.examples, "cached": facts.cached}
    found = fitting_batch_size(build_model(backbone, data, first), batch[:2], first.phases[-1], **trial)
    final = recommend(facts, dataclasses.replace(wishes, batch_size=found.size), **names)
    return dataclasses.replace(final, reasons={**final.reasons, "batch_size": found.reason})


def feature_source(
    data: Gathered, spec: InputSpec | None, plan: Plan, cache: str | os.PathLike[str] | bool | None
) -> FeatureSource | None:
    """The examples as what is frozen sees them once; None where nothing is kept."""
    if not is_cached(data, cache):
        return None
    return FeatureSource(
        *data.ordered(spec), batch_size=data.batch_size or plan.batch_size, shuffle=not data.is_ready, seed=plan.seed,
        cache=cache, augment=plan.augment, views=plan.views, sampling=plan.sampling,
        lengths=data.lengths,
    )  # fmt: skip


def _facts(backbone: Backbone, data: Gathered, cache: object) -> Facts:
    spec = backbone.input_spec
    return Facts(
        examples=data.examples,
        classes=len(data.class_names),
        blocks=len(backbone.blocks),
        image_size=None if spec is None else spec.image_size,
        flexible=spec is not None and spec.flexible,
        image_side=data.image_side,
        cached=is_cached(data, cache),
        smallest=min(data.counts, default=None),
        largest=max(data.counts, default=None),
        texts=data.texts is not None,
    )


def build_model(backbone: Backbone, data: Gathered, plan: Plan) -> keras.Model:
    """Puts the head on a backbone."""
    l2 = 0.0 if plan.l2 == "auto" else plan.l2
    head = registry.task(plan.task).make_head(
        data.class_names, dropout=plan.dropout, l2=l2, label_smoothing=plan.label_smoothing, loss=plan.loss
    )
    size = None if backbone.input_spec is None else plan.image_size
    if data.audio is not None:
        return build(backbone, head, image_size=size, audio=data.audio)
    return build(backbone, head, image_size=size, pair=data.texts is not None and data.texts.pairs is not None)


def is_cached(data: Gathered, cache: object) -> bool:
    """Whether the frozen part of the model runs once for all epochs."""
    wanted = not (cache is None or cache is False or (data.is_ready and cache == "auto"))
    return wanted and registry.task(data.task).caches_features


def spec_of(backbone: Backbone, plan: Plan) -> InputSpec | None:
    """What the backbone expects, in the size of the plan."""
    if backbone.input_spec is None:
        return None
    return dataclasses.replace(backbone.input_spec, height=plan.image_size[0], width=plan.image_size[1])


def data_line(data: Gathered) -> str:
    """Says in a few lines what the data is."""
    text = f"data: {data.examples} examples to learn from, {data.held_out} held out ({data.origin}); "
    if data.class_names:
        text += f"{len(data.class_names)} classes: {listed(data.class_names, limit=12)}"
    else:
        text += f"task: {data.task}"
    text += f"\n{data.report}" if data.report else ""
    if data.skipped:
        text += f"\n{len(data.skipped)} files skipped: " + "; ".join(map(str, data.skipped[:3]))
        text += "; ..." if len(data.skipped) > 3 else ""
    if data.unseen:
        text += f"\nno held-out example of {listed(data.unseen, limit=5)}: the scores say nothing about it"
    return text


def _absolute(name: str) -> str:
    """A local folder or file by its whole path, so that a plan can be repeated from anywhere; its pin is kept."""
    plain, pin = split_pin(name)
    return pinned(os.path.abspath(plain), pin) if os.path.exists(plain) else name


def check_same_backbone(backbone: Backbone, plan: Plan) -> None:
    """Refuses to repeat a plan with a backbone of the same handle and another content.

    Raises:
        PlanError: with both digests.
    """
    differ = plan.backbone_digest and backbone.digest and backbone.digest != plan.backbone_digest
    if differ and _absolute(backbone.origin) == plan.backbone:
        raise PlanError(
            f"The backbone {plan.backbone!r} is not what it was when the plan was made: its digest is "
            f"{backbone.digest}, the plan says backbone_digest: {plan.backbone_digest}. Take the files of that time, "
            "or set backbone_digest to null in the plan to train on the new ones."
        )
