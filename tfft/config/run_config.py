"""Settings of a run as a call gives them: :class:`RunConfig`, :func:`config_of`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, TypedDict

from tfft.config.plan import PHASE_KEYWORDS, Plan
from tfft.config.shared_settings import SharedSettings
from tfft.config.value_checks import BLOCKS, RATE, RATES
from tfft.errors import PlanError
from tfft.settings import (
    AUTO,
    NONE,
    Option,
    check_names,
    documents,
    number,
    parse_count,
    parse_value,
    parse_whole,
    setting,
    whole,
)
from tfft.specs import Augmentation


@dataclass(frozen=True, kw_only=True)
class _PhaseSettings:
    """Settings that become the phases of a plan."""

    unfreeze: int | float | str | list[str] | Literal["auto"] = setting(
        "auto",
        help="Blocks to train: the last N, a share of the parameters, a name or regular expression, norm, bias, all or "
        "none.",
        details="As in tfft.unfreeze; none skips the second phase.",
        default_help="more blocks for more examples",
        check=BLOCKS, cli=Option(parse_value, "N"),
    )  # fmt: skip
    epochs: int | Literal["auto"] = setting(
        "auto",
        help="Epochs with unfrozen blocks; 0 skips that phase.",
        default_help="enough for about 280 steps, 2 to 10",
        check=AUTO | whole(0), cli=Option(parse_count, "N"),
    )  # fmt: skip
    head_epochs: int | Literal["auto"] = setting(
        "auto",
        help="Epochs of the head alone, before any block trains.",
        default_help="the best linear head is computed instead",
        check=AUTO | whole(1), cli=Option(parse_whole, "N"),
    )  # fmt: skip
    learning_rate: float | tuple[float, float] | Literal["auto"] = setting(
        "auto",
        help="Peak learning rate of the phase with unfrozen blocks.",
        details="A pair (head, blocks) sets both rates and also trains the head.",
        default_help="from the data, the backbone and the batch size",
        check=AUTO | RATE | RATES, cli=Option(float, "RATE"),
    )  # fmt: skip
    minutes: float | None = setting(
        None,
        help="Minutes that the training may take; epochs, trained blocks and phases are cut to fit.",
        details="The time is measured before training, so another machine may cut more or less; the export is not "
        "included.",
        default_help="no limit",
        check=number(above=0) | NONE, cli=Option(float, "MINUTES"),
    )  # fmt: skip


_ELSEWHERE = {
    **{
        name: f"It is a setting of a phase: plan=tfft.plans.lp_ft({name}=...), or of another plan."
        for name in PHASE_KEYWORDS
    },
    "metrics": "They follow from the task; tfft.evaluate(run.model, ...) gives all scores.",
    "sample_weight": "Weights belong to the data: a tf.data.Dataset of (inputs, labels, weights).",
}


@documents()
@dataclass(frozen=True, kw_only=True)
class RunConfig(SharedSettings, _PhaseSettings):
    """All settings of :func:`tfft.finetune`; ``"auto"`` leaves one to tfft.

    Attributes:
        {settings}

    Example:
        >>> config = tfft.RunConfig(batch_size=16, augment="flip")
        >>> tfft.finetune("efficientnet-lite0", "photos/", config=config, seed=1)
    """

    def updated(self, settings: Mapping[str, Any], others: Sequence[str] = ()) -> Self:
        """Return a copy with other values of some settings.

        Args:
            settings: Values by name.
            others: Other names that the caller accepts, for suggestions.

        Raises:
            PlanError: For all unknown names, with suggestions.
        """
        names = [f.name for f in dataclasses.fields(self)]
        unknown = [name for name in settings if name not in names]
        check_names(unknown, [*names, *others], "the run", _ELSEWHERE)
        return dataclasses.replace(self, **settings)


class RunSettings(TypedDict, total=False):
    """Keywords of :func:`tfft.finetune` for type checkers: the fields of :class:`RunConfig` except ``task``."""

    unfreeze: int | float | str | list[str] | Literal["auto"]
    epochs: int | Literal["auto"]
    head_epochs: int | Literal["auto"]
    learning_rate: float | tuple[float, float] | Literal["auto"]
    minutes: float | None
    text: str | int | tuple[str | int, ...] | None
    image: str | int | None
    images: str | os.PathLike[str] | None
    audio: str | int | None
    label: str | int | None
    target: str | int | None
    sample_rate: int | None
    seconds: float | None
    separator: str | None
    delimiter: str | None
    encoding: str | None
    decimal: str | None
    masks: str | os.PathLike[str] | None
    ignore: str | int | tuple[str | int, ...] | None
    letter_case: Literal["lower", "keep"] | None
    punctuation: Literal["drop", "keep"] | None
    beam_width: int | None
    architecture: str | None
    max_length: int | None
    pooling: Literal["cls", "mean", "last", "pooled_output"] | None
    preprocessor: str | None
    image_size: int | tuple[int, int] | Literal["auto"]
    batch_size: int | Literal["auto"]
    microbatch_size: int | None
    seed: int
    deterministic: bool
    validation: float | str | os.PathLike[str]
    group: str | int | None
    dropout: float
    l2: float | Literal["auto"]
    label_smoothing: float
    loss: Literal["cross_entropy", "focal"]
    class_weight: Literal["balanced"] | Mapping[str, float] | None
    sampling: Literal["balanced"] | None
    calibrate: bool
    batch_norm: Literal["fixed", "train"]
    input_range: tuple[float, float] | None
    output: str | None
    signature: str | None
    resize: Literal["crop", "stretch", "pad"] | None
    full_decoding: bool
    augment: Augmentation | str | Sequence[str] | None
    views: int | Literal["auto"]
    trust: bool
    constants: Literal["fixed", "trainable"]
    per_example: bool
    strict: bool


def config_of(
    config: RunConfig | None, task: str, settings: Mapping[str, Any], others: Sequence[str] = ()
) -> RunConfig:
    """Return the settings of a call: those of ``config``, overridden by the keywords of the call.

    Args:
        config: Config of the call; None for the defaults.
        task: Task of the call; ``"auto"`` keeps the one in ``config``.
        settings: Keywords of the call.
        others: Other names that the caller accepts, for suggestions.

    Raises:
        PlanError: For a ``config`` of another type, and for all unknown names.
    """
    if not (config is None or isinstance(config, RunConfig)):
        fix = " Pass a plan as plan=." if isinstance(config, Plan) else ""
        raise PlanError(f"config: Expected a tfft.RunConfig. Received: {type(config).__name__}.{fix}")
    known = settings if task == "auto" else {"task": task, **settings}
    return (config or RunConfig()).updated(known, others)
