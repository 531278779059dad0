"""Boxes of images as annotation files hold them, their labels, and how labels follow the pixels.

:class:`PictureBoxes` is what every reader makes, :func:`fit_to_image` compares it with the decoded image,
:func:`encode` makes the labels of the task, :func:`follow` moves them into a crop or a mirrored view, and
:func:`place_objects` and :func:`join_objects` join those of several images in one view.

Implementation notes: a label is float32 [M, 7], one row per object: class, top, left, bottom, right (0 to 1 of the
image), height and width of the image in pixels. The class is -1 for padding and -(2 + c) for a region with a crowd
of class c, which counts neither as an object nor as background.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import tensorflow as tf

from tfft.modalities.image.composites import Part
from tfft.modalities.image.transform import PixelTransform

PADDING = -1
LEAST_VISIBLE = 0.4  # share of an object's area in a view; an object with less is not an example of its class
_BEYOND = (3.0, 0.01)  # pixels, share of the side: a box may reach that far out of its image
_REVERSED = (
    "is reversed (bottom above top, or right before left). Are its columns in another order, or a width and a height "
    "taken for corners?"
)


class BoxedObject(NamedTuple):
    """One object of an image.

    Attributes:
        box: Top, left, bottom, right, in the unit of the image's annotation.
        name: Class name.
        place: Where the object is written: file and line, or file and number.
        crowd: Whether the box is a region with many objects of the class.
    """

    box: tuple[float, float, float, float]
    name: str
    place: str
    crowd: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class PictureBoxes:
    """The boxes of one image.

    Attributes:
        path: Path of the image.
        place: Where the image is written: a file, or a file and a line or number.
        boxes: float64 [n, 4]: top, left, bottom, right in pixels, counted from the upper left corner; in shares of the
            image if ``normalized``.
        class_names: Class name of each box.
        crowd: bool [n], whether a box is a region with many objects.
        places: Where each box is written.
        height: Height of the image in pixels as annotated; 0 if the file does not say.
        width: Width as annotated; 0 if the file does not say.
        part: ``"train"``, ``"validation"`` or ``"test"``; empty if the file does not say.
        normalized: Whether boxes are in 0 to 1.
    """

    path: str
    place: str
    boxes: np.ndarray
    class_names: tuple[str, ...]
    crowd: np.ndarray
    places: tuple[str, ...]
    height: int = 0
    width: int = 0
    part: str = ""
    normalized: bool = False

    @classmethod
    def of(cls, path: str, place: str, objects: Iterable[BoxedObject], **fields: Any) -> Self:
        """Return an image with some objects; ``fields`` are further attributes."""
        every = list(objects)
        return cls(
            path,
            place,
            np.array([one.box for one in every], np.float64).reshape(-1, 4),
            tuple(one.name for one in every),
            np.array([one.crowd for one in every], bool),
            tuple(one.place for one in every),
            **fields,
        )

    def __len__(self) -> int:
        return len(self.boxes)

    def only(self, chosen: np.ndarray) -> Self:
        """Return the image with some of its boxes, bool [n]."""
        at = np.flatnonzero(chosen)
        names, places = (tuple(column[i] for i in at) for column in (self.class_names, self.places))
        return dataclasses.replace(self, boxes=self.boxes[at], crowd=self.crowd[at], class_names=names, places=places)


@dataclasses.dataclass(frozen=True, eq=False)
class Annotations:
    """What a reader found.

    Attributes:
        form: Name of the format.
        source: File or folder, for messages.
        pictures: Images with their boxes.
        class_names: Classes in the order of the file; empty if it declares none.
        notes: Remarks about what is harmless, one sentence each.
    """

    form: str
    source: str
    pictures: tuple[PictureBoxes, ...]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Fitted(NamedTuple):
    """An image whose boxes have been compared with its pixels.

    Attributes:
        picture: Image with boxes in pixels inside of it.
        faults: One sentence per fault that would make training wrong, with its place.
        clipped: Places of boxes that reached a little out of the image.
        empty: Places of boxes without an area, which are left out.
    """

    picture: PictureBoxes
    faults: list[str]
    clipped: list[str]
    empty: list[str]


def fit_to_image(picture: PictureBoxes, height: int, width: int, turned: bool = False) -> Fitted:
    """Compare the boxes of an image with its pixels.

    A box that reaches out of the image by up to 3 pixels or 1 % of the side is clipped: rounding and counting from
    1 do that. One that reaches further, is reversed or in another unit is a fault, since it usually belongs to
    another image, size or order of columns. A box without an area marks nothing and is left out.

    Args:
        picture: Image as annotated.
        height: Height of the decoded, upright image in pixels.
        width: Width of the decoded, upright image in pixels.
        turned: Whether its EXIF orientation swapped height and width.
    """
    if wrong := _other_size(picture, height, width, turned):
        return Fitted(picture, [wrong], [], [])
    size = np.array([height, width, height, width], np.float64)
    boxes = picture.boxes * size if picture.normalized else picture.boxes
    outside = np.concatenate([-boxes[:, :2], boxes[:, 2:] - size[2:]], axis=1)
    common = np.minimum(boxes[:, 2:], size[2:]) - np.maximum(boxes[:, :2], 0)
    in_pixels = not picture.normalized and min(height, width) > 4
    in_shares = np.asarray((boxes <= 1).all(axis=1) & (boxes > 0).any(axis=1) & in_pixels)
    is_reversed = np.asarray((boxes[:, 2:] < boxes[:, :2]).any(axis=1))
    beyond = (outside > np.maximum(_BEYOND[0], _BEYOND[1] * size)).any(axis=1) | (common < 0).any(axis=1)
    faults = []
    for at in np.flatnonzero(in_shares | is_reversed | beyond):
        start = f"{picture.places[at]}: the box {_shown(picture.boxes[at])}"
        if in_shares[at]:
            faults.append(f"{start} is in shares of the image (0 to 1). Expected pixels")
        elif is_reversed[at]:
            faults.append(f"{start} {_REVERSED}")
        else:
            shape = f"the image of {height} x {width} pixels (height x width)"
            faults.append(f"{start} reaches {outside[at].max():.0f} pixels out of {shape}")
    empty = (common <= 0).any(axis=1)
    clipped = ~empty & (outside > 1e-3).any(axis=1)
    fitted = dataclasses.replace(picture, boxes=np.clip(boxes, 0, size), height=height, width=width, normalized=False)
    places = ([picture.places[at] for at in np.flatnonzero(which)] for which in (clipped, empty))
    return Fitted(fitted.only(~empty), faults, *places)


def _other_size(picture: PictureBoxes, height: int, width: int, turned: bool) -> str:
    """Return a fault if an image was annotated at another size, else nothing."""
    if not (picture.height and picture.width) or (picture.height, picture.width) == (height, width):
        return ""
    given = f"{picture.place}: {picture.path} was annotated with {picture.height} x {picture.width} pixels (height x "
    if turned and (picture.height, picture.width) == (width, height):
        return (
            f"{given}width), but its EXIF orientation turns it to {height} x {width}, as every viewer shows it: save "
            "the image upright, or annotate it as shown"
        )
    return f"{given}width), but it has {height} x {width}: annotate it again, or use the image that was annotated"


def _shown(box: np.ndarray) -> str:
    return "(top {:g}, left {:g}, bottom {:g}, right {:g})".format(*box)


def encode(pictures: Sequence[PictureBoxes], class_names: Sequence[str], sizes: np.ndarray | None = None) -> np.ndarray:
    """Return the labels of images.

    Args:
        pictures: Images with boxes in pixels.
        class_names: Classes in the order of their numbers.
        sizes: int [N, 2], height and width of each image. Defaults to those of ``pictures``.

    Returns:
        float32 [N, M, 7], M the most objects of an image and at least 1; see the module.

    Example:
        >>> encode([PictureBoxes.of("a.jpg", "a.xml", [((0, 0, 50, 50), "cat", "a.xml")], height=100, width=200)],
        ...        ["cat"]).tolist()
        [[[0.0, 0.0, 0.0, 0.5, 0.25, 100.0, 200.0]]]
    """
    number = {name: at for at, name in enumerate(class_names)}
    labels = np.zeros((len(pictures), max(1, *map(len, pictures), 1), 7), np.float32)
    labels[:, :, 0] = PADDING
    if sizes is None:
        sizes = np.array([(one.height, one.width) for one in pictures]).reshape(-1, 2)
    labels[:, :, 5:] = sizes[:, None]
    for row, one in zip(labels, pictures, strict=True):
        classes = np.array([number[name] for name in one.class_names], np.float32)
        row[: len(one), 0] = np.where(one.crowd, -2 - classes, classes)
        row[: len(one), 1:5] = one.boxes / np.tile(row[0, 5:], 2)
    return labels


@tf.autograph.experimental.do_not_convert
def follow(label: tf.Tensor, transform: PixelTransform) -> tf.Tensor:
    """Move the boxes of an image into a view of it.

    An object of which less than 40 % of the area is left becomes padding: it no longer is an example of its class. A
    crowd region stays while any of it is left, since the rest is still not background.

    Args:
        label: float32 [..., M, 7], boxes in shares of the image.
        transform: Transform from the image to the view.

    Returns:
        float32 [..., M, 7]: boxes in shares of the view, clipped to it; height and width are those of the part of the
        image that fills the view, in pixels of the image, so that areas in these pixels stay true.
    """
    label = tf.cast(label, tf.float32)
    classes, sizes = label[..., :1], label[..., 5:7]
    view = tf.tile(tf.cast(transform.size, tf.float32), [2])
    moved = transform.boxes(label[..., 1:5] * tf.concat([sizes, sizes], axis=-1)) / view
    inside = tf.clip_by_value(moved, 0.0, 1.0)
    left = tf.math.divide_no_nan(_area(inside), _area(moved))
    stays = tf.where(classes >= 0, left >= LEAST_VISIBLE, (left > 0) & (classes < PADDING))
    kept = tf.where(stays, tf.concat([classes, inside], axis=-1), [float(PADDING), 0.0, 0.0, 0.0, 0.0])
    part = tf.broadcast_to(transform.box[2:] - transform.box[:2], tf.shape(sizes))
    return tf.concat([kept, part], axis=-1)


@tf.autograph.experimental.do_not_convert
def place_objects(part: Part, size: tf.Tensor) -> tf.Tensor:
    """Move the objects of one of the images in a view into its rectangle of the view.

    Every object is moved as by :func:`follow`, so one of which more than 60 % are cut off becomes padding. In a view of
    several images, so does one that is less than a pixel high or wide there, as in the program of Bochkovskiy et al.
    ("YOLOv4", 2020).

    Args:
        part: Image with its label, float32 [M, 7].
        size: Rows and columns of the view, int32 [2].

    Returns:
        float32 [M, 7], where height and width of a row are those of the whole view in pixels of the object's image,
        so that areas stay true.
    """
    label = follow(part.label, part.transform)
    scale = tf.cast(part.transform.size, tf.float32) / tf.cast(size, tf.float32)
    start = tf.cast(part.corner, tf.float32) / tf.cast(size, tf.float32)
    boxes = label[:, 1:5] * tf.tile(scale, [2]) + tf.tile(start, [2])
    sides = tf.reduce_min((boxes[:, 2:] - boxes[:, :2]) * tf.cast(size, tf.float32), axis=1, keepdims=True)
    stays = (label[:, :1] < PADDING) | ((label[:, :1] >= 0) & (~part.several | (sides >= 1.0)))
    kept = tf.where(stays, tf.concat([label[:, :1], boxes], axis=1), [float(PADDING), 0.0, 0.0, 0.0, 0.0])
    return tf.concat([kept, label[:, 5:] / scale], axis=1)


@tf.autograph.experimental.do_not_convert
def join_objects(placed: tf.Tensor, rows: int) -> tf.Tensor:
    """Join the objects of the images in one view.

    Args:
        placed: Objects of each image in the view, float32 [images, M, 7].
        rows: Rows of the label; more objects than that are left out.

    Returns:
        float32 [rows, 7]: objects first, padding behind them.
    """
    every = tf.reshape(placed, [-1, 7])
    every = tf.gather(every, tf.argsort(tf.cast(every[:, 0] == PADDING, tf.int32), stable=True))[:rows]
    empty = tf.concat([[float(PADDING), 0.0, 0.0, 0.0, 0.0], every[0, 5:]], axis=0)
    missing = tf.repeat(empty[None], rows - tf.shape(every)[0], axis=0)
    return tf.ensure_shape(tf.concat([every, missing], axis=0), [rows, 7])


def _area(boxes: tf.Tensor) -> tf.Tensor:
    """Return the areas [..., 1] of boxes [..., 4]."""
    return tf.reduce_prod(boxes[..., 2:] - boxes[..., :2], axis=-1, keepdims=True)
