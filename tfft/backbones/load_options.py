"""Options of :func:`tfft.backbones.load_backbone` in one object, and the checks that they all share.

Importing this module does not import TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tfft.errors import BackboneError, join_names, raise_problems

if TYPE_CHECKING:
    from tfft.backbones.base import Backbone

BatchNorm = Literal["fixed", "train"]
Constants = Literal["fixed", "trainable"]
TokenPooling = Literal["cls", "mean", "last", "pooled_output"]

SHARED_OPTIONS = frozenset({"batch_norm", "image_size", "input_range", "name"})
_MEANT_FOR = {
    "output": "models with several outputs",
    "signature": "SavedModels",
    "tags": "SavedModels",
    "trust": "SavedModels",
    "per_example": "SavedModels",
    "constants": "SavedModels and frozen graphs",
    "preprocessor": "SavedModels",
    "weights": "networks of keras.applications",
    "max_length": "models with a tokenizer",
    "pooling": "models with a tokenizer",
    "backbone_dropout": "SavedModels and text models; other Keras models always run their own dropout in training",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Keyword arguments of :func:`tfft.backbones.load_backbone`, which documents them, for a loader.

    The last two fields are not options: ``load_backbone`` sets them after it has checked the files.

    Attributes:
        digest: Digest of the files, or None for a format without files.
        pinned: Whether the handle was pinned to this digest.
    """

    output: str | None = None
    signature: str | None = None
    tags: Sequence[str] | None = None
    input_range: tuple[float, float] | None = None
    image_size: int | tuple[int, int] | None = None
    batch_norm: BatchNorm = "fixed"
    backbone_dropout: bool = False
    max_length: int | None = None
    pooling: TokenPooling | None = None
    preprocessor: str | os.PathLike[str] | None = None
    weights: str | os.PathLike[str] | None = None
    constants: Constants = "fixed"
    trust: bool = False
    per_example: bool = False
    name: str | None = None
    digest: str | None = None
    pinned: bool = False

    @property
    def sides(self) -> tuple[int, int] | None:
        """Height and width that were asked for, or None."""
        return None if self.image_size is None else _sides(self.image_size)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all options."""
        return tuple(field.name for field in dataclasses.fields(cls) if field.name not in ("digest", "pinned"))

    def check(self, handle: object, loader: str, taken: Collection[str]) -> None:
        """Refuse options that are out of range or that a loader does not take, all of them together.

        Args:
            handle: What is loaded, for messages.
            loader: Name of the format, for messages.
            taken: Names of the options that the loader takes besides :data:`SHARED_OPTIONS`.

        Raises:
            BackboneError: Naming every such option, and the options that the loader takes.
        """
        taken, defaults = SHARED_OPTIONS.union(taken), LoadOptions()
        refused = [
            f"{name}= is for {what}"
            for name, what in _MEANT_FOR.items()
            if name not in taken and getattr(self, name) != getattr(defaults, name)
        ]
        title = "load_backbone"
        if refused:
            title = f"{handle!r} is opened as {loader}, with the options {join_names(sorted(taken))}"
        raise_problems(BackboneError, title, [*refused, *self._out_of_range()])

    def _out_of_range(self) -> list[str]:
        problems = []
        if self.input_range is not None and not _is_range(self.input_range):
            problems.append(
                f"input_range: expected two numbers, low < high, such as (-1, 1); received {self.input_range!r}"
            )
        if self.image_size is not None and not all(_is_pixels(side) for side in _sides(self.image_size)):
            problems.append(f"image_size: expected pixels as 224 or (height, width); received {self.image_size!r}")
        if self.batch_norm not in ("fixed", "train"):
            problems.append(f"batch_norm: expected 'fixed' or 'train'; received {self.batch_norm!r}")
        return problems


def with_input_options(backbone: Backbone, options: LoadOptions) -> Backbone:
    """Return a backbone with the pixel range and the image size that were asked for.

    Raises:
        BackboneError: The backbone takes no image, or takes images of another size only.
    """
    if options.input_range is None and options.image_size is None:
        return backbone
    spec, notes = backbone.input_spec, backbone.notes
    if spec is None:
        inputs = ", ".join(f"{t.name} {tuple(t.shape)} {t.dtype}" for t in backbone.model.inputs)
        raise BackboneError(
            f"input_range= and image_size= are for backbones that take one image; {backbone.name!r} takes {inputs}."
        )
    if options.image_size is not None:
        height, width = _sides(options.image_size)
        if (height, width) != spec.image_size and not spec.flexible:
            raise BackboneError(
                f"{backbone.name!r} takes images of {spec.height} x {spec.width} pixels only; received "
                f"image_size={options.image_size!r}. Leave image_size= out: images of any size are resized to what it "
                "takes."
            )
        spec = dataclasses.replace(spec, height=height, width=width)
    if options.input_range is not None:
        low, high = map(float, options.input_range)
        source = f"given: input_range=({low:g}, {high:g})"
        spec = dataclasses.replace(spec, value_range=(low, high), mean=None, std=None, source=source)
        notes = tuple(note for note in notes if "The pixel range is" not in note)
    return dataclasses.replace(backbone, input_spec=spec, notes=notes)


def _is_range(value: Any) -> bool:
    pair = isinstance(value, (tuple, list)) and len(value) == 2
    numbers = pair and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in value)
    return numbers and value[0] < value[1]


def _sides(image_size: Any) -> tuple[Any, Any]:
    if not isinstance(image_size, (tuple, list)):
        return (image_size, image_size)
    return (image_size[0], image_size[1]) if len(image_size) == 2 else (None, None)


def _is_pixels(side: object) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side > 0
