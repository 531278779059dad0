"""Settings of a run as they are used: :class:`Phase`, :class:`Plan`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tfft import registry
from tfft.config.shared_settings import SharedSettings
from tfft.config.stored_settings import plain, renamed
from tfft.config.value_checks import CHANGES, NO_SIZE, RATE, SIZE, TASK, multiplier_problem
from tfft.settings import (
    AUTO,
    FLAG,
    NONE,
    about,
    check_names,
    defaults_of,
    describe,
    documents,
    number,
    one_of,
    replace_numpy,
    resolved,
    setting,
    whole,
)
from tfft.specs import Augmentation


@documents()
@dataclass(frozen=True)
class Phase:
    """Stretch of training with a fixed trainable set.

    Attributes:
        {settings}
    """

    name: str = field(metadata=describe('Name, unique within a plan: "frozen", "fine-tune", ...', always=True))
    unfreeze: int | float | str | list[str] = field(
        metadata=describe("Blocks that train, as tfft.unfreeze takes it.", always=True)
    )
    epochs: int = field(metadata=describe("Passes over the training data.", check=whole(1), always=True))
    learning_rate: float = field(metadata=describe("Peak learning rate.", check=RATE, always=True))
    warmup: float = setting(
        0.1,
        help="Share of the steps for the warmup, for a schedule that has one.",
        check=number(0, below=1), always=True,
    )  # fmt: skip
    patience: int | None = setting(
        None,
        help="Epochs without a better validation loss before the phase ends early.",
        default_help="never",
        check=NONE | whole(1), always=True,
    )  # fmt: skip
    head: Literal["train", "linear_probe", "nearest_mean"] = setting(
        "train",
        help='How the head gets its weights: "train" by gradient descent; "linear_probe" computes the best linear head '
        'on the frozen backbone; "nearest_mean" takes the mean features of each class.',
        details='To compute the head, unfreeze must be "none"; epochs and learning_rate are not used.',
        check=one_of("train", "linear_probe", "nearest_mean"), always=True,
    )  # fmt: skip
    schedule: str = setting(
        "cosine",
        help='Learning-rate schedule: "cosine" (linear rise, then a cosine to nearly 0), "linear", "constant", '
        '"one_cycle", "slanted" (triangular), "steps" (a tenth at 2/5, 3/5 and 4/5) or "plateau" (a tenth when the '
        "validation loss stops improving).",
        always=True,
    )  # fmt: skip
    optimizer: str = setting("adam", help="Name of a Keras optimizer.", always=True)
    weight_decay: float = setting(
        0.0, help="Decoupled weight decay, as in AdamW; not for biases and normalization.", check=number(0)
    )
    layer_decay: float = setting(
        1.0,
        help="Learning-rate factor from each block to the block below it.",
        check=number(above=0, at_most=1),
    )  # fmt: skip
    lr_multipliers: Mapping[str, float] = setting(
        {},
        help="Learning-rate factors for individual blocks, by name or pattern, multiplied by layer_decay.",
        check=multiplier_problem,
    )  # fmt: skip
    l2_sp: float = setting(
        0.0,
        help="Strength of the penalty on the distance to the pretrained weights; not with weight_decay.",
        check=number(0),
    )  # fmt: skip
    mixup_alpha: float = setting(
        0.0, help="Alpha of the Beta distribution for MixUp of pairs of examples; 0 for none.", check=number(0)
    )
    cutmix_alpha: float = setting(0.0, help="Alpha of the Beta distribution for CutMix; 0 for none.", check=number(0))
    ema_decay: float = setting(
        0.0,
        help="Decay of an exponential moving average of the weights, which becomes the result; 0 for none.",
        check=number(0, below=1),
    )  # fmt: skip
    swa_fraction: float = setting(
        0.0,
        help="Share of the phase, at its end, over which weights are averaged; 0 for none.",
        details='Best with a rate that stays high, as with schedule="constant".',
        check=number(0, below=1),
    )  # fmt: skip
    interpolate: bool = setting(
        False,
        help="Look for the best point between the first and the last weights of the phase (WiSE-FT) on the validation "
        "examples.",
        check=FLAG,
    )  # fmt: skip
    num_surgical_blocks: int = setting(
        0,
        help="Number of blocks to train among those of unfreeze: those with the largest gradients relative to "
        "their weights at the start of the phase; 0 for all.",
        check=whole(0),
    )  # fmt: skip
    reinitialize: int = setting(
        0,
        help="Number of last blocks to reinitialize.",
        details='finetune then updates BatchNorm statistics (batch_norm="train"), since those of the old '
        "weights do not fit.",
        check=whole(0),
    )  # fmt: skip
    lora_rank: int = setting(
        0,
        help="Rank of the low-rank updates that train instead of the kernels; 0 trains the kernels.",
        check=whole(0),
    )  # fmt: skip
    global_clipnorm: float | None = setting(
        None, help="Maximum global norm of the gradients.", default_help="no limit", check=NONE | number(above=0)
    )
    contrastive_repeats: int = setting(
        0,
        help="Repeats of each example per epoch for contrastive training on pairs (SetFit), for few examples; 0 "
        "trains on labels.",
        details="The loss compares all examples of a batch: the target cosine of features is 1 within a class and 0 "
        "between classes. The head does not train, so a phase that computes it must follow.",
        check=whole(0),
    )  # fmt: skip

    def __post_init__(self) -> None:
        replace_numpy(self)

    @property
    def solves_head(self) -> bool:
        """Whether the head is computed instead of trained."""
        return self.head != "train"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, without settings that are switched off."""
        defaults = defaults_of(Phase)
        return {
            f.name: plain(value)
            for f in dataclasses.fields(self)
            if (value := getattr(self, f.name)) != defaults.get(f.name) or about(f).always
        }


@documents()
@dataclass(frozen=True, kw_only=True)
class Plan(SharedSettings):
    """All settings of a run, as used: stored in ``plan.yaml``, and enough to repeat the run.

    Attributes:
        {settings}
    """

    backbone: str = field(metadata=describe("Handle of the backbone, as given."))
    data: str = field(metadata=describe("Path or name of the examples."))
    backbone_digest: str | None = setting(
        None,
        help="Digest of the files of the backbone, see tfft.backbones.digest.",
        details="Repeating the plan with the same handle requires the same files.",
        default_help="for a backbone without files",
    )  # fmt: skip
    name: str = setting("", help='Name of the plan, such as "lp_ft"; see tfft.plans.')
    task: str = resolved(SharedSettings, "task", "classification", TASK)
    image_size: tuple[int, int] = resolved(SharedSettings, "image_size", (224, 224), SIZE | NO_SIZE)
    batch_size: int = resolved(SharedSettings, "batch_size", 32, whole(1))
    augment: Augmentation | None = resolved(SharedSettings, "augment", None, CHANGES | NONE)
    views: int = resolved(SharedSettings, "views", 1, whole(1))
    phases: tuple[Phase, ...] = setting((), help="Phases, in order.")
    reasons: Mapping[str, str] = setting({}, help="Reason for each value that tfft chose, by setting.")
    versions: Mapping[str, str] = setting({}, help="Versions of tfft, TensorFlow, Keras and NumPy during the run.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, in the order of ``plan.yaml``."""
        return {name: plain(getattr(self, name)) for name in _PLAN_KEYS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build a plan from the result of :meth:`to_dict`.

        Raises:
            PlanError: For an unknown name, with the nearest valid one.
        """
        known = renamed(values)
        check_names(known, _PLAN_KEYS, "the plan")
        phases = [_phase(phase) for phase in known.pop("phases", None) or ()]
        known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
        if isinstance(known.get("augment"), Mapping):
            check_names(known["augment"], Augmentation.__dataclass_fields__, "the plan's augment")
            known["augment"] = Augmentation(**known["augment"])
        if "task" in known and not AUTO.accepts(known["task"]):
            known["task"] = registry.task_name(known["task"])
        return cls(phases=tuple(phases), **known)


def _phase(values: Mapping[str, Any]) -> Phase:
    known = renamed(values)
    check_names(known, [f.name for f in dataclasses.fields(Phase)], f"phase {known.get('name', '')!r}")
    return Phase(**known)


# Settings of a phase that a named plan accepts as keywords.
PHASE_KEYWORDS = tuple(
    f.name
    for f in dataclasses.fields(Phase)
    if f.name not in ("name", "unfreeze", "epochs", "learning_rate", "head", "contrastive_repeats")
)


_FIRST, _LAST = ("backbone", "data", "backbone_digest", "name"), ("phases", "reasons", "versions")
_PLAN_KEYS = (*_FIRST, *(f.name for f in dataclasses.fields(SharedSettings)), *_LAST)
