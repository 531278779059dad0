"""Named plans for fine-tuning: ``tfft.finetune(backbone, data, plan=tfft.plans.gradual(stages=4))``.

Each function returns a :class:`NamedPlan`, which becomes phases once the data and the backbone are known. Each accepts
any setting of :class:`tfft.Phase` about training blocks (``layer_decay=0.8``, ``optimizer="adamw"``,
``mixup_alpha=0.2``, ...) and applies it to all of its phases that train blocks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from tfft import registry
from tfft.config import Phase, RunConfig
from tfft.config.plan import PHASE_KEYWORDS
from tfft.errors import PlanError, did_you_mean, join_names, raise_problems
from tfft.plans.defaults import CONTRASTIVE, FINE_TUNE, FINE_TUNE_STEPS, FROZEN, HEAD, HEAD_STEPS, SCRATCH, Draft

_OPEN = ("unfreeze", "epochs", "head_epochs", "learning_rate")  # settings that do not apply to some plans
_ULMFIT = 2.6  # rate factor from one group of blocks to the one below it (Howard & Ruder 2018)
_FEW_PER_CLASS = 3  # below it, cross-validation of a linear head is impossible
_BIT_STEPS = ((20_000, 500), (500_000, 10_000), (None, 20_000))  # by number of examples
_BIT_RATE, _BIT_BATCH = 0.003, 512
_SETFIT_RATE = 2e-5


@dataclasses.dataclass(frozen=True)
class NamedPlan:
    """Plan with open numbers: pass it to :func:`tfft.finetune` as ``plan``.

    Attributes:
        name: ``"lp_ft"``, ``"gradual"``, ...
        settings: Settings of the phases, and of the plan itself.
    """

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self, config: RunConfig) -> None:
        """Find settings that do not apply to the plan, before loading anything.

        Raises:
            PlanError: For settings that do not apply to the plan, or that no phase has; all are listed.
        """
        _, takes, special = _BUILDERS[self.name]
        problems = [
            f"{name}= does not apply to the plan {self.name!r}"
            + (f", which takes {join_names(takes)}" if takes else "")
            for name in _OPEN
            if name not in takes and getattr(config, name) != "auto"
        ]
        problems += [
            f"{name!r} is not a setting of a phase.{did_you_mean(name, [*PHASE_KEYWORDS, *special])}"
            for name in self.settings
            if name not in PHASE_KEYWORDS and name not in special
        ]
        task = registry.asked_task(config.task)
        task = None if task is None else task.with_architecture(config.architecture)
        if self.name == "linear_probe" and task is not None and not task.trains_head:
            problems.append(
                f"it trains the head alone, and that of the task {task.name} has no weights of its own here; take "
                "'lp_ft', 'full' or 'gradual', or leave plan= out"
            )
        if self.name in _COMPUTED and task is not None and not task.solves_head:
            problems.append(
                f"it computes a head from one row of features for each example, which the task {task.name} does "
                "not have; take 'lp_ft', 'full' or 'gradual', or leave plan= out"
            )
        raise_problems(PlanError, f"The plan {self.name!r} cannot be made", problems)

    def phases(self, draft: Draft) -> tuple[Phase, ...]:
        """Return the phases for some data and settings, and record the reasons in the draft.

        Raises:
            PlanError: As :meth:`check`.
        """
        self.check(draft.asked)
        builder, takes, special = _BUILDERS[self.name]
        own = {name: value for name, value in self.settings.items() if name in special}
        shared = {name: value for name, value in self.settings.items() if name not in special}
        made = builder(draft, **own)
        draft.forget_defaults([name for name in _OPEN if name not in takes], made)
        return tuple(dataclasses.replace(p, **shared) if p.unfreeze != "none" else p for p in made)


_COMPUTED = ("few_shot", "setfit")  # plans without a phase that trains a head


def named(name: str, **settings: Any) -> NamedPlan:
    """Return a plan by name.

    Args:
        name: One of :data:`PLAN_NAMES`.
        **settings: Arguments of its function.

    Raises:
        PlanError: For another name, with the nearest one.

    Example:
        >>> tfft.finetune(backbone, "photos/", plan=named("gradual", stages=4))
    """
    if name not in _BUILDERS:
        raise PlanError(f"Unknown plan {name!r}.{did_you_mean(name, PLAN_NAMES)} Plans: {join_names(PLAN_NAMES)}.")
    return NamedPlan(name, settings)


def linear_probe() -> NamedPlan:
    """Freeze the backbone and compute the best linear head.

    Use it as a baseline, and for the fastest training.
    """
    return NamedPlan("linear_probe")


def lp_ft(**phase: Any) -> NamedPlan:
    """Compute the best linear head, then fine-tune the last blocks from there. This is the default.

    Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", 2022. They train
    all blocks; here the number of blocks follows from the number of examples (or from ``unfreeze``).

    Args:
        **phase: Settings of the second phase, see :class:`tfft.Phase`.

    Example:
        >>> tfft.finetune(backbone, data, plan=lp_ft(layer_decay=0.8, l2_sp=0.01))
    """
    return NamedPlan("lp_ft", phase)


def measured(**phase: Any) -> NamedPlan:
    """Choose between the linear probe and fine-tuning of few, more or all blocks by a short trial on training examples.

    Successive halving (Jamieson & Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
    2016) with equal seconds for each candidate, see :mod:`tfft.recipes.trial`. The trial may take a quarter of
    ``minutes``, or of the expected time of ``lp_ft``; where that is too short for it, the plan is ``lp_ft``.

    Args:
        **phase: Settings of the second phase, see :class:`tfft.Phase`.
    """
    return NamedPlan("measured", phase)


def gradual(*, stages: int | None = None, **phase: Any) -> NamedPlan:
    """Compute the best linear head, then train one more group of blocks in each phase, from the top down.

    Gradual unfreezing with discriminative rates: Howard & Ruder, "Universal language model fine-tuning for text
    classification", 2018: the rate of each group is 2.6 times lower than that of the one above it, and rates are
    slanted triangles. They unfreeze one layer per epoch; here the epochs of the fine-tuning are divided among the
    stages.

    Args:
        stages: Number of phases after the head. Defaults to 3, or to the number of blocks if that is smaller.
        **phase: Settings of these phases.
    """
    return NamedPlan("gradual", phase if stages is None else {"stages": stages, **phase})


def full(**phase: Any) -> NamedPlan:
    """Train everything at once from a new head, as most scripts do.

    Use it as a baseline, or for large data that is unlike the pretraining data.

    Args:
        **phase: Settings of the phase.
    """
    return NamedPlan("full", phase)


def from_scratch(**phase: Any) -> NamedPlan:
    """Train everything from random weights; the default for backbones without pretrained weights.

    AdamW (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019) at 1e-3 for a batch of 32, with a warmup
    and a cosine, gradients clipped to a norm of 1, for about 3,000 steps within 5 to 60 epochs.

    Args:
        **phase: Settings of the phase.
    """
    return NamedPlan("from_scratch", phase)


def bit(*, steps: int | None = None, **phase: Any) -> NamedPlan:
    """Train everything by the BiT-HyperRule: SGD, steps and MixUp by the number of examples.

    Kolesnikov et al., "Big Transfer (BiT)", 2020: 500 steps below 20,000 examples, 10,000 below 500,000, else 20,000;
    MixUp of 0.1 from 20,000 on; a tenth of the rate at 2/5, 3/5 and 4/5 of the steps (0.3, 0.6 and 0.9 in their longer
    schedules); rate 0.003 for a batch of 512, in proportion for others. Differences: the resolution is that of the plan
    (theirs is 128 or 480 pixels, which is too slow without an accelerator), and the steps are whole epochs.

    Args:
        steps: Number of steps. Defaults to the rule's.
        **phase: Settings of the phase.
    """
    return NamedPlan("bit", {"steps": steps, **phase})


def fastai(**phase: Any) -> NamedPlan:
    """Train as fastai's ``fine_tune``: one epoch of the head, then one cycle over everything.

    Howard & Gugger, "fastai: a layered API for deep learning", 2020, and ``callback/schedule.py`` of fastai: the head
    at 2e-3, then all blocks at 1e-3, falling geometrically to a hundredth of it for the lowest block. Differences:
    every block has its own rate, not every third of them; cycles start at 1/25 of their peak and rise for a quarter of
    the steps, as in its ``fit_one_cycle`` but not in its ``fine_tune``; Adam has no weight decay by default.

    Args:
        **phase: Settings of the second phase.
    """
    return NamedPlan("fastai", phase)


def few_shot() -> NamedPlan:
    """Compute a head and train nothing: for fewer than about ten examples per class.

    With at least 3 examples per class, it computes the best linear head; below that, the nearest class mean (Snell et
    al., "Prototypical networks for few-shot learning", 2017). A random head has too few examples to train.
    """
    return NamedPlan("few_shot")


def setfit(*, shown: int | None = None, **phase: Any) -> NamedPlan:
    """Compute the head, tune the features on pairs of examples, and compute the head on the tuned features.

    For 2 to 64 examples per class, of texts above all: the contrastive tuning of SetFit (Tunstall et al., "Efficient
    few-shot learning without prompts", 2022). Few examples give many pairs; the target cosine of the features of two
    examples is 1 within a class and 0 between classes. As there, AdamW at 2e-5 with a tenth of the steps for the
    warmup, in steps of 32 examples. Differences: their batches have 16 pairs, ours all pairs of 32 different examples,
    so fewer steps suffice; an epoch has at most about 200.

    The first phase is the linear probe, for comparison. If the tuned model is worse on the validation examples, the
    history says so, and the tuned model is kept: so few held-out examples cannot decide.

    Args:
        shown: Repeats of each example per epoch. Defaults to a number that follows from the number of examples, at most
            40.
        **phase: Settings of the phase with the pairs, see :class:`tfft.Phase`.

    Example:
        >>> tfft.finetune("minilm", "reviews.csv", plan=setfit(), text="review", label="stars")
    """
    return NamedPlan("setfit", {"shown": shown, **phase})


def surgical(*, blocks: int = 2, **phase: Any) -> NamedPlan:
    """Compute the head, then train the few blocks with the largest gradients relative to their weights.

    Lee et al., "Surgical fine-tuning improves adaptation to distribution shifts", 2023 (their Auto-RGN criterion).
    Differences: blocks are chosen once and all get the same rate; theirs get a proportional rate, every epoch.

    Args:
        blocks: Number of blocks to train.
        **phase: Settings of the second phase.
    """
    return NamedPlan("surgical", {"blocks": blocks, **phase})


def _linear_probe(draft: Draft) -> list[Phase]:
    return [draft.head()]


def _lp_ft(draft: Draft) -> list[Phase]:
    unfreeze, epochs, rate = draft.unfreeze(), draft.epochs(), draft.rates()[1]
    phases = draft.heads()
    if epochs and unfreeze not in (0, "none"):
        phases.append(Phase(FINE_TUNE, unfreeze, epochs, rate, **draft.how()))
    return phases


def _gradual(draft: Draft, stages: int | None = None) -> list[Phase]:
    if draft.asked.unfreeze == "auto" and draft.config.unfreeze == "none":
        draft.config = dataclasses.replace(draft.config, unfreeze="auto")  # the task would train no block
    most = draft.unfreeze()
    count = draft.stats.blocks if most == "all" else most
    if not isinstance(count, int) or isinstance(count, bool):
        raise PlanError(f"plan='gradual' counts blocks, so unfreeze must be an integer, received {most!r}.")
    stages = min(3, max(1, count)) if stages is None else stages
    if not isinstance(stages, int) or not 1 <= stages <= max(1, count):
        raise PlanError(f"plan='gradual' takes 1 to {max(1, count)} stages for {count} blocks, received {stages!r}.")
    epochs, rate = draft.epochs(), draft.rates()[1]
    each = max(1, round(epochs / stages))
    draft.reasons["stages"] = f"{stages} groups of the last {count} blocks, {each} epochs after each"
    decay = round(_ULMFIT ** (-stages / count), 4)
    return draft.heads() + [
        Phase(
            f"last {math.ceil(count * stage / stages)}", math.ceil(count * stage / stages), each, rate,
            **draft.how() | {"schedule": "slanted", "layer_decay": decay},
        )
        for stage in range(1, stages + 1)
    ]  # fmt: skip


def _full(draft: Draft) -> list[Phase]:
    draft.no_l2()
    draft.train_at_once()
    epochs, rate = draft.epochs(steps=HEAD_STEPS + FINE_TUNE_STEPS), draft.rates(new_head=True)[1]
    return [Phase(FINE_TUNE, "all", epochs, rate, **draft.how())]


def _from_scratch(draft: Draft) -> list[Phase]:
    draft.no_l2()
    draft.reasons["unfreeze"] = "all blocks: their weights are random"
    epochs, rate = draft.scratch_epochs(), draft.scratch_rate()
    return [Phase(SCRATCH, "all", epochs, rate, optimizer="adamw", weight_decay=0.01, global_clipnorm=1.0)]


def _bit(draft: Draft, steps: int | None = None) -> list[Phase]:
    draft.no_l2()
    examples = draft.stats.examples
    if steps is None:
        steps = next(count for limit, count in _BIT_STEPS if limit is None or examples < limit)
    size = 32 if draft.config.batch_size == "auto" else draft.config.batch_size
    epochs = math.ceil(steps / draft.steps) if draft.asked.epochs == "auto" else int(draft.asked.epochs)
    rate = _BIT_RATE * size / _BIT_BATCH if draft.config.learning_rate == "auto" else draft.rates()[1]
    draft.reasons["epochs"] = f"{steps:,} steps for {examples:,} examples; an epoch has {draft.steps}"
    draft.reasons["learning_rate"] = f"0.003 for a batch of 512, so {rate:.2g} for {size}"
    mixup = 0.1 if examples >= _BIT_STEPS[0][0] else 0.0
    warmup = 0.2 if steps <= 500 else 500 / steps
    return [
        Phase(
            FINE_TUNE, "all", max(1, epochs), rate, optimizer="sgd", schedule="steps", warmup=warmup, mixup_alpha=mixup,
        )
    ]  # fmt: skip


def _fastai(draft: Draft) -> list[Phase]:
    base = 2e-3 if draft.config.learning_rate == "auto" else draft.rates()[1]
    draft.no_l2()
    draft.train_at_once()
    decay = round(100 ** (-1 / max(1, draft.stats.blocks)), 4)
    head = [Phase(FROZEN, "none", 1, base, schedule="one_cycle")] if draft.task.trains_head else []
    return [*head, Phase(FINE_TUNE, "all", draft.epochs(), base / 2, schedule="one_cycle", layer_decay=decay)]


def _few_shot(draft: Draft) -> list[Phase]:
    smallest = draft.stats.smallest
    if smallest is not None and smallest < _FEW_PER_CLASS:
        draft.reasons["head"] = f"the mean of each class: {smallest} examples of the smallest are too few to fit more"
        return [Phase(FROZEN, "none", 0, 0.0, head="nearest_mean")]
    return [draft.head()]


def _setfit(draft: Draft, shown: int | None = None) -> list[Phase]:
    config = draft.config
    if isinstance(config.learning_rate, (tuple, list)):
        raise PlanError(
            f"The plan 'setfit' has one phase, so learning_rate must be a number, received {config.learning_rate!r}."
        )
    if config.unfreeze in (0, "none"):
        raise PlanError("The plan 'setfit' tunes features, so blocks have to train. Received: unfreeze='none'.")
    if config.unfreeze == "auto":
        draft.reasons["unfreeze"] = "all blocks: even few examples give many pairs, and the rate is low"
    if config.epochs == "auto":
        draft.reasons["epochs"] = "one pass over the pairs, each example being in many of them"
    if config.learning_rate == "auto":
        draft.reasons["learning_rate"] = "low, because all blocks train on few examples"
    unfreeze = "all" if config.unfreeze == "auto" else config.unfreeze
    epochs = 1 if config.epochs == "auto" else max(1, int(config.epochs))
    rate = _SETFIT_RATE if config.learning_rate == "auto" else float(config.learning_rate)
    [probe] = _few_shot(draft)
    tune = Phase(
        CONTRASTIVE, unfreeze, epochs, rate, contrastive_repeats=draft.shown(shown), schedule="linear",
        optimizer="adamw",
        weight_decay=0.01, global_clipnorm=1.0,
    )  # fmt: skip
    return [probe, tune, dataclasses.replace(probe, name=HEAD)]


def _surgical(draft: Draft, blocks: int = 2) -> list[Phase]:
    epochs, rate = draft.epochs(), draft.rates()[1]
    draft.reasons["surgical"] = f"the {blocks} blocks with the largest gradients relative to their weights"
    return [*draft.heads(), Phase(FINE_TUNE, "all", max(1, epochs), rate, num_surgical_blocks=blocks, **draft.how())]


_Builder = Callable[..., list[Phase]]
_BUILDERS: Mapping[str, tuple[_Builder, tuple[str, ...], tuple[str, ...]]] = {
    "linear_probe": (_linear_probe, (), ()),
    "lp_ft": (_lp_ft, _OPEN, ()),
    "measured": (_lp_ft, ("epochs", "learning_rate"), ()),
    "gradual": (_gradual, _OPEN, ("stages",)),
    "full": (_full, ("epochs", "learning_rate"), ()),
    "from_scratch": (_from_scratch, ("epochs", "learning_rate"), ()),
    "bit": (_bit, ("epochs", "learning_rate"), ("steps",)),
    "fastai": (_fastai, ("epochs", "learning_rate"), ()),
    "few_shot": (_few_shot, (), ()),
    "setfit": (_setfit, ("unfreeze", "epochs", "learning_rate"), ("shown",)),
    "surgical": (_surgical, ("epochs", "head_epochs", "learning_rate"), ("blocks",)),
}
PLAN_NAMES = tuple(_BUILDERS)
