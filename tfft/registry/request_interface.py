"""What a person asks a served model: fields of a page (:class:`PageInput`), parts to leave out (:class:`Parts`)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np


@dataclasses.dataclass(frozen=True)
class PageInput:
    """Field of a page for trying a model.

    Attributes:
        widget: What is put in: ``"text"`` is a text; all others are files.
        label: Name of the field.
    """

    widget: Literal["image", "audio", "text", "file"]
    label: str


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """Parts of an example, each of which can be left out, for explanations.

    Attributes:
        names: Name of each part, such as a word.
        whole: The example, as the signature of a served model takes it.
        without: The example without each part, likewise.
        picture: Image of the example, uint8 [H, W, 3], which the parts cover; None for other modalities.
        grid: Rows and columns in which the parts cover the image, row by row.
    """

    names: tuple[str, ...]
    whole: Any
    without: tuple[Any, ...]
    picture: np.ndarray | None = None
    grid: tuple[int, int] | None = None
