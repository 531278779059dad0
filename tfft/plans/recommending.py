"""What to do with the settings that were left to tfft: :func:`recommend`.

A pure function of a few facts, so that the same data gets the same plan and every choice has a reason
that can be read. The numbers are rules of thumb, not the result of a search.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.table import Table

from tfft.data.augmenting import augmentation
from tfft.errors import PlanError, raise_problems
from tfft.slicing.tables import render
from tfft.specs import Augmentation, Phase, Plan

FROZEN, FINE_TUNE = "frozen", "fine-tune"

_FROZEN_STEPS, _FINE_TUNE_STEPS = 240, 280  # each phase should get these, if that takes no more than _MOST epochs
_LEAST_EPOCHS, _MOST_EPOCHS = 2, 10
_FROZEN_RATE, _FINE_TUNE_RATE, _FAR_RATE = 5e-3, 3e-4, 1e-3  # at a batch of 32
_LEAST_VIEWS, _MOST_VIEWS = 4, 8
_FEW = 500  # examples, below which tiny images are treated as any other
_TINY_SIDE, _TINY_SIZE = 32, 64  # pixels
_SMALL_SIDE, _SMALL_SIZE = 64, 128
_SHARES = ((500, 6), (5_000, 3), (50_000, 2))  # below so many examples, one block in so many


@dataclasses.dataclass(frozen=True)
class Facts:
    """What a recommendation depends on.

    Attributes:
        examples: number of training examples.
        classes: number of classes.
        blocks: number of blocks of the backbone.
        image_size: what the backbone was made for, height and width; None where it takes no images.
        flexible: True when it accepts other sizes.
        image_side: median over the examples of the shorter side in pixels; None when not known.
        cached: whether what is frozen runs once for each view of a picture, not in every epoch.
    """

    examples: int
    classes: int
    blocks: int
    image_size: tuple[int, int] | None = None
    flexible: bool = False
    image_side: float | None = None
    cached: bool = True


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user asked for; ``"auto"`` leaves a setting open. See :func:`tfft.finetune`."""

    unfreeze: int | float | str | list[str] = "auto"
    epochs: int | Literal["auto"] = "auto"
    frozen_epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = 32
    learning_rate: float | tuple[float, float] | Literal["auto"] = "auto"
    seed: int = 0
    image_size: int | tuple[int, int] | Literal["auto"] = "auto"
    validation: float = 0.2
    dropout: float = 0.2
    l2: float | Literal["auto"] = "auto"
    label_smoothing: float = 0.0
    batch_norm: str = "fixed"
    input_range: tuple[float, float] | None = None
    output: str | None = None
    resize: Literal["crop", "stretch", "pad"] | None = None
    augment: Augmentation | str | Sequence[str] | None = None
    views: int | Literal["auto"] = "auto"
    trust: bool = False
    strict: bool = False
    part_size: int | None = None

    def check(self) -> None:
        """Raises one :class:`PlanError` with everything that is out of range."""
        raise_problems(PlanError, "These settings cannot be used", _problems(self))


def recommend(facts: Facts, wishes: Wishes | None = None, *, backbone: str = "", data: str = "") -> Plan:
    """Fills every setting that was left open, each with its reason.

    Use it to see what :func:`tfft.finetune` would do, or to change a plan before running it.

    The head is solved, unless ``frozen_epochs`` or a pair of rates says how to train it. Epochs follow from
    steps: fine-tuning gets at least 280, a trained head 240, in 2 to 10 epochs. The
    fewer the examples, the fewer last blocks train: a sixth of them below 500, a third below 5,000,
    half below 50,000, else all. Tiny images look like nothing the backbone was trained on; with 500 of
    them and more, at least half of the blocks train, at a higher rate. Rates are for Adam and grow with
    the square root of the batch size.

    Args:
        facts: about data and backbone.
        wishes: what is not to be chosen; None leaves everything open.
        backbone: handle, written into the plan.
        data: folder, written into the plan.

    Returns:
        A plan of one phase (frozen backbone) or two; ``reasons`` has one sentence per open setting.

    Raises:
        PlanError: when settings are out of range, all of them listed.

    Example:
        >>> plan = recommend(Facts(examples=1437, classes=10, blocks=18))
        >>> plan.phases[1].unfreeze, plan.phases[1].epochs
        (6, 7)
    """
    wishes = wishes or Wishes()
    wishes.check()
    reasons: dict[str, str] = {}
    size = _image_size(facts, wishes, reasons)
    unfreeze = _unfreeze(facts, wishes, reasons)
    epochs = _epochs("epochs", wishes.epochs, _FINE_TUNE_STEPS, facts, wishes, reasons)
    rates = _rates(facts, wishes, reasons)
    phases = [_first(facts, wishes, rates[0], reasons)]
    if epochs and unfreeze not in (0, "none"):
        phases.append(Phase(FINE_TUNE, unfreeze, epochs, rates[1]))
    changed = {"image_size", "input_range", "augment", "views"}  # their form changes below
    changes = augmentation(wishes.augment)
    return Plan(
        backbone=backbone,
        data=data,
        image_size=size or (0, 0),
        input_range=None
        if wishes.input_range is None
        else (float(wishes.input_range[0]), float(wishes.input_range[1])),
        augment=changes,
        views=_views(facts, wishes, phases[-1], reasons) if changes else 1,
        phases=tuple(phases),
        reasons=reasons,
        **{name: getattr(wishes, name) for name in _shared_names() - changed},
    )


def show(plan: Plan) -> str:
    """Returns a plan as a table: setting, value, and why where tfft chose it."""
    table = Table(title=f"plan for {plan.backbone}", title_justify="left")
    table.add_column("setting", no_wrap=True)
    table.add_column("value")
    table.add_column("why")
    rows: dict[str, Any] = {}
    if any(plan.image_size):
        rows["image_size"] = "x".join(map(str, plan.image_size))
    for phase in plan.phases:
        prefix = "frozen_" if phase.name == FROZEN else "" if phase.name == FINE_TUNE else f"{phase.name} "
        if phase.name != FROZEN:
            rows[f"{prefix}unfreeze"] = phase.unfreeze
        if phase.solve:
            rows["head"] = "solved"
            continue
        rows[f"{prefix}epochs"] = phase.epochs
        rows[f"{prefix}learning_rate"] = f"{phase.learning_rate:g}"
    if plan.augment is not None:
        rows["augment"] = ", ".join(f"{name} {value}" for name, value in plan.augment.to_dict().items())
        rows["views"] = plan.views
    for name in ("batch_size", "dropout", "l2", "label_smoothing", "batch_norm", "seed"):
        rows[name] = getattr(plan, name)
    for name, value in rows.items():
        table.add_row(name, str(value), plan.reasons.get(name, ""))
    return render(table)


def _image_size(facts: Facts, wishes: Wishes, reasons: dict[str, str]) -> tuple[int, int] | None:
    if facts.image_size is None:
        return None
    if wishes.image_size != "auto":
        size = wishes.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    usual = "x".join(map(str, facts.image_size))
    side = facts.image_side
    if not facts.flexible:
        reasons["image_size"] = "the only size this backbone takes"
        return facts.image_size
    for limit, chosen in ((_TINY_SIDE, _TINY_SIZE), (_SMALL_SIDE, _SMALL_SIZE)):
        if side is not None and side <= limit and chosen < min(facts.image_size):
            reasons["image_size"] = (
                f"the images are small (median side {side:g} px): {usual} would cost "
                f"{_times(facts.image_size, chosen)} times as much and show no more"
            )
            return chosen, chosen
    reasons["image_size"] = "what the backbone was trained at"
    return facts.image_size


def _times(size: tuple[int, int], chosen: int) -> int:
    return round(size[0] * size[1] / chosen**2)


def _unfreeze(facts: Facts, wishes: Wishes, reasons: dict[str, str]) -> int | float | str | list[str]:
    if wishes.unfreeze != "auto":
        return wishes.unfreeze if isinstance(wishes.unfreeze, (int, float, str)) else list(wishes.unfreeze)
    if _far(facts) and facts.examples < _SHARES[-1][0]:
        count = math.ceil(facts.blocks / 2)
        reasons["unfreeze"] = (
            f"the last {count} of {facts.blocks} blocks: such small images look like nothing the backbone was "
            "trained on"
        )
        return count
    for limit, parts in _SHARES:
        if facts.examples < limit:
            count = math.ceil(facts.blocks / parts)
            reasons["unfreeze"] = (
                f"the last {count} of {facts.blocks} blocks: {facts.examples:,} examples are too few to train more "
                "without forgetting"
            )
            return count
    reasons["unfreeze"] = f"{facts.examples:,} examples are enough to train all {facts.blocks} blocks"
    return "all"


def _far(facts: Facts) -> bool:
    """Tells whether the images are so small that the pretrained features fit them badly, and are enough to say so."""
    return facts.image_side is not None and facts.image_side <= _TINY_SIDE and facts.examples >= _FEW


def _first(facts: Facts, wishes: Wishes, rate: float, reasons: dict[str, str]) -> Phase:
    """The head: solved, unless something was said that only training has a use for."""
    pair = isinstance(wishes.learning_rate, (tuple, list))
    if wishes.frozen_epochs == "auto" and not pair:
        reasons["head"] = "on a frozen backbone the best linear head can be computed, without steps and rates"
        if wishes.l2 == "auto":
            reasons["l2"] = "by cross-validation on the features of the frozen backbone"
        return Phase(FROZEN, "none", 0, 0.0, solve=True)
    if not pair:
        reasons["frozen_learning_rate"] = f"the new head starts from nothing; Adam, batch {wishes.batch_size}"
    if wishes.l2 == "auto":
        reasons["l2"] = "0: only for a solved head it is chosen"
    epochs = _epochs("frozen_epochs", wishes.frozen_epochs, _FROZEN_STEPS, facts, wishes, reasons)
    return Phase(FROZEN, "none", epochs, rate)


def _views(facts: Facts, wishes: Wishes, last: Phase, reasons: dict[str, str]) -> int:
    """Half as many views as epochs, 4 to 8: the frozen part runs so much less, and each view is seen about twice."""
    if wishes.views != "auto":
        return int(wishes.views)
    if not facts.cached:
        reasons["views"] = "a new one in every epoch: nothing is cached"
        return max(1, last.epochs)
    views = max(1, min(last.epochs, max(_LEAST_VIEWS, min(_MOST_VIEWS, math.ceil(last.epochs / 2)))))
    reasons["views"] = (
        f"what is frozen runs {views} x {facts.examples:,} = {views * facts.examples:,} times, in place of "
        f"{last.epochs} epochs x {facts.examples:,} = {last.epochs * facts.examples:,}"
    )
    return views


def _epochs(name: str, wish: int | str, steps: int, facts: Facts, wishes: Wishes, reasons: dict[str, str]) -> int:
    if wish != "auto":
        return int(wish)
    per_epoch = math.ceil(facts.examples / wishes.batch_size)
    epochs = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, math.ceil(steps / per_epoch)))
    reasons[name] = f"{epochs * per_epoch} steps; an epoch has {per_epoch}, and about {steps} are enough"
    if epochs == _MOST_EPOCHS:
        reasons[name] = (
            f"{epochs * per_epoch} steps; an epoch has only {per_epoch}, and more epochs would learn by heart"
        )
    return epochs


def _rates(facts: Facts, wishes: Wishes, reasons: dict[str, str]) -> tuple[float, float]:
    scale = math.sqrt(wishes.batch_size / 32)
    peak = _FAR_RATE if _far(facts) else _FINE_TUNE_RATE
    frozen, fine = float(f"{_FROZEN_RATE * scale:.2g}"), float(f"{peak * scale:.2g}")
    rate = wishes.learning_rate
    if isinstance(rate, (tuple, list)):
        return float(rate[0]), float(rate[1])
    if rate != "auto":
        return frozen, float(rate)
    reasons["learning_rate"] = "far lower, so as to change the pretrained blocks and not to erase them"
    return frozen, fine


def _problems(wishes: Wishes) -> list[str]:
    problems = []
    if not (wishes.epochs == "auto" or _whole(wishes.epochs, 0)):
        problems.append(f"epochs must be 'auto' or a whole number of at least 0, got {wishes.epochs!r}")
    if not (wishes.frozen_epochs == "auto" or _whole(wishes.frozen_epochs, 1)):
        problems.append(f"frozen_epochs must be 'auto' or a whole number of at least 1, got {wishes.frozen_epochs!r}")
    if not (wishes.batch_size == "auto" or _whole(wishes.batch_size, 1)):
        problems.append(f"batch_size must be 'auto' or a whole number of at least 1, got {wishes.batch_size!r}")
    if not (wishes.part_size is None or _whole(wishes.part_size, 1)):
        problems.append(f"part_size must be None or a whole number of at least 1, got {wishes.part_size!r}")
    if not _whole(wishes.seed, 0):
        problems.append(f"seed must be a whole number of at least 0, got {wishes.seed!r}")
    rate = wishes.learning_rate
    given = list(rate) if isinstance(rate, (tuple, list)) else [] if rate == "auto" else [rate]
    if not all(_number(r) and 0 < r < math.inf for r in given) or (isinstance(rate, (tuple, list)) and len(given) != 2):
        problems.append(f"learning_rate must be 'auto', a number over 0, or a pair (frozen, fine-tune), got {rate!r}")
    if not (_number(wishes.validation) and 0 < wishes.validation < 1):
        problems.append(f"validation is a share over 0 and below 1, got {wishes.validation!r}")
    for name in ("dropout", "label_smoothing"):
        value = getattr(wishes, name)
        if not (_number(value) and 0 <= value < 1):
            problems.append(f"{name} must be 0 or more and below 1, got {value!r}")
    if not (wishes.l2 == "auto" or (_number(wishes.l2) and 0 <= wishes.l2 < math.inf)):
        problems.append(f"l2 must be 'auto' or 0 or more, got {wishes.l2!r}")
    if wishes.batch_norm not in ("fixed", "train"):
        problems.append(f"batch_norm must be 'fixed' or 'train', got {wishes.batch_norm!r}")
    if not (wishes.views == "auto" or _whole(wishes.views, 1)):
        problems.append(f"views must be 'auto' or a whole number of at least 1, got {wishes.views!r}")
    try:
        augmentation(wishes.augment)
    except PlanError as error:
        problems.append(str(error))
    if wishes.resize not in (None, "crop", "stretch", "pad"):
        problems.append(f"resize must be 'crop', 'stretch' or 'pad', got {wishes.resize!r}")
    return problems + _size_problems(wishes)


def _size_problems(wishes: Wishes) -> list[str]:
    problems = []
    size, span = wishes.image_size, wishes.input_range
    pair = isinstance(size, (tuple, list)) and len(size) == 2 and all(_whole(n, 1) for n in size)
    if not (size == "auto" or _whole(size, 1) or pair):
        problems.append(f"image_size must be 'auto', a number of pixels or (height, width), got {size!r}")
    if span is not None:
        fits = isinstance(span, (tuple, list)) and len(span) == 2 and all(_number(v) for v in span)
        if not fits or not span[0] < span[1]:
            problems.append(f"input_range must be (low, high) with low < high, such as (-1, 1), got {span!r}")
    chosen = wishes.unfreeze
    listed_names = isinstance(chosen, (list, tuple)) and all(isinstance(name, str) for name in chosen)
    if isinstance(chosen, bool) or not (isinstance(chosen, (int, float, str)) or listed_names):
        problems.append(f"unfreeze must be 'auto', a count, a share, a name or a list of names, got {chosen!r}")
    return problems


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _shared_names() -> set[str]:
    """Names of the settings that a wish and a plan both have."""
    return {field.name for field in dataclasses.fields(Wishes)} & {field.name for field in dataclasses.fields(Plan)}


def wishes_of(plan: Plan) -> Mapping[str, Any]:
    """Returns the settings of a plan that are not phases, by the names that :class:`Wishes` has."""
    values = {name: getattr(plan, name) for name in _shared_names()}
    if not any(plan.image_size):
        values["image_size"] = "auto"
    return values
