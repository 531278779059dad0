"""What a plan depends on: :class:`Facts` about the examples and the backbone, and :class:`Wishes` of the user.

Hides which values of a wish can be used.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tfft import registry
from tfft.errors import PlanError, did_you_mean, listed, raise_problems
from tfft.modalities.image.augment import augmentation
from tfft.specs import Augmentation, Plan

_LOSSES = ("cross_entropy", "focal")
_POOLINGS = ("cls", "mean", "last", "pooled_output")


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
        smallest: number of training examples of the smallest class; None when not known.
        largest: the same of the largest class.
        texts: whether the examples are texts.
        fit: how well the backbone's features fit the classes: accuracy of a linear head on them, cross-validated,
            between that of the commonest class (0) and all right (1); None when not known.
    """

    examples: int
    classes: int
    blocks: int
    image_size: tuple[int, int] | None = None
    flexible: bool = False
    image_side: float | None = None
    cached: bool = True
    smallest: int | None = None
    largest: int | None = None
    texts: bool = False
    fit: float | None = None


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
    validation: float | str = 0.2
    dropout: float = 0.2
    l2: float | Literal["auto"] = "auto"
    label_smoothing: float = 0.0
    loss: str = "cross_entropy"
    class_weight: str | Mapping[str, float] | None = None
    sampling: str | None = None
    batch_norm: str = "fixed"
    input_range: tuple[float, float] | None = None
    output: str | None = None
    resize: Literal["crop", "stretch", "pad"] | None = None
    augment: Augmentation | str | Sequence[str] | None = None
    views: int | Literal["auto"] = "auto"
    trust: bool = False
    strict: bool = False
    part_size: int | None = None
    deterministic: bool = False
    task: str = "auto"
    text: str | int | tuple[str | int, ...] | None = None
    label: str | int | None = None
    separator: str | None = None
    max_length: int | None = None
    pooling: str | None = None
    preprocessor: str | None = None
    group: str | int | None = None
    image: str | int | None = None
    audio: str | int | None = None
    sample_rate: int | None = None
    seconds: float | None = None

    def check(self) -> None:
        """Raises one :class:`PlanError` with everything that is out of range."""
        raise_problems(PlanError, "These settings cannot be used", _problems(self))


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
    if isinstance(wishes.validation, (str, os.PathLike)):
        if not os.path.isfile(wishes.validation):
            problems.append(f"validation is a share, or the file of a split that is there; got {wishes.validation!r}")
    elif not (_number(wishes.validation) and 0 < wishes.validation < 1):
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
    if wishes.loss not in _LOSSES:
        hint = did_you_mean(str(wishes.loss), _LOSSES)
        problems.append(f"loss must be one of {listed(_LOSSES)}, got {wishes.loss!r}.{hint}")
    if not (wishes.class_weight in (None, "balanced") or isinstance(wishes.class_weight, Mapping)):
        problems.append(f"class_weight must be None, 'balanced' or weights by class name, got {wishes.class_weight!r}")
    if wishes.sampling not in (None, "balanced"):
        problems.append(f"sampling must be None or 'balanced', got {wishes.sampling!r}")
    if wishes.sampling and wishes.class_weight:
        problems.append("class_weight and sampling both make classes equal: give one of them")
    try:
        augmentation(wishes.augment)
    except PlanError as error:
        problems.append(str(error))
    if wishes.resize not in (None, "crop", "stretch", "pad"):
        problems.append(f"resize must be 'crop', 'stretch' or 'pad', got {wishes.resize!r}")
    return problems + _size_problems(wishes) + _text_problems(wishes)


def _text_problems(wishes: Wishes) -> list[str]:
    problems = []
    try:
        registry.asked_task(wishes.task)
    except PlanError as error:
        problems.append(str(error))
    columns = wishes.text if isinstance(wishes.text, (tuple, list)) else (wishes.text,)
    if len(columns) not in (1, 2) or not all(_column(c) or c is None for c in columns):
        problems.append(f"text must be the name or number of a column, or two of them for pairs, got {wishes.text!r}")
    if not (wishes.label is None or _column(wishes.label)):
        problems.append(f"label must be the name or number of a column, got {wishes.label!r}")
    elif wishes.label is not None and wishes.label in columns:
        problems.append(f"text and label must be different columns, got {wishes.label!r} for both")
    for name in ("image", "audio"):
        column = getattr(wishes, name)
        if not (column is None or _column(column)):
            problems.append(f"{name} must be the name or number of a column, got {column!r}")
        elif column is not None and column == wishes.label:
            problems.append(f"{name} and label must be different columns, got {column!r} for both")
    several = [name for name in ("text", "image", "audio") if getattr(wishes, name) is not None]
    if len(several) > 1:
        problems.append(f"{' and '.join(several)} each say what is learned from: give one of them")
    if not (wishes.separator is None or (isinstance(wishes.separator, str) and wishes.separator)):
        problems.append(f"separator must be the text between two labels, such as '|', got {wishes.separator!r}")
    if not (wishes.max_length is None or _whole(wishes.max_length, 3)):
        problems.append(f"max_length must be a whole number of at least 3, got {wishes.max_length!r}")
    if wishes.pooling not in (None, *_POOLINGS):
        hint = did_you_mean(str(wishes.pooling), _POOLINGS)
        problems.append(f"pooling must be one of {listed(_POOLINGS)}, got {wishes.pooling!r}.{hint}")
    return problems


def _column(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or _whole(value, 0)


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


def shared_names() -> set[str]:
    """Names of the settings that a wish and a plan both have."""
    return {field.name for field in dataclasses.fields(Wishes)} & {field.name for field in dataclasses.fields(Plan)}


def wishes_of(plan: Plan) -> Mapping[str, Any]:
    """Returns the settings of a plan that are not phases, by the names that :class:`Wishes` has."""
    values = {name: getattr(plan, name) for name in shared_names()}
    if not any(plan.image_size):
        values["image_size"] = "auto"
    return values
