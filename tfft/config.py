"""All settings of a run: :class:`RunConfig`, :class:`Phase` and :class:`Plan`.

The keywords of :func:`tfft.finetune`, the options of ``tfft train``, the keys of ``plan.yaml`` and their documentation
come from the fields here. This module never imports TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, TypedDict

from tfft import registry
from tfft.errors import PlanError, raise_problems
from tfft.settings import (
    AUTO,
    COLUMN,
    FLAG,
    NONE,
    Check,
    Option,
    about,
    check_names,
    defaults_of,
    describe,
    documents,
    number,
    one_of,
    pair,
    parse_column,
    parse_count,
    parse_share,
    parse_value,
    parse_whole,
    parse_whole_or_auto,
    problems_of,
    resolved,
    satisfies,
    setting,
    string,
    whole,
)
from tfft.specs import Augmentation, augmentation

__all__ = ["Phase", "Plan", "RunConfig", "RunSettings", "SharedSettings", "config_of"]

# New names by old name, for plans and checkpoints of earlier versions.
_ALIASES: dict[str, str] = {
    "part_size": "microbatch_size",
    "rates": "lr_multipliers",
    "mixup": "mixup_alpha",
    "cutmix": "cutmix_alpha",
    "ema": "ema_decay",
    "swa": "swa_fraction",
    "surgical": "num_surgical_blocks",
    "lora": "lora_rank",
    "clip_norm": "global_clipnorm",
    "contrastive": "contrastive_repeats",
}
_CLASSES = {
    "ScaledOptimizer": "LayerwiseOptimizer",
    "ExponentialAverage": "ExponentialMovingAverage",
    "WeightAverage": "StochasticWeightAveraging",
}
_SOLVE = {False: "train", True: "linear_probe", "prototypes": "nearest_mean"}  # `solve` became `head`

# --- checks of single values -------------------------------------------------------------------------------------

_BLOCKS = satisfies(
    "'auto', a count, a share, a name or a list of names",
    lambda value: (
        (isinstance(value, (int, float, str)) and not isinstance(value, bool))
        or (isinstance(value, (list, tuple)) and all(isinstance(name, str) for name in value))
    ),
)
_RATE = number(above=0)
_RATES = pair("a pair (frozen, fine-tune)", _RATE)
_COLUMNS = satisfies(
    "two of them for pairs",
    lambda value: isinstance(value, (tuple, list)) and len(value) in (1, 2) and all(map(COLUMN.accepts, value)),
)
_IGNORED = satisfies(
    "several of them",
    lambda value: isinstance(value, (tuple, list)) and bool(value) and all(map(COLUMN.accepts, value)),
)
_SPLIT_FILE = satisfies(
    "a split file that exists", lambda value: isinstance(value, (str, os.PathLike)) and os.path.isfile(value)
)
_PATH = satisfies("a handle or path", lambda value: isinstance(value, (str, os.PathLike)) and bool(os.fspath(value)))
_SIZE = pair("height and width, in pixels", whole(1))
_NO_SIZE = pair("(0, 0) for a backbone without images", satisfies("0", lambda value: value == 0))
_RANGE = pair("(low, high) with low < high, such as (-1, 1)", number(), where=lambda low, high: bool(low < high))
_CHANGES = satisfies("a tfft.specs.Augmentation", lambda value: isinstance(value, Augmentation))
_WEIGHTS = satisfies("weights by class name", lambda value: isinstance(value, Mapping))


def _augment(value: Any) -> str | None:
    names = [value] if isinstance(value, str) else value
    if isinstance(value, Mapping):
        unknown = [name for name in value if name not in Augmentation.__dataclass_fields__]
        if unknown:
            return f"Expected the fields of tfft.specs.Augmentation. Received: {unknown}."
    elif not (value is None or isinstance(value, Augmentation)) and not (
        isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    ):
        return f"Expected names such as 'flip' or ['flip', 'crop=0.7'], or an Augmentation. Received: {value!r}."
    try:
        augmentation(value)
    except PlanError as error:
        return str(error)
    return None


def _task_problem(value: Any) -> str | None:
    try:
        if not AUTO.accepts(value):
            registry.task_name(value)
    except PlanError as error:
        return str(error)
    return None


class _TaskName(Check):
    """Check for a task name; includes tasks that are registered later."""

    def __call__(self, value: Any) -> str | None:
        """Return the valid names and the nearest one, or None for a task."""
        return _task_problem(value)


_TASK = _TaskName(("'auto'", "the name of a task"), lambda value: _task_problem(value) is None)

# --- settings of a run -------------------------------------------------------------------------------------------


@documents()
@dataclass(frozen=True, kw_only=True)
class SharedSettings:
    """Settings that :class:`RunConfig` and :class:`Plan` share: all except those that become phases.

    Attributes:
        {settings}
    """

    task: str = setting(
        "auto",
        help=f"Meaning of the labels: {', '.join(registry.task_names())}.",
        details='"regression": numbers. "token_classification": one tag per word; text and label then name the lists '
        "of words and tags in JSON lines. \"semantic_segmentation\": one class per pixel, in masks. "
        "\"transcription\": the text of a recording; audio and text then name the columns.",
        default_help="inferred from the labels",
        check=_TASK,
        cli=Option(), group="text", scope=("reading",),
    )  # fmt: skip
    text: str | int | tuple[str | int, ...] | None = setting(
        None,
        help="Column of a table with the texts; two columns for pairs.",
        details="By name, or by number for a table without a header. For TensorFlow Datasets, text, image, audio and "
        "label name features.",
        check=COLUMN | _COLUMNS | NONE,
        cli=Option(parse_column, "COLUMN", "+"), group="text", scope=("reading",),
    )  # fmt: skip
    image: str | int | None = setting(
        None,
        help="Column of a table with the paths of image files.",
        details="Absolute paths, or relative to the table.",
        check=COLUMN | NONE, cli=Option(parse_column, "COLUMN"), group="data", scope=("reading",),
    )  # fmt: skip
    images: str | os.PathLike[str] | None = setting(
        None,
        help="Folder of the pictures of an annotation file, for object detection.",
        default_help="the likely folder beside the annotations",
        check=_PATH | NONE, cli=Option(metavar="FOLDER"), group="data", scope=("reading",),
    )  # fmt: skip
    audio: str | int | None = setting(
        None,
        help="Column of a table with the paths of recordings.",
        details="Absolute paths, or relative to the table.",
        check=COLUMN | NONE, cli=Option(parse_column, "COLUMN"), group="data", scope=("reading",),
    )  # fmt: skip
    label: str | int | None = setting(
        None,
        help="Column with the labels.",
        check=COLUMN | NONE, cli=Option(parse_column, "COLUMN"), group="text", scope=("reading",),
    )  # fmt: skip
    target: str | int | None = setting(
        None,
        help="Column with the texts to write, for the task text_to_text.",
        details="text= then names the column with the texts to read.",
        check=COLUMN | NONE, cli=Option(parse_column, "COLUMN"), group="text", scope=("reading",),
    )  # fmt: skip
    sample_rate: int | None = setting(
        None,
        help="Sample rate in Hz to which recordings are resampled.",
        default_help="the most common one among the recordings",
        check=whole(1) | NONE, cli=Option(parse_whole, "HZ"), group="data", scope=("reading",),
    )  # fmt: skip
    seconds: float | None = setting(
        None,
        help="Clip length in seconds.",
        default_help="the 95th percentile of the recordings, at most 10",
        check=number(above=0) | NONE, cli=Option(float, "S"), group="data", scope=("reading",),
    )  # fmt: skip
    separator: str | None = setting(
        None,
        help="Separator between several labels of one example.",
        check=string("the text between two labels, such as '|'") | NONE,
        cli=Option(metavar="TEXT"), group="text", scope=("reading",),
    )  # fmt: skip
    delimiter: str | None = setting(
        None,
        help="Character between the fields of a table, such as ';'.",
        default_help="what makes all rows equally long",
        check=string() | NONE, cli=Option(metavar="CHAR"), group="data", scope=("reading",),
    )  # fmt: skip
    encoding: str | None = setting(
        None,
        help="Encoding of tables and text files, such as cp1252.",
        default_help="that of a byte-order mark, else UTF-8, else a guess",
        check=string() | NONE, cli=Option(metavar="NAME"), group="data", scope=("reading",),
    )  # fmt: skip
    decimal: str | None = setting(
        None,
        help="Decimal mark of labels that are numbers, a point or a comma.",
        default_help="the labels tell",
        check=NONE | one_of(".", ","), cli=Option(metavar="MARK"), group="data", scope=("reading",),
    )  # fmt: skip
    masks: str | os.PathLike[str] | None = setting(
        None,
        help="Folder of the masks, for semantic segmentation.",
        details="Absolute, or below the data folder or each of its parts.",
        default_help="masks, labels or annotations beside the images",
        check=_PATH | NONE, cli=Option(metavar="FOLDER"), group="data", scope=("reading",),
    )  # fmt: skip
    ignore: str | int | tuple[str | int, ...] | None = setting(
        None,
        help="Classes of masks that count as no label: names, values or colours (\"r g b\").",
        default_help="255, and a class named void or unlabelled",
        check=COLUMN | _IGNORED | NONE, cli=Option(parse_column, "CLASS", "+"), group="data", scope=("reading",),
    )  # fmt: skip
    letter_case: Literal["lower", "keep"] | None = setting(
        None,
        help="Letters of transcripts: lower makes all of them small.",
        default_help="lower",
        check=NONE | one_of("lower", "keep"), cli=Option(), group="text", scope=("reading",),
    )  # fmt: skip
    punctuation: Literal["drop", "keep"] | None = setting(
        None,
        help="Punctuation of transcripts.",
        default_help="drop",
        check=NONE | one_of("drop", "keep"), cli=Option(), group="text", scope=("reading",),
    )  # fmt: skip
    beam_width: int | None = setting(
        None,
        help="Number of texts that the decoding of a transcription compares; 1 takes the best character of each frame.",
        default_help="1",
        check=NONE | whole(1), cli=Option(parse_whole, "N"), group="text",
    )  # fmt: skip
    max_length: int | None = setting(
        None,
        help="Maximum sequence length in tokens.",
        default_help="the backbone's own, at most 128",
        check=whole(3) | NONE, cli=Option(parse_whole, "N"), group="text", scope=("opening",),
    )  # fmt: skip
    pooling: Literal["cls", "mean", "last", "pooled_output"] | None = setting(
        None,
        help="Pooling of token features into one vector.",
        default_help="the backbone's own",
        check=one_of("cls", "mean", "last", "pooled_output") | NONE,
        cli=Option(), group="text", scope=("opening",),
    )  # fmt: skip
    preprocessor: str | None = setting(
        None,
        help="Handle of the SavedModel that turns texts into the inputs of a TF Hub encoder.",
        default_help="the one that the catalog knows",
        check=_PATH | NONE, cli=Option(metavar="HANDLE"), group="text", scope=("opening",),
    )  # fmt: skip
    image_size: int | tuple[int, int] | Literal["auto"] = setting(
        "auto",
        help="Image size in pixels: one number, or height and width.",
        default_help="the backbone's own; smaller for tiny images",
        check=AUTO | satisfies("one number", whole(1).accepts) | _SIZE,
        cli=Option(parse_whole, "PIXELS", "+"), group="data",
    )  # fmt: skip
    batch_size: int | Literal["auto"] = setting(
        32,
        help="Examples per optimizer step; auto tries sizes.",
        details="No effect on datasets that are batched already. See tfft.training.find_batch_size.",
        check=AUTO | whole(1), cli=Option(parse_whole_or_auto, "N"),
    )  # fmt: skip
    microbatch_size: int | None = setting(
        None,
        help="Examples per microbatch, where a whole batch does not fit into memory.",
        details="The weights are those of whole batches; see tfft.training.microbatched.",
        default_help="whole batches",
        check=NONE | whole(1), cli=Option(parse_whole, "N"),
    )  # fmt: skip
    seed: int = setting(
        0,
        help="Seed for the split, the order, new weights and dropout.",
        details="The same seed on the same machine repeats a run.",
        check=whole(0), cli=Option(int, "S"), scope=("reading",),
    )  # fmt: skip
    deterministic: bool = setting(
        False,
        help="Use only operations that repeat bit for bit.",
        details="Holds for the rest of the process.",
        check=FLAG, cli=Option(),
    )  # fmt: skip
    validation: float | str | os.PathLike[str] = setting(
        0.2,
        help="Share of each class to hold out where the data has no split, or the split.csv of an earlier run.",
        check=number(above=0, below=1) | _SPLIT_FILE,
        cli=Option(parse_share, "SHARE"), group="data", scope=("reading",),
    )  # fmt: skip
    group: str | int | None = setting(
        None,
        help="Groups to keep on one side of the split: folder, a regular expression for file paths, or a column.",
        details="The parentheses of the expression mark the part that names the group, such as a person.",
        check=COLUMN | NONE, cli=Option(metavar="REGEX"), group="data", scope=("reading",),
    )  # fmt: skip
    dropout: float = setting(
        0.2,
        help="Share of the features dropped before the head.",
        check=number(0, below=1), cli=Option(float, "SHARE"),
    )  # fmt: skip
    l2: float | Literal["auto"] = setting(
        "auto",
        help="Weight decay of the head.",
        default_help="cross-validated where the head is computed, else 0",
        check=AUTO | number(0), cli=Option(float, "WEIGHT"),
    )  # fmt: skip
    label_smoothing: float = setting(
        0.0,
        help="Share of the target spread over all classes.",
        check=number(0, below=1), cli=Option(float, "SHARE"),
    )  # fmt: skip
    loss: Literal["cross_entropy", "focal"] = setting(
        "cross_entropy",
        help="Loss function; focal gives less weight to easy examples.",
        check=one_of("cross_entropy", "focal"), cli=Option(),
    )  # fmt: skip
    class_weight: Literal["balanced"] | Mapping[str, float] | None = setting(
        None,
        help="Weights of the classes in the loss; balanced uses the inverse of each share.",
        details="A mapping gives the weights by class name.",
        default_help="equal weights",
        check=NONE | one_of("balanced") | _WEIGHTS, cli=Option(),
    )  # fmt: skip
    sampling: Literal["balanced"] | None = setting(
        None,
        help="Sampling of training examples; balanced draws all classes equally often.",
        default_help="each example once per epoch",
        check=NONE | one_of("balanced"), cli=Option(),
    )  # fmt: skip
    batch_norm: Literal["fixed", "train"] = setting(
        "fixed",
        help="BatchNorm statistics of unfrozen blocks: fixed, or train to follow the new data.",
        check=one_of("fixed", "train"), cli=Option(),
    )  # fmt: skip
    input_range: tuple[float, float] | None = setting(
        None,
        help="Values of black and white in the input of the backbone.",
        default_help="the backbone's own",
        check=_RANGE | NONE, cli=Option(float, ("LOW", "HIGH"), 2), group="data", scope=("opening",),
    )  # fmt: skip
    output: str | None = setting(
        None,
        help="Output to use, for a backbone with several.",
        check=string() | NONE, cli=Option(metavar="KEY"), group="data", scope=("opening",),
    )  # fmt: skip
    signature: str | None = setting(
        None,
        help="Signature or saved function of a SavedModel to use.",
        default_help="the one that takes a batch and gives features",
        check=string() | NONE, cli=Option(metavar="NAME"), group="data", scope=("opening",),
    )  # fmt: skip
    resize: Literal["crop", "stretch", "pad"] | None = setting(
        None,
        help="Fit of images with another aspect ratio.",
        default_help="crop",
        check=NONE | one_of("crop", "stretch", "pad"), cli=Option(), group="data",
    )  # fmt: skip
    augment: Augmentation | str | Sequence[str] | None = setting(
        None,
        help="Random changes while blocks train: flip, crop, rand, colour for images; shift, mask for recordings.",
        details='Takes a strength as in "crop=0.7", a list, or a tfft.specs.Augmentation. Do not flip digits '
        "or letters.",
        default_help="no changes",
        check=_augment, cli=Option(metavar="CHANGE", nargs="+"),
    )  # fmt: skip
    views: int | Literal["auto"] = setting(
        "auto",
        help="Number of augmented versions of each example, the example itself included, used in turn.",
        details="With a cache, the frozen part runs once on each version.",
        default_help="half the epochs, 4 to 8",
        check=AUTO | whole(1), cli=Option(parse_whole, "K"),
    )  # fmt: skip
    trust: bool = setting(
        False,
        help="Open a SavedModel even if the scan finds operations outside the allowlist.",
        check=FLAG, cli=Option(), group="data", scope=("opening",),
    )  # fmt: skip
    constants: Literal["fixed", "trainable"] = setting(
        "fixed",
        help="Keep weights that a graph holds as constants, or make variables of them that can be trained.",
        check=one_of("fixed", "trainable"), cli=Option(), group="data", scope=("opening",),
    )  # fmt: skip
    per_example: bool = setting(
        False,
        help="Call a SavedModel once for each example, because its inputs have no batch axis.",
        check=FLAG, cli=Option(), group="data", scope=("opening",),
    )  # fmt: skip
    strict: bool = setting(
        False,
        help="Raise an error for a file that cannot be used, instead of skipping it.",
        check=FLAG, cli=Option(), group="data", scope=("reading",),
    )  # fmt: skip

    def given(self, scope: str) -> dict[str, Any]:
        """Return the settings of a scope that differ from their defaults.

        Args:
            scope: ``"reading"`` or ``"opening"``.
        """
        named = [f.name for f in dataclasses.fields(SharedSettings) if scope in about(f).scope]
        return {name: value for name in named if (value := getattr(self, name)) != _DEFAULTS[name]}

    def problems(self) -> list[str]:
        """Return a sentence for each invalid setting or combination."""
        return [*problems_of(self), *self._combinations()]

    def check(self) -> None:
        """Raise one :class:`PlanError` for all invalid settings and combinations."""
        raise_problems(PlanError, "These settings cannot be used", self.problems())

    def _combinations(self) -> list[str]:
        problems = []
        if self.sampling and self.class_weight:
            problems.append("class_weight and sampling both balance the classes: give one of them")
        columns = self.text if isinstance(self.text, (tuple, list)) else (self.text,)
        roles = {"text": columns, "image": (self.image,), "audio": (self.audio,)}
        for name, used in roles.items():
            if self.label is not None and self.label in used:
                problems.append(f"{name} and label must be different columns. Received: {self.label!r} for both")
        several = [name for name in roles if getattr(self, name) is not None]
        if len(several) > 1 and not set(several) <= self._together():
            problems.append(f"{' and '.join(several)} each name the input column: give one of them")
        return problems

    def _together(self) -> frozenset[str]:
        """Return the settings that may name columns of a table at the same time, which depends on the task."""
        known = self.task in registry.task_names()  # another name is a problem of its own
        return registry.task(self.task).input_columns if known else frozenset()


@dataclass(frozen=True, kw_only=True)
class _PhaseSettings:
    """Settings that become the phases of a plan."""

    unfreeze: int | float | str | list[str] | Literal["auto"] = setting(
        "auto",
        help="Blocks to train: the last N, a share of the parameters, a name or regular expression, norm, bias, all or "
        "none.",
        details="As tfft.unfreeze takes it; none leaves the second phase out.",
        default_help="more blocks for more examples",
        check=_BLOCKS, cli=Option(parse_value, "N"),
    )  # fmt: skip
    epochs: int | Literal["auto"] = setting(
        "auto",
        help="Epochs with unfrozen blocks; 0 leaves that phase out.",
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
        check=AUTO | _RATE | _RATES, cli=Option(float, "RATE"),
    )  # fmt: skip
    minutes: float | None = setting(
        None,
        help="Minutes that the training may take; epochs, trained blocks and phases are cut to fit.",
        details="The time is measured before training, so another machine may cut otherwise; the export comes on top.",
        default_help="no limit",
        check=number(above=0) | NONE, cli=Option(float, "MINUTES"),
    )  # fmt: skip


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
        check_names([name for name in settings if name not in names], [*names, *others], "the run")
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
    batch_norm: Literal["fixed", "train"]
    input_range: tuple[float, float] | None
    output: str | None
    signature: str | None
    resize: Literal["crop", "stretch", "pad"] | None
    augment: Augmentation | str | Sequence[str] | None
    views: int | Literal["auto"]
    trust: bool
    constants: Literal["fixed", "trainable"]
    per_example: bool
    strict: bool


_DEFAULTS = defaults_of(RunConfig)


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


# --- plans -------------------------------------------------------------------------------------------------------


def _rates(value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"Expected a mapping from blocks to factors of the learning rate. Received: {value!r}."
    wrong = [
        f"Expected a factor above 0 for {block!r}. Received: {factor!r}."
        for block, factor in value.items()
        if not _RATE.accepts(factor)
    ]
    return " ".join([*wrong, "To keep a block frozen, leave it out of unfreeze."]) if wrong else None


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
    learning_rate: float = field(metadata=describe("Peak learning rate.", check=_RATE, always=True))
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
        check=_rates,
    )  # fmt: skip
    l2_sp: float = setting(
        0.0,
        help="Strength of the pull of backbone weights towards the pretrained ones; not with weight_decay.",
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

    @property
    def solves_head(self) -> bool:
        """Whether the head is computed instead of trained."""
        return self.head != "train"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, without settings that are switched off."""
        defaults = defaults_of(Phase)
        return {
            f.name: _plain(value)
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
    task: str = resolved(SharedSettings, "task", "classification", _TASK)
    image_size: tuple[int, int] = resolved(SharedSettings, "image_size", (224, 224), _SIZE | _NO_SIZE)
    batch_size: int = resolved(SharedSettings, "batch_size", 32, whole(1))
    augment: Augmentation | None = resolved(SharedSettings, "augment", None, _CHANGES | NONE)
    views: int = resolved(SharedSettings, "views", 1, whole(1))
    phases: tuple[Phase, ...] = setting((), help="Phases, in order.")
    reasons: Mapping[str, str] = setting({}, help="Reason for each value that tfft chose, by setting.")
    versions: Mapping[str, str] = setting({}, help="Versions of tfft, TensorFlow, Keras and NumPy during the run.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON, in the order of ``plan.yaml``."""
        return {name: _plain(getattr(self, name)) for name in _PLAN_KEYS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Build a plan from the result of :meth:`to_dict`.

        Raises:
            PlanError: For an unknown name, with the nearest valid one.
        """
        known = _renamed(values)
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
    known = _renamed(values)
    check_names(known, [f.name for f in dataclasses.fields(Phase)], f"phase {known.get('name', '')!r}")
    return Phase(**known)


def _renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    known = {_ALIASES.get(name, name): value for name, value in values.items()}
    if "solve" in known:
        known["head"] = _SOLVE.get(known.pop("solve"), "train")
    return known


def current_names(value: Any) -> Any:
    """Return stored settings as they are called today, with the defaults of those that came later.

    The names are those of settings, and of classes under ``class``.

    Args:
        value: Nested plain values, such as the settings stored with a checkpoint.
    """
    if isinstance(value, list):
        return [current_names(one) for one in value]
    if not isinstance(value, Mapping):
        return value
    named = {}
    for name, one in _renamed(value).items():
        if name == "class":
            named[name] = _CLASSES.get(one, one)
        elif name == "phases" and isinstance(one, Mapping):  # by their names, which are the user's
            named[name] = {phase: current_names(settings) for phase, settings in one.items()}
        else:
            named[name] = current_names(one)
    if "backbone_digest" in named:  # a plan, of a version that may have had fewer settings
        named = {f.name: _plain(_DEFAULTS[f.name]) for f in dataclasses.fields(SharedSettings)} | named
    return named


def _plain(value: Any) -> Any:
    """Convert the value of a setting to plain YAML and JSON values."""
    if isinstance(value, (Phase, Augmentation)):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    return os.fspath(value) if isinstance(value, os.PathLike) else value


# Settings of a phase that a named plan accepts as keywords.
PHASE_KEYWORDS = tuple(
    f.name
    for f in dataclasses.fields(Phase)
    if f.name not in ("name", "unfreeze", "epochs", "learning_rate", "head", "contrastive_repeats")
)
_FIRST, _LAST = ("backbone", "data", "backbone_digest", "name"), ("phases", "reasons", "versions")
_PLAN_KEYS = (*_FIRST, *(f.name for f in dataclasses.fields(SharedSettings)), *_LAST)
