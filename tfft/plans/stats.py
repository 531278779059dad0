"""What the choice of a plan depends on: :class:`DatasetStats`, numbers about the examples and the backbone."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DatasetStats:
    """Numbers about the examples and the backbone from which :func:`recommend` chooses a plan.

    Attributes:
        examples: number of training examples.
        classes: number of classes.
        blocks: number of blocks in the backbone; 0 if nothing in it can train.
        image_size: height and width for which the backbone was made; None for a backbone without images.
        flexible: whether the backbone accepts other sizes.
        image_side: median of the shorter image side in pixels; None if unknown.
        cached: whether the frozen part runs once for each view of an example, instead of in every epoch.
        smallest: number of training examples in the smallest class; None if unknown.
        largest: number of training examples in the largest class; None if unknown.
        texts: whether the examples are texts.
        fit: how well the features of the backbone separate the classes: cross-validated accuracy of a linear head on
            them, between that of the most common class (0) and all right (1); None if unknown.
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
