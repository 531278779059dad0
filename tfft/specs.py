"""Plain descriptions that travel between the parts of tfft. This module never imports TensorFlow.

:class:`InputSpec` says what pixels a backbone expects and travels with it into data, model and
export, so that preprocessing cannot disagree between training and serving. :class:`Preset` is one
row of the catalog. :func:`augmentation` reads the names of random changes, as in ``augment="flip"``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tfft.errors import PlanError, did_you_mean, join_names, raise_problems

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


OF_PICTURES, OF_SOUNDS = ("flip", "crop", "rand"), ("shift", "mask")
CHANGES = OF_PICTURES + OF_SOUNDS
# The strength of a change that is named without a number. Crops keep half of the area: fine-tuning needs less than the
# 0.08 of training from scratch.
_USUAL: Mapping[str, Any] = {"flip": True, "crop": 0.5, "rand": 0.5, "shift": 0.1, "mask": 0.2}


def augmentation(
    changes: Augmentation | str | Sequence[str] | Mapping[str, Any] | None,
) -> Augmentation | None:
    """Return the augmentation for names of random changes.

    Args:
        changes: ``"flip"`` (left and right change places), ``"crop"`` (a part of at least half of the image),
            ``"rand"`` (RandAugment at strength 0.5); for recordings ``"shift"`` (by up to a tenth of the clip) and
            ``"mask"`` (up to a fifth of the time and of the mel scale is silenced); ``"crop=0.7"`` or ``"rand=0.3"``
            for another least share or strength, several in a list, an :class:`Augmentation` or its ``to_dict()``; None
            for none.

    Returns:
        The augmentation, or None where nothing changes.

    Raises:
        PlanError: for an unknown name, with the nearest one, or a share out of range.

    Example:
        >>> augmentation(["flip", "crop"])
        Augmentation(flip=True, crop=0.5)
    """
    if changes is None or isinstance(changes, Augmentation):
        found = changes or Augmentation()
    elif isinstance(changes, Mapping):
        found = Augmentation(**changes)
    else:
        given = dict(_named(name) for name in ([changes] if isinstance(changes, str) else changes))
        problems = [
            f"{name!r} is not known.{did_you_mean(str(name), CHANGES)}" for name in given if name not in CHANGES
        ]
        raise_problems(PlanError, f"augment takes {join_names(CHANGES)}", problems)
        values: dict[str, Any] = {name: _USUAL[name] if value is None else value for name, value in given.items()}
        found = Augmentation(**values)
    problems = []
    if not (isinstance(found.crop, (int, float)) and 0 < found.crop <= 1):
        problems.append(f"crop is the least share of the picture that stays, over 0 and at most 1, got {found.crop!r}")
    if not (isinstance(found.rand, (int, float)) and 0 <= found.rand <= 1):
        problems.append(f"rand is the strength of RandAugment, 0 to 1, got {found.rand!r}")
    for name in OF_SOUNDS:
        value = getattr(found, name)
        if not (isinstance(value, (int, float)) and 0 <= value < 1):
            problems.append(f"{name} is a share of the clip, 0 or more and below 1, got {value!r}")
    raise_problems(PlanError, "The examples cannot be varied", problems)
    return found if changes_of(found) else None


def changes_of(found: Augmentation) -> list[str]:
    """Return the names of the changes in an augmentation."""
    return [name for name in CHANGES if getattr(found, name) != getattr(Augmentation, name)]


def check_kind(found: Augmentation, *, sounds: bool) -> None:
    """Raise PlanError if an augmentation holds a change that has no meaning for images, or for recordings.

    Args:
        found: from :func:`augmentation`.
        sounds: True for recordings, False for images.
    """
    valid, what = (OF_SOUNDS, "recordings") if sounds else (OF_PICTURES, "pictures")
    wrong = [name for name in changes_of(found) if name not in valid]
    if wrong:
        raise PlanError(f"augment={join_names(wrong)} cannot vary {what}. For {what} there is {join_names(valid)}.")


def _named(text: str) -> tuple[str, float | None]:
    """``"crop=0.7"`` as name and number."""
    name, equals, value = str(text).partition("=")
    if not equals:
        return name, None
    try:
        return name, float(value)
    except ValueError as error:
        raise PlanError(f"augment takes numbers, such as crop=0.7, got {text!r}.") from error


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
