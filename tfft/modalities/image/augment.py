"""Views of a picture: itself, and random variations of it that can be made again. Those of sounds are in ``waves``.

Hides the random numbers. A view is a pure function of seed, position and number, so a cache of views and
a pipeline that makes them anew in every epoch show the same pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf

from tfft.errors import PlanError, did_you_mean, listed, raise_problems
from tfft.layers.preprocess import resize_pixels
from tfft.modalities.image.randaugment import rand_augment
from tfft.specs import Augmentation, InputSpec

OF_PICTURES, OF_SOUNDS = ("flip", "crop", "rand"), ("shift", "mask")
CHANGES = OF_PICTURES + OF_SOUNDS
_ASPECT = math.log(4 / 3)  # a crop is at most so much wider or taller than the picture it becomes
_RAND = 1  # keeps the numbers of "rand" apart from the others of a view
_STRENGTH = 0.5  # of "rand", unless told otherwise
_SHIFT, _MASK = 0.1, 0.2  # of the clip, and of the clip and the mel scale, unless told otherwise
_LEAST = 0.5  # of the area, unless told otherwise: fine-tuning needs less than the 0.08 of training from nothing


def augmentation(wish: Augmentation | str | Sequence[str] | None) -> Augmentation | None:
    """Returns what names stand for.

    Args:
        wish: ``"flip"`` (left and right change places), ``"crop"`` (a part of at least half of the picture), ``"rand"``
            (RandAugment at strength 0.5); of recordings ``"shift"`` (by up to a tenth of the clip) and ``"mask"`` (up
            to a fifth of the time and of the mel scale is silenced); ``"crop=0.7"`` or ``"rand=0.3"`` for another least
            share or strength, several in a list, an :class:`~tfft.specs.Augmentation` or its
            ``to_dict()``; None for none.

    Returns:
        The augmentation, or None where nothing changes.

    Raises:
        PlanError: for an unknown name, with the nearest one, or a share out of range.

    Example:
        >>> augmentation(["flip", "crop"])
        Augmentation(flip=True, crop=0.5)
    """
    if wish is None or isinstance(wish, Augmentation):
        found = wish or Augmentation()
    elif isinstance(wish, dict):
        found = Augmentation(**wish)
    else:
        given = dict(_named(name) for name in ([wish] if isinstance(wish, str) else wish))
        problems = [
            f"{name!r} is not known.{did_you_mean(str(name), CHANGES)}" for name in given if name not in CHANGES
        ]
        raise_problems(PlanError, f"augment takes {listed(CHANGES)}", problems)
        usual = {"flip": True, "crop": _LEAST, "rand": _STRENGTH, "shift": _SHIFT, "mask": _MASK}
        found = Augmentation(**{name: usual[name] if value is None else value for name, value in given.items()})
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
    """Returns the names of what an augmentation changes."""
    return [name for name in CHANGES if getattr(found, name) != getattr(Augmentation, name)]


def check_kind(found: Augmentation, *, sounds: bool) -> None:
    """Raises PlanError where an augmentation holds a change that means nothing for pictures, or for sounds.

    Args:
        found: from :func:`augmentation`.
        sounds: True for recordings, False for pictures.
    """
    valid, what = (OF_SOUNDS, "recordings") if sounds else (OF_PICTURES, "pictures")
    wrong = [name for name in changes_of(found) if name not in valid]
    if wrong:
        raise PlanError(f"augment={listed(wrong)} cannot vary {what}. For {what} there is {listed(valid)}.")


def _named(wish: str) -> tuple[str, float | None]:
    """``"crop=0.7"`` as name and number."""
    name, equals, value = str(wish).partition("=")
    if not equals:
        return name, None
    try:
        return name, float(value)
    except ValueError as error:
        raise PlanError(f"augment takes numbers, such as crop=0.7, got {wish!r}.") from error


@tf.autograph.experimental.do_not_convert
def view_of(pixels: tf.Tensor, spec: InputSpec, changes: Augmentation, seed: tf.Tensor, view: tf.Tensor) -> tf.Tensor:
    """Makes one view of one picture, in the size that a backbone expects.

    View 0 is the picture as it is. The others are cut out of the picture before it is resized: a part of
    random area, shape and place (Szegedy et al., "Going deeper with convolutions", 2015), mirrored in half of the
    cases, and changed in colour and shape (:func:`~tfft.modalities.image.randaugment.rand_augment`).

    Args:
        pixels: uint8 [h, w, C], decoded, of any size.
        spec: the wanted size and channels.
        changes: what may vary.
        seed: int [2], of this picture.
        view: int scalar, from 0.

    Returns:
        uint8 [spec.height, spec.width, spec.channels].
    """

    def varied() -> tf.Tensor:
        own = tf.random.fold_in(seed, view)
        numbers = tf.random.stateless_uniform([5], own)
        if changes.crop < 1:
            part = _part(pixels, spec, changes.crop, numbers)
            small = resize_pixels(part, dataclasses.replace(spec, resize="stretch"))
        else:
            small = resize_pixels(pixels, spec)
        if changes.flip:
            small = tf.reverse(small, tf.boolean_mask([1], numbers[4:5] < 0.5))
        if changes.rand:
            whole = rand_augment(tf.cast(small, tf.uint8), changes.rand, tf.random.fold_in(own, _RAND))
            small = tf.cast(whole, tf.float32)
        return small

    return tf.cast(tf.cond(view > 0, varied, lambda: resize_pixels(pixels, spec)), tf.uint8)


def _part(pixels: tf.Tensor, spec: InputSpec, least: float, numbers: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.shape(pixels)[:2], tf.float32)
    area = size[0] * size[1] * (least + (1 - least) * numbers[0])
    aspect = tf.exp((2 * numbers[1] - 1) * _ASPECT) * (spec.width / spec.height)
    wanted = tf.stack([tf.sqrt(area / aspect), tf.sqrt(area * aspect)])
    inner = tf.clip_by_value(tf.round(wanted), 1.0, size)
    start = tf.cast(tf.floor(numbers[2:4] * (size - inner + 1)), tf.int32)
    top, left = tf.unstack(tf.clip_by_value(start, 0, tf.cast(size - inner, tf.int32)))
    rows, columns = tf.unstack(tf.cast(inner, tf.int32))
    return pixels[top : top + rows, left : left + columns]
