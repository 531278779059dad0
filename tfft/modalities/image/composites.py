"""Views made of several images: mosaic, MixUp and CutMix with labels that are places, such as boxes and masks.

:class:`Combination` is what a task gives to join the labels of the parts, :func:`compose` makes one view.

Implementation notes: a view with partners is a pure function of seed, position and number, like every view
(:mod:`tfft.modalities.image.augment`), so the features of a frozen backbone can be computed once for it: they are those
of the stitched image, not stitched features. The parts are made in a loop, because each iterator optimizes the graph of
its dataset anew, which takes three times as long with a copy of the decoder for each part. The layers MixUp and CutMix
of Keras 3.15 are not used, and Keras has no mosaic: MixUp joins the boxes of an image, but puts the classes of the
partner into other rows of the batch, and averages the numbers of the classes in masks; CutMix refuses boxes; both draw
from a random state that cannot go on in the middle of an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfft.errors import PlanError, join_names
from tfft.layers.preprocess import stretch_pixels
from tfft.modalities.image.augment import draw_part, draw_transform, vary_pixels, view_of
from tfft.modalities.image.transform import PixelTransform
from tfft.specs import OF_SEVERAL, Augmentation, InputSpec

PARTNERS = 3  # of a mosaic, besides the image itself
_SEVERAL = 3  # separates these random numbers from the others of a view
_EDGE = 0.2  # the point where a mosaic is divided stays that share of a side away from the edges
_LEAST = 0.5  # share of the area of an image that a part of a mosaic shows, unless crop= says another
_BETA = 32.0  # shares of MixUp are close to a half: the objects of both images must be seen
_PARTS = {"mosaic": 1 + PARTNERS, "mixup": 2, "cutmix": 2}


class Part(NamedTuple):
    """One of the images of a view.

    Attributes:
        label: Label of the image.
        transform: Transform from the image to its frame, a rectangle of the view.
        corner: Row and column of the frame's top left corner in the view, int32 [2].
        shown: Top, left, bottom, right of the pixels of the view that show this image in front of the parts before it,
            int32 [4].
        several: Whether the view has further parts, bool.
    """

    label: tf.Tensor
    transform: PixelTransform
    corner: tf.Tensor
    shown: tf.Tensor
    several: tf.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Combination:
    """How a task joins the labels of the images in one view.

    Attributes:
        changes: Names of the combinations that its labels can follow, of :data:`tfft.specs.OF_SEVERAL`.
        place: Function from a part of a view and the size of the view, int [2], to the label of the part in the view;
            of one shape for all parts.
        dtype: Type of the labels of parts.
        join: Function from the labels of all parts, [parts, ...], to the label of the view; of one shape and type for
            any number of parts.
    """

    changes: tuple[str, ...]
    place: Callable[[Part, tf.Tensor], tf.Tensor]
    dtype: tf.DType
    join: Callable[[tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True, eq=False)
class PlaceLook:
    """Images as they are in a view, by their sizes alone.

    Attributes:
        fetch: Function from a position to what the methods take as an image: rows and columns, float32 [2].
        spec: Size of the views.
        changes: Augmentation.
    """

    fetch: Callable[[Any], Any]
    spec: InputSpec
    changes: Augmentation

    def whole(self, image: Any, seed: Any, view: Any) -> tuple[Any, PixelTransform]:
        """Return the pixels of a view of an image, uint8, here none, and its transform."""
        return tf.zeros([0, 0, 0], tf.uint8), draw_transform(image, self.spec, self.changes, seed, view)

    def part(self, image: Any, shape: Any, seed: Any) -> tuple[Any, PixelTransform]:
        """Return the pixels of a part of an image in a shape, int [2], here none, and its transform."""
        return tf.zeros([0, 0, 0], tf.uint8), draw_part(image, shape, _least(self.changes), self.changes.flip, seed)


class PixelLook(PlaceLook):
    """Images as they are in a view, with their pixels; ``fetch`` returns decoded images."""

    def whole(self, image: Any, seed: Any, view: Any) -> tuple[Any, PixelTransform]:
        """Return a view of an image and its transform."""
        return view_of(image, self.spec, self.changes, seed, view)

    def part(self, image: Any, shape: Any, seed: Any) -> tuple[Any, PixelTransform]:
        """Return a part of an image, mirrored and recoloured at random, and its transform."""
        _, transform = super().part(tf.cast(tf.shape(image)[:2], tf.float32), shape, seed)
        top, left, bottom, right = tf.unstack(tf.cast(transform.box, tf.int32))
        small = stretch_pixels(image[top:bottom, left:right], shape, self.spec)
        return tf.cast(vary_pixels(small, self.changes, transform.mirrored, seed), tf.uint8), transform


def check_combined(changes: Augmentation | None, combination: Combination | None) -> None:
    """Raise PlanError if labels cannot follow a combination of images.

    Args:
        changes: Augmentation, or None.
        combination: How the labels of several examples combine; None for labels that cannot.
    """
    valid = () if combination is None else combination.changes
    wrong = [] if changes is None else [name for name in OF_SEVERAL if getattr(changes, name) and name not in valid]
    if not wrong:
        return
    if valid:
        fix = f"For these labels there is {join_names(valid)}"
    else:
        fix = "To mix examples of classes, use mixup_alpha= or cutmix_alpha= of a phase"
    raise PlanError(
        f"augment={join_names(map(repr, wrong))} combines several images, which these labels cannot. {fix}."
    )


@tf.autograph.experimental.do_not_convert
def compose(
    look: PlaceLook, combination: Combination | None, labels: tf.Tensor, changes: Augmentation, spec: InputSpec
) -> Callable[[Any, Any, Any, Any], tuple[Any, Any]]:
    """Return a function that makes one view, perhaps of several images; see :data:`tfft.data.batches.MakeView`.

    View 0 is the image itself. Of the others, shares of ``changes.mosaic``, ``changes.mixup`` and ``changes.cutmix``
    have partners, drawn from all images; the rest is as without them.

    - Mosaic: the view is divided at a random point, and each quarter shows a part of another image (Bochkovskiy et al.,
      "YOLOv4: Optimal speed and accuracy of object detection", 2020). As in the authors' program, the point is in the
      middle 60 % of each side. A part has about the shape of its quarter, and at least half of the area of its image or
      the share that ``crop`` says.
    - MixUp: the weighted mean of two views, with the objects of both (Zhang et al., "mixup: Beyond empirical risk
      minimization", 2018; for boxes Zhang et al., "Bag of freebies for training object detection neural networks",
      2019). Boxes have no weights, so the share is drawn from Beta(32, 32), close to a half.
    - CutMix: a rectangle of a second view, in its place, over the first (Yun et al., "CutMix", 2019; for masks French
      et al., "Semi-supervised semantic segmentation needs strong, varied perturbations", 2020).

    Args:
        look: Images, with or without their pixels.
        combination: Function that joins labels; None returns the label of the first image.
        labels: Labels of all images, by position.
        changes: Augmentation.
        spec: Size of the views.

    Returns:
        Function that returns (pixels of the view, or the position without pixels; label).
    """
    names = [name for name in OF_SEVERAL if getattr(changes, name)]
    limits = np.cumsum([float(getattr(changes, name)) for name in names]).astype(np.float32)
    parts = tf.constant([*(_PARTS[name] for name in names), 1])
    partners_of, size = _partners(len(labels)), tf.constant(spec.image_size, tf.int32)
    has_pixels = isinstance(look, PixelLook)

    @tf.autograph.experimental.do_not_convert
    def make(position: Any, label: Any, seed: Any, view: Any) -> tuple[Any, Any]:
        own, position = _folded(_folded(seed, view), _SEVERAL), tf.cast(position, tf.int64)
        which = tf.reduce_sum(tf.cast(tf.random.stateless_uniform([], own) >= limits, tf.int32))
        which = tf.where(view > 0, which, len(names))  # len(names) is the image alone
        kinds = {name: tf.constant(False) for name in OF_SEVERAL} | {n: which == k for k, n in enumerate(names)}
        sources = partners_of(position, kinds["mosaic"], _folded(own, 0))
        frames, shown = _frames(size, kinds, _folded(own, 1))

        def one(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            seeds = tf.where((at == 0) & ~kinds["mosaic"], seed, _folded(own, 2 + at))
            shape, image = frames[at, 2:] - frames[at, :2], look.fetch(sources[at])

            def quarter() -> tuple[Any, ...]:
                pixels, transform = look.part(image, shape, seeds)
                return pixels, transform.box, transform.mirrored

            def whole() -> tuple[Any, ...]:
                pixels, transform = look.whole(image, seeds, view)
                return pixels, transform.box, transform.mirrored

            pixels, box, mirrored = tf.cond(kinds["mosaic"], quarter, whole) if "mosaic" in names else whole()
            part = Part(
                labels[sources[at]], PixelTransform(box, mirrored, shape), frames[at, :2], shown[at], which < len(names)
            )
            placed = tf.zeros([0]) if combination is None else combination.place(part, size)
            if has_pixels:
                beyond = tf.stack([frames[at, :2], size - frames[at, 2:]], axis=1)
                pixels = tf.pad(pixels, tf.pad(beyond, [[0, 1], [0, 0]]))
            return pixels, placed

        kind = tf.float32 if combination is None else combination.dtype
        pixels, placed = tf.map_fn(one, tf.range(parts[which]), fn_output_signature=(tf.uint8, kind))
        joined = label if combination is None else combination.join(placed)
        if not has_pixels:
            return position, joined
        pixels = tf.ensure_shape(pixels, [None, *spec.image_size, spec.channels])
        return _joined_pixels(pixels, kinds, shown[1], _folded(own, 6)), joined

    return make


def _folded(seed: Any, number: Any) -> Any:
    """Return a seed for one of several uses, int64 [2]."""
    return tf.cast(tf.random.fold_in(seed, number), tf.int64)


def _partners(count: int) -> Callable[[Any, Any, Any], Any]:
    """Return a function that draws the images of a view, int64 [4], the one at a position first.

    Those of a mosaic are different, since there is one from each third of the others; else the second is any other.
    """
    edges = np.arange(PARTNERS + 1) * (count - 1) // PARTNERS
    widths = np.diff(edges)

    def draw(position: Any, mosaic: Any, seed: Any) -> Any:
        numbers = tf.random.stateless_uniform([PARTNERS], seed)

        def below(limits: np.ndarray) -> Any:
            chosen = tf.cast(numbers * limits.astype(np.float32), tf.int64)
            return tf.minimum(chosen, np.maximum(limits - 1, 0))

        offsets = 1 + tf.where(mosaic, edges[:-1] + below(widths), below(np.full(PARTNERS, count - 1)))
        return tf.concat([position[None], (position + offsets) % count], 0)

    return draw


def _frames(size: Any, kinds: dict[str, Any], seed: Any) -> tuple[Any, Any]:
    """Return the rectangles of four parts, and those that show them: top, left, bottom, right, int32 [4, 4] each."""
    numbers, sides = tf.random.stateless_uniform([3], seed), tf.cast(size, tf.float32)
    middle = tf.cast(tf.round((_EDGE + (1 - 2 * _EDGE) * numbers[:2]) * sides), tf.int32)
    middle = tf.clip_by_value(middle, 1, tf.maximum(size - 1, 1))
    (top, left), (bottom, right) = tf.unstack(middle), tf.unstack(size)
    quarters = tf.stack([[0, 0, top, left], [0, left, top, right], [top, 0, bottom, left], [top, left, bottom, right]])
    whole = tf.repeat(tf.concat([[0, 0], size], 0)[None], 1 + PARTNERS, axis=0)
    half = tf.sqrt(numbers[2]) / 2  # the share of the area is uniform, and the centre is anywhere
    low, high = tf.maximum(numbers[:2] - half, 0.0) * sides, tf.minimum(numbers[:2] + half, 1.0) * sides
    over = tf.cast(tf.round(tf.concat([low, high], 0)), tf.int32)
    frames = tf.where(kinds["mosaic"], quarters, whole)
    return frames, tf.where(kinds["cutmix"], tf.tensor_scatter_nd_update(frames, [[1]], over[None]), frames)


def _joined_pixels(pixels: Any, kinds: dict[str, Any], over: Any, seed: Any) -> Any:
    """Return the pixels of a view, uint8 [H, W, C], from those of its parts, [parts, H, W, C], 0 around each frame."""
    first, last = pixels[0], pixels[-1]

    def mixup() -> Any:
        gammas = tf.random.stateless_gamma([2], seed, alpha=_BETA)
        share = gammas[0] / tf.reduce_sum(gammas)
        return tf.cast(tf.round(tf.cast(first, tf.float32) * share + tf.cast(last, tf.float32) * (1 - share)), tf.uint8)

    def others() -> Any:
        inside = within(over, tf.shape(first)[:2])[..., None]
        return tf.where(kinds["cutmix"], tf.where(inside, last, first), tf.reduce_max(pixels, axis=0))

    return tf.cond(kinds["mixup"], mixup, others)


def within(box: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Return which pixels are in a rectangle: bool [rows, columns] for top, left, bottom, right, int32 [4]."""
    rows, columns = tf.range(size[0]), tf.range(size[1])
    return ((rows >= box[0]) & (rows < box[2]))[:, None] & ((columns >= box[1]) & (columns < box[3]))[None]


def _least(changes: Augmentation) -> float:
    return changes.crop if changes.crop < 1 else _LEAST
