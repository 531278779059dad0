"""Settings that a run and its plan share: :class:`SharedSettings`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tfft import registry
from tfft.config.value_checks import (
    COLUMNS,
    IGNORED,
    PATH,
    RANGE,
    SIZE,
    SPLIT_FILE,
    TASK,
    WEIGHTS,
    augmentation_problem,
)
from tfft.errors import PlanError, raise_problems
from tfft.settings import (
    AUTO,
    COLUMN,
    FLAG,
    NONE,
    Option,
    about,
    defaults_of,
    documents,
    number,
    one_of,
    parse_column,
    parse_share,
    parse_whole,
    parse_whole_or_auto,
    problems_of,
    replace_numpy,
    satisfies,
    setting,
    string,
    whole,
)
from tfft.specs import Augmentation


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
        check=TASK,
        cli=Option(), group="text", scope=("reading",),
    )  # fmt: skip
    text: str | int | tuple[str | int, ...] | None = setting(
        None,
        help="Column of a table with the texts; two columns for pairs.",
        details="By name, or by number for a table without a header. For TensorFlow Datasets, text, image, audio and "
        "label name features.",
        check=COLUMN | COLUMNS | NONE,
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
        help="Folder of the images of an annotation file, for object detection.",
        default_help="the likely folder next to the annotations",
        check=PATH | NONE, cli=Option(metavar="FOLDER"), group="data", scope=("reading",),
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
        help="Column with the target texts, for the task text_to_text.",
        details="text= then names the column with the source texts.",
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
        help="Delimiter of a table, such as ';'.",
        default_help="the character that gives all rows the same number of fields",
        check=string() | NONE, cli=Option(metavar="CHAR"), group="data", scope=("reading",),
    )  # fmt: skip
    encoding: str | None = setting(
        None,
        help="Encoding of tables and text files, such as cp1252.",
        default_help="from the byte-order mark, else UTF-8, else detected",
        check=string() | NONE, cli=Option(metavar="NAME"), group="data", scope=("reading",),
    )  # fmt: skip
    decimal: str | None = setting(
        None,
        help="Decimal mark of labels that are numbers, a point or a comma.",
        default_help="inferred from the labels",
        check=NONE | one_of(".", ","), cli=Option(metavar="MARK"), group="data", scope=("reading",),
    )  # fmt: skip
    masks: str | os.PathLike[str] | None = setting(
        None,
        help="Folder of the masks, for semantic segmentation.",
        details="Absolute, or below the data folder or each of its parts.",
        default_help="masks, labels or annotations next to the images",
        check=PATH | NONE, cli=Option(metavar="FOLDER"), group="data", scope=("reading",),
    )  # fmt: skip
    ignore: str | int | tuple[str | int, ...] | None = setting(
        None,
        help="Classes of masks that count as no label: names, values or colours (\"r g b\").",
        default_help="255, and a class named void or unlabelled",
        check=COLUMN | IGNORED | NONE, cli=Option(parse_column, "CLASS", "+"), group="data", scope=("reading",),
    )  # fmt: skip
    letter_case: Literal["lower", "keep"] | None = setting(
        None,
        help="Case of transcripts: lower converts them to lowercase.",
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
        help="Beam width for decoding transcripts; 1 takes the most probable character of each frame, or next token.",
        default_help="1",
        check=NONE | whole(1), cli=Option(parse_whole, "N"), group="text",
    )  # fmt: skip
    architecture: str | None = setting(
        None,
        help="Head for boxes or masks: tfft, or through KerasHub retinanet for boxes, deeplab_v3 for masks. For "
        "transcripts: ctc or encoder_decoder.",
        default_help="tfft; for transcripts encoder_decoder if the backbone has a pretrained decoder, else ctc",
        check=string() | NONE, cli=Option(metavar="NAME"),
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
        default_help="the one in the catalog",
        check=PATH | NONE, cli=Option(metavar="HANDLE"), group="text", scope=("opening",),
    )  # fmt: skip
    image_size: int | tuple[int, int] | Literal["auto"] = setting(
        "auto",
        help="Image size in pixels: one number, or height and width.",
        default_help="the backbone's own; smaller for tiny images",
        check=AUTO | satisfies("one number", whole(1).accepts) | SIZE,
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
        help="Use only operations with bit-identical results.",
        details="Holds for the rest of the process.",
        check=FLAG, cli=Option(),
    )  # fmt: skip
    validation: float | str | os.PathLike[str] = setting(
        0.2,
        help="Share of each class to hold out where the data has no split, or the split.csv of an earlier run.",
        check=number(above=0, below=1) | SPLIT_FILE,
        cli=Option(parse_share, "SHARE"), group="data", scope=("reading",),
    )  # fmt: skip
    group: str | int | None = setting(
        None,
        help="Groups that stay on one side of the split: folder, a regular expression for file paths, or a column.",
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
        help="Share of the target probability that is spread over all classes.",
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
        check=NONE | one_of("balanced") | WEIGHTS, cli=Option(),
    )  # fmt: skip
    sampling: Literal["balanced"] | None = setting(
        None,
        help="Sampling of training examples; balanced draws all classes equally often.",
        default_help="each example once per epoch",
        check=NONE | one_of("balanced"), cli=Option(),
    )  # fmt: skip
    calibrate: bool = setting(
        True,
        help="Temperature scaling of the probabilities of classes, fitted to the held-out examples.",
        details="At the end of the training, if there are at least 50; see tfft.calibrate. The predicted class of an "
        "example stays the same.",
        check=FLAG, cli=Option(),
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
        check=RANGE | NONE, cli=Option(float, ("LOW", "HIGH"), 2), group="data", scope=("opening",),
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
    full_decoding: bool = setting(
        False,
        help="Decode JPEG files at full size, also those of at least six times the size that the model takes.",
        details="Otherwise they are decoded at a half, a quarter or an eighth, which is faster. Where labels are "
        "places in an image, such as boxes, every image is decoded at full size.",
        check=FLAG, cli=Option(), group="data",
    )  # fmt: skip
    augment: Augmentation | str | Sequence[str] | None = setting(
        None,
        help="Random changes while blocks train: flip, crop, rand, colour for images; mosaic, mixup for boxes; mosaic, "
        "cutmix for masks; shift, mask for recordings.",
        details='Takes a strength as in "crop=0.7", a list, or a tfft.specs.Augmentation. Do not flip digits '
        "or letters.",
        default_help="no changes",
        check=augmentation_problem, cli=Option(metavar="CHANGE", nargs="+"),
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

    def __post_init__(self) -> None:
        replace_numpy(self)

    def given(self, scope: str) -> dict[str, Any]:
        """Return the settings of a scope that differ from their defaults.

        Args:
            scope: ``"reading"`` or ``"opening"``.
        """
        defaults = defaults_of(SharedSettings)
        named = [f.name for f in dataclasses.fields(SharedSettings) if scope in about(f).scope]
        return {name: value for name in named if (value := getattr(self, name)) != defaults[name]}

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
