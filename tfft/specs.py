"""Plain descriptions that travel between the parts of tfft. This module never imports TensorFlow.

:class:`InputSpec` says what pixels a backbone expects and travels with it into data, model and
export, so that preprocessing cannot disagree between training and serving. :class:`Preset` is one
row of the catalog. :class:`Phase` and :class:`Plan` hold every setting of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from tfft.errors import PlanError, did_you_mean, listed

ResizeMode = Literal["stretch", "crop", "pad"]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a backbone expects of one image; pixels arrive as uint8 in 0 to 255 and are mapped to it.

    A pixel ``p`` becomes ``low + p / 255 * (high - low)`` with ``value_range = (low, high)``, then
    ``(value - mean) / std`` where those are given.

    Attributes:
        height: rows in pixels.
        width: columns in pixels.
        channels: 3 for colour, 1 for grey.
        value_range: what black and white become.
        mean: per-channel mean that is subtracted after the range is mapped, or None.
        std: per-channel divisor after that, or None.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        resize: what to do with another aspect ratio: cut to it around the centre (``"crop"``, as most
            networks were evaluated), ``"stretch"`` the whole picture, or ``"pad"`` it with black.
        flexible: True when the backbone accepts other sizes than ``height`` x ``width``.
        source: where the numbers come from, in words: shown to the user.
    """

    height: int = 224
    width: int = 224
    channels: int = 3
    value_range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str = "bilinear"
    resize: ResizeMode = "crop"
    flexible: bool = False
    source: str = "assumed: the TF Hub convention for images, [0, 1]"

    def __post_init__(self) -> None:
        for field in ("value_range", "mean", "std"):  # YAML and JSON give lists
            value = getattr(self, field)
            if value is not None:
                object.__setattr__(self, field, tuple(float(v) for v in value))

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Builds a spec from :meth:`to_dict`'s result."""
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class AudioSpec:
    """How a model listens: what a wave is, and how its spectrum is drawn for an image backbone.

    Attributes:
        sample_rate: samples a second.
        seconds: length of a clip; longer ones are cut off, shorter ones followed by silence.
        window: length of the pieces whose spectrum is taken, in seconds.
        step: from one piece to the next, in seconds.
        bands: of the mel scale.
        lowest: frequency in Hz.
        highest: frequency in Hz; None for half of the sample rate.
        range: decibels below the loudest place of a clip that are shown; what is quieter is black. docs/audio.md tells
            how the default was chosen.
    """

    sample_rate: int = 16000
    seconds: float = 1.0
    window: float = 0.025
    step: float = 0.01
    bands: int = 64
    lowest: float = 50.0
    highest: float | None = None
    range: float = 40.0

    @property
    def samples(self) -> int:
        """Length of a clip in samples."""
        return round(self.seconds * self.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AudioSpec:
        """Builds a spec from :meth:`to_dict`'s result."""
        return cls(**values)


Pooling = Literal["cls", "mean", "last", "none"]


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """What a backbone does with text, besides its tokenizer.

    Attributes:
        max_length: most pieces of one example that the backbone can take, those that mark its ends included.
        pooling: how the features of all pieces become one: that of the first piece (``"cls"``), their ``"mean"``,
            that of the ``"last"`` piece (for decoders), or ``"none"`` where the backbone gives one already.
        source: where this comes from, in words: shown to the user.
    """

    max_length: int = 512
    pooling: Pooling = "mean"
    source: str = "assumed"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextSpec:
        """Builds a spec from :meth:`to_dict`'s result."""
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How pictures or recordings are varied while training.

    Attributes:
        flip: True mirrors half of them, left and right. Not for digits, letters and other things that mean
            something else in a mirror.
        crop: least share of the area that a random crop keeps; 1 for no crops.
        rand: strength of RandAugment, 0 to 1; 0 for none.
        shift: of recordings: share of the clip that one begins earlier or later at most; 0 for none.
        mask: of recordings: share of the time, and of the mel scale, that is silenced at most; 0 for none.
    """

    flip: bool = False
    crop: float = 1.0
    rand: float = 0.0
    shift: float = 0.0
    mask: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Preset:
    """One row of the catalog: a pretrained model under a short name, as data only.

    Attributes:
        name: the short name, as in ``tfft.load_backbone(name)``.
        handle: pinned address: a TF Hub or Kaggle handle with its version, or ``"pip:<package>"``.
        kind: ``"image"`` or ``"text"``.
        description: one line.
        parameters: number of parameters in millions.
        licence: SPDX name of the weights' licence.
        paper: authors, title, year.
        input: pixels it expects; None for text.
        dimension: width of its feature vector.
        preprocessor: handle of the matching text preprocessor, or None.
    """

    name: str
    handle: str
    kind: Literal["image", "text"]
    description: str
    parameters: float
    licence: str
    paper: str
    input: InputSpec | None = None
    dimension: int | None = None
    preprocessor: str | None = None


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training with a fixed trainable set.

    Attributes:
        name: ``"frozen"``, ``"fine-tune"``, ... unique within a plan.
        unfreeze: which backbone blocks train, as :func:`tfft.unfreeze` takes it.
        epochs: passes over the training data.
        learning_rate: peak rate.
        warmup: share of the steps in which the rate rises, where the schedule has a rise.
        patience: epochs without a better validation loss before the phase ends early; None: never.
        solve: True puts the best linear head for the frozen backbone in place instead of training one (the
            linear probe); ``"prototypes"`` puts the nearest-class-mean head there. ``unfreeze`` is ``"none"``
            then, and ``epochs`` and ``learning_rate`` are not used.
        schedule: how the rate goes over the steps of the phase: ``"cosine"`` (linear rise, then a cosine to
            nearly 0), ``"linear"``, ``"constant"``, ``"one_cycle"``, ``"slanted"`` (triangular), ``"steps"`` (a
            tenth at 2/5, 3/5 and 4/5) or ``"plateau"`` (a tenth whenever the validation loss stands still).
        optimizer: name of a Keras optimizer.
        weight_decay: decoupled, as AdamW has it; biases and normalisation are spared.
        layer_decay: factor of the rate from each block to the one below it; 1 for one rate.
        rates: factors of the rate for single blocks, by name or pattern, on top of ``layer_decay``.
        l2_sp: strength of the pull of backbone weights towards the pretrained ones; not with ``weight_decay``.
        mixup: alpha of the Beta distribution that pairs of examples are mixed with; 0 for no mixing.
        cutmix: the same, of patches.
        ema: decay of an exponential moving average of the weights, which is what the phase gives; 0 for none.
        swa: share of the phase, at its end, whose weights are averaged; 0 for none. It is made for a rate that
            stays up there, as with ``schedule="constant"``: where the rate falls to 0, there is little to average.
        interpolate: True looks for the best point between the first and the last weights of the phase
            (WiSE-FT) on the validation examples.
        surgical: of the blocks that ``unfreeze`` names, train only so many: those whose gradients are largest
            for the size of their weights when the phase begins; 0 for all.
        reinitialize: number of last blocks that start from new weights; :func:`tfft.finetune` lets BatchNorm
            statistics follow the data then (``batch_norm="train"``), since those of the old weights would be wrong.
        lora: rank of the low-rank updates that train in place of the kernels of the blocks; 0 for the kernels.
        clip_norm: largest norm of all gradients together; None for no limit.
        contrastive: tunes the features instead of the predictions, for few examples: all examples of a batch are
            compared with each other, and the cosine of their features is to be 1 within a class and 0 between classes
            (SetFit). The number is how often an example is shown in an epoch; 0 for labels as usual. The head stays
            as it is, so a phase that solves it has to follow.
    """

    name: str
    unfreeze: int | float | str | list[str]
    epochs: int
    learning_rate: float
    warmup: float = 0.1
    patience: int | None = None
    solve: bool | Literal["prototypes"] = False
    schedule: str = "cosine"
    optimizer: str = "adam"
    weight_decay: float = 0.0
    layer_decay: float = 1.0
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    l2_sp: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    ema: float = 0.0
    swa: float = 0.0
    interpolate: bool = False
    surgical: int = 0
    reinitialize: int = 0
    lora: int = 0
    clip_norm: float | None = None
    contrastive: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON; what is switched off is left out."""
        needed = list(self.__dataclass_fields__)[: list(self.__dataclass_fields__).index("weight_decay")]
        values = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            value = dict(value) if isinstance(value, Mapping) else value
            default = {} if field.name == "rates" else field.default
            if field.name in needed or value != default:
                values[field.name] = value
        return values


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every setting of a run, as used: written to ``plan.yaml``, and enough to repeat it.

    Attributes:
        backbone: the handle, as given.
        data: folder of the examples.
        backbone_digest: of the files that the backbone was opened from, see :func:`tfft.backbones.digest`; a run
            that repeats the plan with the same handle needs the same. None where it has no files.
        name: of the plan, such as ``"lp_ft"``; see :mod:`tfft.plans`.
        task: name of the head: ``"classification"`` (the only one a folder of classes can mean), ``"multilabel"``,
            ``"regression"`` or ``"token_classification"``, which older plans call ``"tokens"``.
        text: column of a table that holds the texts, or two for pairs; None for data without columns.
        image: column of a table that holds the paths of images; None for data without.
        audio: column of a table that holds the paths of recordings; None for data without.
        label: column that holds the labels.
        sample_rate: of recordings, in samples a second; None for that of the files.
        seconds: of recordings that are heard; None for what most of them need.
        separator: between the labels of one example, where it has several.
        max_length: most pieces of a text that are read; None for the backbone's own choice.
        pooling: how the features of all pieces become one; None for the backbone's own choice.
        preprocessor: handle of what makes an encoder's inputs of texts, or None.
        image_size: height and width in pixels.
        batch_size: examples per step.
        part_size: examples that are computed at a time, where whole batches do not fit into memory; None for all.
        seed: of the split, the order, the new weights and dropout.
        deterministic: True makes TensorFlow use only operations that repeat bit for bit.
        validation: share of each class that is held out where the data has no ``val`` folder, or the file of a split.
        group: what must not be on both sides of the split, or None; see :func:`tfft.data.load`.
        dropout: share of features dropped before the head.
        l2: weight decay of the head's kernel; ``"auto"``: what cross-validation finds where a phase solves the
            head, else 0.
        label_smoothing: share of the target spread over all classes.
        loss: ``"cross_entropy"``, or ``"focal"`` (which gives less weight to examples that are right already).
        class_weight: ``"balanced"``, weights by class name, or None for all the same.
        sampling: ``"balanced"`` draws all classes equally often, None each example once in an epoch.
        batch_norm: ``"fixed"`` (statistics stay) or ``"train"`` (they follow the new data).
        input_range: overrides the pixel range of the backbone, or None.
        output: which output of a backbone with several is used, or None.
        resize: overrides how images of another aspect ratio are fitted, or None.
        augment: how pictures are varied while blocks train, or None.
        views: variations of each picture, itself included; they are used in turn, one in each epoch.
        trust: True opens a SavedModel although the scan found unusual operations.
        strict: True makes an unreadable file an error.
        phases: in order.
        reasons: why each value that was left to tfft was chosen, by name.
        versions: of tfft, TensorFlow and Keras at the time of the run.
    """

    backbone: str
    data: str
    backbone_digest: str | None = None
    name: str = ""
    task: str = "classification"
    text: str | int | tuple[str | int, ...] | None = None
    image: str | int | None = None
    audio: str | int | None = None
    label: str | int | None = None
    sample_rate: int | None = None
    seconds: float | None = None
    separator: str | None = None
    max_length: int | None = None
    pooling: str | None = None
    preprocessor: str | None = None
    image_size: tuple[int, int] = (224, 224)
    batch_size: int = 32
    part_size: int | None = None
    seed: int = 0
    deterministic: bool = False
    validation: float | str = 0.2
    group: str | int | None = None
    dropout: float = 0.2
    l2: float | Literal["auto"] = "auto"
    label_smoothing: float = 0.0
    loss: str = "cross_entropy"
    class_weight: str | Mapping[str, float] | None = None
    sampling: str | None = None
    batch_norm: str = "fixed"
    input_range: tuple[float, float] | None = None
    output: str | None = None
    resize: ResizeMode | None = None
    augment: Augmentation | None = None
    views: int = 1
    trust: bool = False
    strict: bool = False
    phases: tuple[Phase, ...] = ()
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values, fit for YAML and JSON."""
        values = dataclasses.asdict(self)
        values["class_weight"] = (
            dict(self.class_weight) if isinstance(self.class_weight, Mapping) else self.class_weight
        )
        values["image_size"] = list(self.image_size)
        values["text"] = list(self.text) if isinstance(self.text, tuple) else self.text
        values["augment"] = None if self.augment is None else self.augment.to_dict()
        values["input_range"] = None if self.input_range is None else list(self.input_range)
        values["phases"] = [phase.to_dict() for phase in self.phases]
        values["reasons"], values["versions"] = dict(self.reasons), dict(self.versions)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """Builds a plan from :meth:`to_dict`'s result.

        Raises:
            PlanError: for a name that no setting has, with the nearest one.
        """
        values = dict(values)
        _check_names(cls, values, "plan")
        phases = []
        for phase in values.pop("phases", ()):
            _check_names(Phase, phase, f"phase {phase.get('name', '')!r}")
            phases.append(Phase(**phase))
        for field in ("image_size", "input_range", "text"):
            if isinstance(values.get(field), (list, tuple)):
                values[field] = tuple(values[field])
        if isinstance(values.get("augment"), Mapping):
            _check_names(Augmentation, values["augment"], "plan's augment")
            values["augment"] = Augmentation(**values["augment"])
        return cls(phases=tuple(phases), **values)


def _check_names(cls: type, values: Mapping[str, Any], where: str) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    unknown = [name for name in values if name not in names]
    if unknown:
        hints = "".join(did_you_mean(name, names) for name in unknown)
        raise PlanError(f"Unknown setting {listed(unknown)} in the {where}.{hints} Valid: {listed(names, limit=40)}.")
