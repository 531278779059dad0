"""Specifications of model inputs and augmentations. This module never imports TensorFlow.

:class:`InputSpec` describes the pixels that a backbone expects; data, model and export share it, so that preprocessing
is the same in training and serving. :class:`Preset` is one row of the catalog. :func:`augmentation` parses names of
random changes, as in ``augment="flip"``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from tfft.errors import PlanError, did_you_mean, join_names, raise_problems

ResizeMode = Literal["stretch", "crop", "pad"]


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """Image input of a backbone, to which uint8 pixels in 0 to 255 are mapped.

    A pixel ``p`` becomes ``low + p / 255 * (high - low)`` with ``value_range = (low, high)``, then
    ``(value - mean) / std`` if those are given.

    Attributes:
        height: Height in pixels.
        width: Width in pixels.
        channels: 3 for RGB, 1 for grayscale.
        value_range: Values of black and white.
        mean: Per-channel mean, subtracted after the range is mapped; None for none.
        std: Per-channel divisor after that; None for none.
        interpolation: ``"bilinear"``, ``"bicubic"``, ``"nearest"`` or ``"area"``.
        resize: Fit for another aspect ratio: ``"crop"`` the centre (as most networks were evaluated), ``"stretch"`` the
            whole image, or ``"pad"`` it with black.
        flexible: Whether the backbone accepts sizes other than ``height`` x ``width``.
        source: Origin of the numbers, in words; shown to the user.
        downscaled_decoding: Whether JPEG files that are much larger than needed are decoded at a half, a quarter or an
            eighth of their size, see :func:`tfft.modalities.image.decode.decode_image`.
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
    downscaled_decoding: bool = False

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
        """Return plain values for YAML and JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """Build a spec from the result of :meth:`to_dict`."""
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class AudioSpec:
    """Audio input of a model: the waveform, and its spectrogram for an image backbone.

    Attributes:
        sample_rate: Samples per second.
        seconds: Clip length; longer recordings are cut off, shorter ones are padded with silence.
        window: Length of the analysis window in seconds.
        step: Hop between windows in seconds.
        bands: Number of mel bands.
        lowest: Lowest frequency in Hz.
        highest: Highest frequency in Hz; None for half of the sample rate.
        range: Dynamic range in decibels below the loudest point of a clip; quieter points are black. docs/audio.md
            explains the default.
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
        """Clip length in samples."""
        return round(self.seconds * self.sample_rate)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AudioSpec:
        """Build a spec from the result of :meth:`to_dict`."""
        return cls(**values)


Pooling = Literal["cls", "mean", "last", "none"]


@dataclasses.dataclass(frozen=True)
class TextSpec:
    """Text input of a backbone, besides its tokenizer.

    Attributes:
        max_length: Maximum sequence length of the backbone in tokens, special tokens included.
        pooling: Pooling of token features into one vector: the first token (``"cls"``), the ``"mean"``, the ``"last"``
            token (for decoders), or ``"none"`` if the backbone returns one vector.
        source: Origin of the values, in words; shown to the user.
    """

    max_length: int = 512
    pooling: Pooling = "mean"
    source: str = "assumed"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TextSpec:
        """Build a spec from the result of :meth:`to_dict`."""
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to images or recordings during training.

    Attributes:
        flip: Whether to mirror half of the images horizontally. Not for digits, letters and other images with a
            different meaning when mirrored.
        crop: Minimum share of the area that a random crop keeps; 1 for no crops.
        rand: Strength of RandAugment, 0 to 1; 0 for none.
        colour: Strength of random changes of brightness, contrast, saturation and hue, 0 to 1; 0 for none.
        mosaic: For boxes and masks: share of the views that show parts of four images, 0 to 1; 0 for none.
        mixup: For boxes: share of the views that are the mean of two images, 0 to 1; 0 for none.
        cutmix: For masks: share of the views with a rectangle of another image in them, 0 to 1; 0 for none.
        shift: For recordings: maximum shift as a share of the clip; 0 for none.
        mask: For recordings: maximum share of the time, and of the mel scale, to silence; 0 for none.
    """

    flip: bool = False
    crop: float = 1.0
    rand: float = 0.0
    shift: float = 0.0
    mask: float = 0.0
    colour: float = 0.0
    mosaic: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for YAML and JSON."""
        values = dataclasses.asdict(self)
        for name in ("colour", *OF_SEVERAL):  # features and plans of earlier versions do not have them, and stay valid
            if not values[name]:
                del values[name]
        return values


OF_SEVERAL = ("mosaic", "mixup", "cutmix")  # combine several images
OF_PICTURES, OF_SOUNDS = ("flip", "crop", "rand", "colour", *OF_SEVERAL), ("shift", "mask")
CHANGES = OF_PICTURES + OF_SOUNDS
# Strength of a change that is named without a number. Crops keep half of the area: fine-tuning needs weaker crops than
# the 0.08 of training from scratch.
_USUAL: Mapping[str, Any] = {
    "flip": True, "crop": 0.5, "rand": 0.5, "colour": 0.4, "mosaic": 0.5, "mixup": 0.15, "cutmix": 0.5, "shift": 0.1,
    "mask": 0.2,
}  # fmt: skip


def augmentation(
    changes: Augmentation | str | Sequence[str] | Mapping[str, Any] | None,
) -> Augmentation | None:
    """Return the augmentation for names of random changes.

    Args:
        changes: ``"flip"`` (horizontal mirroring), ``"crop"`` (at least half of the image), ``"rand"`` (RandAugment at
            strength 0.5), ``"colour"`` (brightness, contrast, saturation and hue at strength 0.4); for images with
            boxes or masks ``"mosaic"`` (half of the views show four images), for boxes ``"mixup"`` (0.15 of the views
            are the mean of two), for masks ``"cutmix"`` (half of the views have a rectangle of another image); for
            recordings ``"shift"`` (by up to a tenth of the clip) and ``"mask"`` (silence up to a fifth of the time and
            of the mel scale); ``"crop=0.7"`` or ``"rand=0.3"`` for another minimum share or strength, a list of
            several, an :class:`Augmentation` or its ``to_dict()``; None for none.

    Returns:
        The augmentation, or None if nothing changes.

    Raises:
        PlanError: For an unknown name, with the nearest valid one, or a share out of range.

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
        problems = [f"{name!r} is unknown.{did_you_mean(str(name), CHANGES)}" for name in given if name not in CHANGES]
        raise_problems(PlanError, f"augment takes {join_names(CHANGES)}", problems)
        values: dict[str, Any] = {name: _USUAL[name] if value is None else value for name, value in given.items()}
        found = Augmentation(**values)
    raise_problems(PlanError, "The augmentation cannot be used", list(_problems(found)))
    return found if changes_of(found) else None


# What the number of each change means, and its range.
_RANGES: Mapping[str, tuple[str, str, Callable[[float], bool]]] = {
    "crop": ("minimum share of the area", "above 0 and at most 1", lambda value: 0 < value <= 1),
    "rand": ("strength of RandAugment", "in 0 to 1", lambda value: 0 <= value <= 1),
    "colour": ("strength of changes of colour", "in 0 to 1", lambda value: 0 <= value <= 1),
    **dict.fromkeys(OF_SEVERAL, ("share of the views", "in 0 to 1", lambda value: 0 <= value <= 1)),
    **dict.fromkeys(OF_SOUNDS, ("share of the clip", "of at least 0 and below 1", lambda value: 0 <= value < 1)),
}


def _problems(found: Augmentation) -> Iterator[str]:
    wrong = set()
    for name, (what, where, is_within) in _RANGES.items():
        value = getattr(found, name)
        if not (isinstance(value, (int, float)) and is_within(value)):
            wrong.add(name)
            yield f"Expected {name} ({what}) {where}. Received: {value!r}"
    if wrong.isdisjoint(OF_SEVERAL) and (total := sum(getattr(found, name) for name in OF_SEVERAL)) > 1:
        yield f"Expected {join_names(OF_SEVERAL)} (shares of the views) of at most 1 together. Received: {total:g}"


def changes_of(found: Augmentation) -> list[str]:
    """Return the names of the changes in an augmentation."""
    return [name for name in CHANGES if getattr(found, name) != getattr(Augmentation, name)]


def check_kind(found: Augmentation, *, sounds: bool) -> None:
    """Raise PlanError if an augmentation holds a change that does not apply to images, or to recordings.

    Args:
        found: Augmentation from :func:`augmentation`.
        sounds: True for recordings, False for images.
    """
    valid, what = (OF_SOUNDS, "recordings") if sounds else (OF_PICTURES, "images")
    wrong = [name for name in changes_of(found) if name not in valid]
    if wrong:
        raise PlanError(f"augment={join_names(wrong)} does not apply to {what}. Expected: {join_names(valid)}.")


def _named(text: str) -> tuple[str, float | None]:
    """``"crop=0.7"`` as name and number."""
    name, equals, value = str(text).partition("=")
    if not equals:
        return name, None
    try:
        return name, float(value)
    except ValueError as error:
        raise PlanError(f"augment expects numbers, such as crop=0.7, received {text!r}.") from error


@dataclasses.dataclass(frozen=True)
class Preset:
    """One row of the catalog: a pretrained model under a short name, as data only.

    Attributes:
        name: The short name, as in ``tfft.load_backbone(name)``.
        handle: Pinned address: a TF Hub or Kaggle handle with its version, or ``"pip:<package>"``.
        kind: ``"image"`` or ``"text"``.
        description: One line.
        parameters: Number of parameters in millions.
        licence: SPDX name of the weights' licence.
        paper: Authors, title, year.
        input: Pixels it expects; None for text.
        dimension: Width of its feature vector.
        preprocessor: Handle of the matching text preprocessor, or None.
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
