"""Choice of all open settings: :func:`recommend`.

It is a pure function of a few statistics, so the same data gets the same plan, and every choice has a reason.
"""

from __future__ import annotations

import dataclasses

from tfft.config import Phase, Plan, RunConfig, SharedSettings
from tfft.plans.defaults import PAIRED, Draft
from tfft.plans.stats import DatasetStats
from tfft.plans.strategies import NamedPlan
from tfft.settings import defaults_of
from tfft.specs import augmentation

_TOO_FEW = 10  # examples of the smallest class, below which nothing is trained
_TRAINABLE = 5  # with so many, blocks train if a linear head fails; docs/plans.md has the evidence
_UNEQUAL = 10  # ratio of the largest to the smallest class


def recommend(
    stats: DatasetStats,
    config: RunConfig | None = None,
    *,
    plan: NamedPlan | None = None,
    backbone: str = "",
    data: str = "",
) -> Plan:
    """Fill in all open settings, each with its reason.

    Use it to see the plan of :func:`tfft.finetune`, or to change a plan before running it.

    A backbone with random weights gets the plan ``from_scratch``. Otherwise the plan is ``few_shot`` for fewer than ten
    examples in the smallest class, unless a linear head on the pretrained features has a low score beyond doubt;
    ``linear_probe`` if that head makes no mistake at all; else ``lp_ft``; see :mod:`tfft.plans.strategies`.
    Epochs follow from steps: fine-tuning gets at least 280, a trained head 240, in 2 to 10 epochs. The last half of the
    blocks trains, and all of them from 50,000 examples on; behind a head that is not solved, such as a detector, a
    sixth below 500 and a third below 5,000. Images of at most 64 pixels are unlike the pretraining data, so the rate is
    higher. If a linear head on the pretrained features has a low score, blocks train at that rate, and if the upper end
    of its interval is low too, all of them. Rates are for Adam and grow with the square root of the batch size. Texts
    get AdamW at lower rates, and with at most 64 examples in the smallest class the reasons name ``setfit`` as an
    alternative; it is never chosen automatically.

    Args:
        stats: Statistics of data and backbone.
        config: Fixed settings; None leaves everything open.
        plan: Named plan for the phases; None chooses one.
        backbone: Handle, written into the plan.
        data: Folder, written into the plan.

    Returns:
        A plan; ``reasons`` has one sentence per open setting.

    Raises:
        PlanError: If settings are out of range or do not fit the plan; all of them are listed.

    Example:
        >>> plan = recommend(DatasetStats(examples=1437, classes=10, blocks=18))
        >>> plan.phases[1].unfreeze, plan.phases[1].epochs
        (9, 7)
    """
    config = config or RunConfig()
    config.check()
    draft = _drafted(stats, config)
    config = draft.config
    size = draft.image_size()
    if plan is None:
        plan = _choose(draft)
        _note_pairs(draft)
    phases = tuple(_with_task_settings(phase, draft) for phase in plan.phases(draft))
    _note_imbalance(draft)
    changes, span = augmentation(config.augment), config.input_range
    settings = {field.name: getattr(config, field.name) for field in dataclasses.fields(SharedSettings)}
    settings |= {
        "image_size": size or (0, 0),
        "input_range": None if span is None else (float(span[0]), float(span[1])),
        "augment": changes,
        "views": draft.views(phases[-1].epochs) if changes else 1,
    }
    return Plan(backbone=backbone, data=data, name=plan.name, phases=phases, reasons=draft.reasons, **settings)


def _drafted(stats: DatasetStats, config: RunConfig) -> Draft:
    """Return a draft of the plan, with the defaults of the task."""
    draft = Draft(stats, config)
    for name, default in draft.task.phase_defaults().items():
        if getattr(config, name) == getattr(RunConfig(), name):
            draft.config = dataclasses.replace(draft.config, **{name: default.value})
            draft.reasons[name] = default.reason
    return draft


def _with_task_settings(phase: Phase, draft: Draft) -> Phase:
    """Return a phase with the settings of the task, where the plan leaves the default of all tasks."""
    if not phase.epochs or phase.head != "train":
        return phase
    usual = defaults_of(Phase)
    own = {name: value for name, value in draft.task.phase_settings().items() if getattr(phase, name) == usual[name]}
    return dataclasses.replace(phase, **own)


def _choose(draft: Draft) -> NamedPlan:
    smallest, config = draft.stats.smallest, draft.asked
    if not draft.stats.pretrained:
        draft.reasons["plan"] = "the weights of the backbone are random, so there is nothing to keep frozen"
        return NamedPlan("from_scratch")
    asked = any(getattr(config, name) != "auto" for name in ("unfreeze", "epochs", "head_epochs", "learning_rate"))
    if smallest is not None and smallest < _TOO_FEW and not asked and draft.task.solves_head:
        few = f"{smallest} examples in the smallest class are"
        if draft.is_surely_far and smallest >= _TRAINABLE and not draft.stats.texts:
            draft.reasons["plan"] = f"{few} few, but a linear head on the pretrained features is too weak"
            return NamedPlan("lp_ft")
        draft.reasons["plan"] = f"{few} too few to train on without overfitting"
        return NamedPlan("few_shot")
    if draft.stats.fit == 1 and not asked:
        draft.reasons["plan"] = (
            "a linear head on the pretrained features makes no mistake, neither in cross-validation nor on the "
            "held-out examples, so fine-tuning has nothing to improve; plan='lp_ft' trains blocks all the same"
        )
        return NamedPlan("linear_probe")
    return NamedPlan("lp_ft")


def _note_pairs(draft: Draft) -> None:
    stats = draft.stats
    if stats.texts and stats.smallest is not None and 2 <= stats.smallest <= PAIRED:
        draft.reasons["alternative"] = (
            f"for {stats.smallest} examples in the smallest class, texts can also be tuned on pairs (plan='setfit'): "
            "often better where the encoder fits badly, and many times slower; compare the two on examples held out"
        )


def _note_imbalance(draft: Draft) -> None:
    stats, config = draft.stats, draft.config
    if not stats.smallest or not stats.largest or config.class_weight or config.sampling:
        return
    if stats.largest >= _UNEQUAL * stats.smallest:
        draft.reasons["class_weight"] = (
            f"none was asked for; the largest class has {stats.largest:,} examples, the smallest {stats.smallest:,}: "
            "look at the recall of each class, and try class_weight='balanced'"
        )
