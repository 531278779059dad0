"""Default settings of a plan: :class:`Draft` derives each from the data statistics, and records the reason.

The numbers are rules of thumb, not the result of a search.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from tfft import registry
from tfft.config import Phase, RunConfig
from tfft.plans.stats import DatasetStats

FROZEN, FINE_TUNE, CONTRASTIVE, HEAD, SCRATCH = "frozen", "fine-tune", "contrastive", "head", "train"

HEAD_STEPS, FINE_TUNE_STEPS = 240, 280  # target steps of each phase, within _MOST_EPOCHS
_LEAST_EPOCHS, _MOST_EPOCHS = 2, 10
_SCRATCH_STEPS, _SCRATCH_RATE = 3_000, 1e-3  # of random weights, at a batch of 32
_LEAST_SCRATCH_EPOCHS, _MOST_SCRATCH_EPOCHS = 5, 60
_FROZEN_RATE, _FINE_TUNE_RATE, _FAR_RATE = 5e-3, 3e-4, 1e-3  # at a batch of 32
_TEXT_RATE = 5e-5  # of transformers (Devlin et al. 2019 tried 2e-5 to 5e-5)
_TRANSFORMER = {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "linear", "global_clipnorm": 1.0}
_LEAST_VIEWS, _MOST_VIEWS = 4, 8
_TINY_SIDE, _TINY_SIZE = 32, 64  # pixels
_SMALL_SIDE, _SMALL_SIZE = 64, 128
_FEW = 1_000  # examples, below which a random head and a high rate may ruin the blocks
_SHOWN, _COMPARED, _PAIR_STEPS = 40, 32, 200  # times an example is shown on pairs, examples of a batch, most steps
PAIRED = 64  # examples of each class at most, which are compared in pairs
_FITS = 0.78  # below it, blocks train at the higher rate of small images; docs/plans.md has the evidence
_FITS_AT_MOST = 0.85  # if its interval ends below this too, all blocks train
_MANY = 50_000  # examples; below, the last half of the blocks trains
_TRAINED_HEAD = ((500, 6), (5_000, 3))  # behind heads that are not solved: one block in so many below so many examples


@dataclasses.dataclass(eq=False)
class Draft:
    """Plan under construction.

    Attributes:
        stats: Statistics of the examples and the backbone.
        config: Settings of the user, with the defaults of the task.
        reasons: Reasons for the chosen values, by setting.
        asked: Settings of the user alone.
    """

    stats: DatasetStats
    config: RunConfig
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    asked: RunConfig = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.asked = self.config

    @property
    def task(self) -> registry.Task:
        """Task of the labels, for the architecture of the head; classification if unknown."""
        task = registry.asked_task(self.config.task) or registry.task("classification")
        return task.with_architecture(self.config.architecture)

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        size = 32 if self.config.batch_size == "auto" else self.config.batch_size
        return math.ceil(self.stats.examples / size)

    @property
    def is_small(self) -> bool:
        """Whether the images are much smaller than those that backbones are trained on."""
        side = self.stats.image_side
        return side is not None and side <= _SMALL_SIDE

    @property
    def is_far(self) -> bool:
        """Whether a linear head on the pretrained features has a low score: the data differs from the pretraining
        data."""
        return self.stats.fit is not None and self.stats.fit < _FITS

    @property
    def is_surely_far(self) -> bool:
        """Whether even the upper end of its 95 % interval is low; the interval of few examples is wide."""
        return self.stats.fit_high is not None and self.stats.fit_high < _FITS

    def image_size(self) -> tuple[int, int] | None:
        """Height and width in pixels; None for a backbone that takes no images."""
        stats, wish = self.stats, self.config.image_size
        if stats.image_size is None:
            return None
        if wish != "auto":
            return (wish, wish) if isinstance(wish, int) else (int(wish[0]), int(wish[1]))
        shape = stats.image_shape
        preferred = None if shape is None else self.task.preferred_image_size(shape)
        if shape is not None and preferred is not None and (stats.flexible or preferred == stats.image_size):
            self.reasons["image_size"] = (
                f"the shape of the images (median {shape[0]:g} x {shape[1]:g}), with about "
                f"{self.task.image_pixels:,} pixels: a larger image_size shows smaller objects and takes longer"
            )
            return preferred
        if not stats.flexible:
            self.reasons["image_size"] = "the only size this backbone takes"
            return stats.image_size
        usual = "x".join(map(str, stats.image_size))
        for limit, chosen in ((_TINY_SIDE, _TINY_SIZE), (_SMALL_SIDE, _SMALL_SIZE)):
            if stats.image_side is not None and stats.image_side <= limit and chosen < min(stats.image_size):
                times = round(stats.image_size[0] * stats.image_size[1] / chosen**2)
                self.reasons["image_size"] = (
                    f"the images are small (median side {stats.image_side:g} px): {usual} would cost {times} times "
                    "as much and show no more"
                )
                return chosen, chosen
        self.reasons["image_size"] = "what the backbone was trained at"
        return stats.image_size

    def unfreeze(self) -> int | float | str | list[str]:
        """Blocks to train: fewer for fewer examples."""
        stats, wish = self.stats, self.config.unfreeze
        if wish != "auto":
            return wish if isinstance(wish, (int, float, str)) else list(wish)
        if not stats.blocks:
            self.reasons["unfreeze"] = "nothing in the backbone can train, so the head alone does"
            return 0
        if self.is_far and (stats.fit_high is None or stats.fit_high < _FITS_AT_MOST):
            self.reasons["unfreeze"] = (
                f"all {stats.blocks} blocks: a linear head on the pretrained features closes only {stats.fit:.0%} of "
                "the gap between the majority class and a perfect score, so the data is unlike that of the backbone"
            )
            return "all"
        if stats.examples < _MANY:
            shares = () if self.task.solves_head else _TRAINED_HEAD
            count = math.ceil(stats.blocks / next((parts for limit, parts in shares if stats.examples < limit), 2))
            self.reasons["unfreeze"] = (
                f"the last {count} of {stats.blocks} blocks: {stats.examples:,} examples are too few to train more "
                "without forgetting"
            )
            return count
        self.reasons["unfreeze"] = f"{stats.examples:,} examples are enough to train all {stats.blocks} blocks"
        return "all"

    def epochs(self, name: str = "epochs", steps: int = FINE_TUNE_STEPS) -> int:
        """Epochs of a phase for a number of steps."""
        wish = getattr(self.config, name)
        if wish != "auto":
            return int(wish)
        epochs = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, math.ceil(steps / self.steps)))
        self.reasons[name] = f"{epochs * self.steps} steps; an epoch has {self.steps}, and about {steps} are enough"
        if epochs == _MOST_EPOCHS:
            self.reasons[name] = (
                f"{epochs * self.steps} steps; an epoch has only {self.steps}, and more epochs would overfit"
            )
        return epochs

    def train_at_once(self) -> None:
        """Give the blocks the epochs of the head: the task's own default of theirs follows a phase of the head."""
        if self.asked.epochs != "auto" or self.config.head_epochs == "auto":
            return
        self.config = dataclasses.replace(self.config, epochs=self.config.head_epochs)
        self.reasons["epochs"] = f"{self.config.epochs}, as for the head alone in other plans: it is random here too"

    def forget_defaults(self, names: Sequence[str], phases: Sequence[Phase]) -> None:
        """Remove the reasons for defaults of the task that a plan does not follow.

        Args:
            names: Settings that do not apply to the plan.
            phases: Phases of the plan, which may follow a default all the same.
        """
        followed = {
            "unfreeze": all(phase.unfreeze == "none" for phase in phases),
            "head_epochs": any(p.unfreeze == "none" and p.epochs == self.config.head_epochs for p in phases),
        }
        for name, default in self.task.phase_defaults().items():
            if name in names and not followed.get(name) and self.reasons.get(name) == default.reason:
                del self.reasons[name]

    def rates(self, *, new_head: bool = False) -> tuple[float, float]:
        """Return the learning rates of a trained head and of fine-tuned blocks.

        Args:
            new_head: Whether the blocks train together with a random head. On few examples, the higher rate of small
                images then ruins them.
        """
        rate = self.config.learning_rate
        size = 32 if self.config.batch_size == "auto" else self.config.batch_size
        scale = math.sqrt(size / 32)
        small = self.is_small and not (new_head and self.stats.examples < _FEW)
        peak = _TEXT_RATE if self.stats.texts else _FAR_RATE if small or self.is_far else _FINE_TUNE_RATE
        frozen, fine = float(f"{_FROZEN_RATE * scale:.2g}"), float(f"{peak * scale:.2g}")
        if isinstance(rate, (tuple, list)):
            return float(rate[0]), float(rate[1])
        if rate != "auto":
            return frozen, float(rate)
        self.reasons["learning_rate"] = "far lower, to adapt the pretrained blocks without forgetting"
        return frozen, fine

    def scratch_epochs(self) -> int:
        """Epochs of a training from random weights."""
        if self.asked.epochs != "auto":
            return int(self.asked.epochs)
        epochs = min(_MOST_SCRATCH_EPOCHS, max(_LEAST_SCRATCH_EPOCHS, math.ceil(_SCRATCH_STEPS / self.steps)))
        self.reasons["epochs"] = (
            f"{epochs * self.steps:,} steps; an epoch has {self.steps:,}, and random weights take about "
            f"{_SCRATCH_STEPS:,} steps"
        )
        return epochs

    def scratch_rate(self) -> float:
        """Peak learning rate of a training from random weights."""
        if self.asked.learning_rate != "auto":
            return self.rates()[1]
        size = 32 if self.config.batch_size == "auto" else self.config.batch_size
        self.reasons["learning_rate"] = "usual for random weights, with a warmup"
        return float(f"{_SCRATCH_RATE * math.sqrt(size / 32):.2g}")

    def how(self) -> dict[str, Any]:
        """Further settings of a fine-tuning phase: for texts, those usual for transformers."""
        return dict(_TRANSFORMER) if self.stats.texts else {}

    def head(self) -> Phase:
        """Phase of the head alone: solved, unless a setting requires training."""
        config = self.config
        pair = isinstance(config.learning_rate, (tuple, list))
        solves = self.task.solves_head
        if not solves:
            self.reasons["head"] = self.task.head_reason
        if config.head_epochs == "auto" and not pair and solves:
            self.reasons["head"] = "on a frozen backbone the best linear head can be computed, without gradient steps"
            if config.l2 == "auto":
                self.reasons["l2"] = "by cross-validation on the features of the frozen backbone"
            return Phase(FROZEN, "none", 0, 0.0, head="linear_probe")
        if not pair:
            self.reasons["frozen_learning_rate"] = f"the new head is random; Adam, batch {config.batch_size}"
        self.no_l2()
        return Phase(FROZEN, "none", self.epochs("head_epochs", HEAD_STEPS), self.rates()[0])

    def heads(self) -> list[Phase]:
        """Phases before the backbone: that of the head, if it has weights."""
        if self.task.trains_head:
            return [self.head()]
        self.no_l2()
        self.reasons["head"] = self.task.head_reason
        return []

    def shown(self, wish: int | None) -> int:
        """Repeat of each example per epoch of contrastive training: fewer for many examples."""
        stats = self.stats
        paired = min(stats.examples, PAIRED * stats.classes)
        size = min(paired, _COMPARED)
        found = max(1, min(_SHOWN, _PAIR_STEPS * size // paired)) if wish is None else wish
        self.reasons["shown"] = f"{math.ceil(paired * found / size)} steps of {size} examples, all compared in pairs"
        if stats.examples > paired:
            self.reasons["shown"] += (
                f"; at most {PAIRED} of each class are used, though there are {stats.examples:,}: with so many, "
                "'lp_ft' is most likely better"
            )
        return found

    def no_l2(self) -> None:
        """Record the reason for an open ``l2`` if no head is solved."""
        if self.config.l2 == "auto":
            self.reasons["l2"] = "0: chosen for a solved head only"

    def views(self, epochs: int) -> int:
        """Half as many views as epochs, 4 to 8: fewer passes of the frozen part, and each view is used about twice."""
        stats = self.stats
        if self.config.views != "auto":
            return int(self.config.views)
        if not stats.cached or not stats.pretrained:
            self.reasons["views"] = "a new one in every epoch: nothing is cached"
            return max(1, epochs)
        views = max(1, min(epochs, max(_LEAST_VIEWS, min(_MOST_VIEWS, math.ceil(epochs / 2)))))
        self.reasons["views"] = (
            f"frozen layers run {views} x {stats.examples:,} = {views * stats.examples:,} times, instead of "
            f"{epochs} epochs x {stats.examples:,} = {epochs * stats.examples:,}"
        )
        return views
