"""Statistics on which the choice of a plan depends: :class:`DatasetStats`."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class DatasetStats:
    """Statistics of the examples and the backbone from which :func:`recommend` chooses a plan.

    Attributes:
        examples: Number of training examples.
        classes: Number of classes.
        blocks: Number of blocks in the backbone; 0 if nothing in it can train.
        image_size: Height and width that the backbone was trained at; None for a backbone without images.
        flexible: Whether the backbone accepts other sizes.
        image_side: Median of the shorter image side in pixels; None if unknown.
        image_shape: Median height and width of the images in pixels; None if unknown.
        cached: Whether the frozen part runs once per view of an example, instead of in every epoch.
        smallest: Number of training examples in the smallest class; None if unknown.
        largest: Number of training examples in the largest class; None if unknown.
        texts: Whether the examples are texts.
        fit: Cross-validated accuracy of a linear head on the features of the backbone, scaled so that the most common
            class is 0 and a perfect score 1; None if unknown.
        fit_high: Upper end of the 95 % interval of ``fit``.
        pretrained: Whether the weights of the backbone were trained before.
    """

    examples: int
    classes: int
    blocks: int
    image_size: tuple[int, int] | None = None
    flexible: bool = False
    image_side: float | None = None
    image_shape: tuple[float, float] | None = None
    cached: bool = True
    smallest: int | None = None
    largest: int | None = None
    texts: bool = False
    fit: float | None = None
    fit_high: float | None = None
    pretrained: bool = True
