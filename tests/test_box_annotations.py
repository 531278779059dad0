"""Labels of pictures with boxes: how they are made, and how they follow the pixels into a view."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from boxed_pictures import SIZES, detection, pictures, truth, write_coco  # noqa: F401
from PIL import Image

from tfft.data import BatchOptions, fold_splits, to_dataset
from tfft.errors import PlanError
from tfft.modalities.image.transform import PixelTransform
from tfft.specs import Augmentation, InputSpec
from tfft.tasks.object_detection.annotations import (
    BoxedObject,
    PictureBoxes,
    encode,
    fit_to_image,
    follow,
)
from tfft.tasks.object_detection.box_report import small_objects
from tfft.tasks.object_detection.data import BoxedImages, load_boxes, rarest_classes

SPEC = InputSpec(height=64, width=96, resize="stretch")
SIDE = (120, 200)  # of the picture with a rectangle
BOX = (30, 40, 90, 140)  # the rectangle


def transform(box, mirrored=False, size=(64, 96)):
    return PixelTransform(tf.constant(box, tf.float32), tf.constant(mirrored), tf.constant(size, tf.int32))


def rows(*objects, height=100, width=200):
    return np.array([[*one, height, width] for one in objects], np.float32)


def oracle(label, box, mirrored):
    """What follow does, one row at a time in plain numbers."""
    found = []
    high, wide = box[2] - box[0], box[3] - box[1]
    for kind, top, left, bottom, right, height, width in label.tolist():
        moved = [
            (top * height - box[0]) / high, (left * width - box[1]) / wide,
            (bottom * height - box[0]) / high, (right * width - box[1]) / wide,
        ]  # fmt: skip
        if mirrored:
            moved[1], moved[3] = 1 - moved[3], 1 - moved[1]
        inside = [min(max(value, 0.0), 1.0) for value in moved]
        area = (moved[2] - moved[0]) * (moved[3] - moved[1])
        left_over = (inside[2] - inside[0]) * (inside[3] - inside[1])
        stays = left_over >= 0.4 * area if kind >= 0 else kind < -1 and left_over > 0
        found.append([kind, *inside, high, wide] if stays else [-1, 0, 0, 0, 0, high, wide])
    return np.array(found)


def test_boxes_follow_a_crop_and_a_flip_as_numbers_say():
    rng = np.random.default_rng(0)
    for _ in range(40):
        starts, ends = np.sort(rng.uniform(size=(2, 12, 2)), axis=0)
        kinds = rng.choice([0, 1, -1, -2, -3], 12)
        label = rows(*(np.concatenate([[k], s, e]) for k, s, e in zip(kinds, starts, ends, strict=True)))
        box = [*rng.integers(0, 40, 2), *rng.integers(60, 100, 2)]
        mirrored = bool(rng.integers(2))
        np.testing.assert_allclose(follow(label, transform(box, mirrored)), oracle(label, box, mirrored), atol=1e-5)


def test_an_object_that_is_mostly_cut_off_is_padding_and_a_crowd_stays():
    label = rows((1, 0.0, 0.0, 1.0, 0.5), (1, 0.0, 0.0, 1.0, 0.41), (-3, 0.0, 0.0, 1.0, 0.41), (-1, 0, 0, 0, 0))
    view = follow(label, transform((0, 60, 100, 200))).numpy()  # from column 60 of 200: 40 % and 27 % are left
    assert view[:, 0].tolist() == [1, -1, -3, -1]
    np.testing.assert_allclose(view[0, 1:5], [0, 0, 1, 40 / 140], atol=1e-6)
    assert (view[1, 1:5] == 0).all()
    assert view[2, 4] > 0
    assert (view[:, 5:] == [100, 140]).all(), "areas in pixels of the picture stay true"


def test_areas_in_pixels_of_the_picture_do_not_change_in_a_crop():
    label = rows((0, 0.2, 0.3, 0.4, 0.5))
    view = follow(label, transform((10, 40, 60, 140), True)).numpy()
    areas = [(row[3] - row[1]) * (row[4] - row[2]) * row[5] * row[6] for row in (label[0], view[0])]
    assert areas[0] == pytest.approx(20 * 40)
    assert areas[1] == pytest.approx(20 * 40, rel=1e-5)


def test_labels_of_many_pictures_follow_at_once_and_in_a_graph():
    labels = np.stack([rows((0, 0.1, 0.2, 0.5, 0.6), (1, 0, 0, 1, 1))] * 3)
    moved = transform((0, 20, 100, 180), True)
    one = follow(labels[0], moved).numpy()
    np.testing.assert_allclose(follow(labels, moved), np.stack([one] * 3))
    np.testing.assert_allclose(tf.function(follow)(labels[0], moved), one)
    np.testing.assert_allclose(tf.vectorized_map(lambda label: follow(label, moved), labels), np.stack([one] * 3))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A picture with a white rectangle and the label of it."""
    path = tmp_path_factory.mktemp("drawn") / "one.png"
    pixels = np.zeros((*SIDE, 3), np.uint8)
    pixels[BOX[0] : BOX[2], BOX[1] : BOX[3]] = 255
    Image.fromarray(pixels).save(path)
    picture = PictureBoxes.of(str(path), "", [BoxedObject(BOX, "white", "")], height=SIDE[0], width=SIDE[1])
    return BoxedImages((str(path),), encode([picture], ["white"]), ("white",))


def found_box(pixels):
    """Top, left, bottom and right of the white pixels."""
    lit = pixels[..., 0] > 127
    down, across = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
    return [down[0], across[0], down[-1] + 1, across[-1] + 1]


@pytest.mark.daily("crop")
@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_a_box_stays_on_its_pixels(drawn, resize):
    """To the pixel, through flips and crops, however pictures are fitted."""
    spec = dataclasses.replace(SPEC, resize=resize)
    many = drawn.take(np.zeros(24, int))
    changes = Augmentation(flip=True, crop=0.5)
    with tf.device("CPU:0"):
        epoch = tf.Variable(1, dtype=tf.int64)  # view 0 is the picture itself
    seen = 0
    for augment in (None, changes):
        options = BatchOptions(24, augment=augment, epoch=epoch)
        [(images, labels)] = many.batches(spec, options).as_numpy_iterator()
        assert images.shape == (24, 64, 96, 3)
        assert labels.shape == (24, 1, 7)
        assert labels.dtype == np.float32
        for image, label in zip(images, labels, strict=True):
            if label[0, 0] == 0:
                seen += 1
                assert np.abs(label[0, 1:5] * [64, 96, 64, 96] - found_box(image)).max() <= 1.0
    assert seen > 36
    assert len({tuple(label[0].tolist()) for label in labels}) > 12, "views differ"


def test_random_colours_cannot_move_boxes(drawn):
    with pytest.raises(PlanError, match="cannot move labels that are places"):
        to_dataset(drawn, SPEC, augment="rand")


def test_a_label_has_classes_corners_and_the_size_of_the_picture(tmp_path):
    labels = encode(truth(tmp_path), ("cat", "dog"))
    assert labels.shape == (5, 2, 7)
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels[0], [[0, 2 / 40, 3 / 60, 0.5, 0.5, 40, 60], [1, 0.25, 25 / 60, 1, 1, 40, 60]])
    np.testing.assert_allclose(labels[4], [[-1, 0, 0, 0, 0, 48, 48]] * 2)
    crowd = PictureBoxes.of("x", "", [BoxedObject((0, 0, 5, 5), "dog", "", True)], height=10, width=10)
    assert encode([crowd], ("cat", "dog"))[0, 0].tolist() == [-3, 0, 0, 0.5, 0.5, 10, 10]
    assert encode(truth(tmp_path)[4:], ("cat",)).shape == (1, 1, 7), "there is a row where there is no object"


def fitted(*box, height=100, width=200, normalized=False, turned=False, **fields):
    one = PictureBoxes.of(
        "x.jpg", "x.xml", [BoxedObject(box, "cat", "x.xml: object 1")], normalized=normalized, **fields
    )
    return fit_to_image(one, height, width, turned)


def test_a_box_a_little_outside_is_clipped_and_one_without_area_left_out():
    result = fitted(-2, -1, 103, 202)
    assert not result.faults
    assert result.clipped == ["x.xml: object 1"]
    assert result.picture.boxes.tolist() == [[0, 0, 100, 200]]
    assert fitted(-6, 0, 50, 50, height=1000).clipped, "1 % of a large picture"
    result = fitted(10, 20, 10, 60)
    assert not result.faults
    assert result.empty == ["x.xml: object 1"]
    assert not len(result.picture)
    result = fitted(0.25, 0.5, 0.5, 1.0, normalized=True)
    assert result.picture.boxes.tolist() == [[25, 100, 50, 200]]
    assert not result.clipped


@pytest.mark.parametrize(
    ("box", "fields", "sentence"),
    [
        (
            (0, 0, 110, 50),
            {},
            r"x.xml: object 1: the box \(top 0, .* reaches 10 pixels out of the image of 100 x 200",
        ),
        ((120, 20, 140, 60), {}, "reaches 40 pixels out"),
        ((60, 20, 10, 80), {}, "is reversed .* another order, or a width and a height taken for corners"),
        ((0.1, 0.2, 0.5, 0.9), {}, r"is in shares of the image \(0 to 1\). Expected pixels"),
        ((0.1, 0.2, 0.5, 1.5), {"normalized": True}, "reaches 100 pixels out"),
        ((0, 0, 9, 9), {"height": 50, "width": 100}, "annotated with 50 x 100 .* but it has 100 x 200"),
        (
            (0, 0, 9, 9),
            {"height": 200, "width": 100},
            "its EXIF orientation turns it to 100 x 200.*save the image up",
        ),
    ],
)
def test_a_box_that_does_not_fit_its_picture_is_a_fault(box, fields, sentence):
    one = PictureBoxes.of("x.jpg", "x.xml", [BoxedObject(box, "cat", "x.xml: object 1")], **fields)
    [fault] = fit_to_image(one, 100, 200, turned="EXIF" in sentence).faults
    with pytest.raises(ValueError, match=sentence):
        raise ValueError(fault)


# --- datasets of pictures with boxes


@pytest.fixture
def boxed(tmp_path):
    pictures(tmp_path / "images")
    return load_boxes(write_coco(tmp_path / "boxes.json"), seed=1)


def test_counts_are_of_objects_and_the_fingerprint_covers_boxes(boxed):
    every = boxed.train.join(boxed.validation)
    assert every.counts == {"dog": 3, "cat": 3}
    moved = dataclasses.replace(boxed.train, labels=boxed.train.labels + np.float32(0.001))
    assert (
        moved.fingerprint() != boxed.train.fingerprint() == boxed.train.take(np.arange(len(boxed.train))).fingerprint()
    )


def test_parts_with_other_numbers_of_rows_join(boxed):
    first = dataclasses.replace(boxed.train, labels=boxed.train.labels[:, :1])
    joined = first.join(boxed.validation)
    assert joined.labels.shape == (5, 2, 7)
    assert (joined.labels[: len(first), 1, 0] == -1).all()
    assert (joined.labels[:, 1, 5:] == joined.labels[:, 0, 5:]).all()
    back = boxed.validation.join(first)
    np.testing.assert_array_equal(back.labels[: len(boxed.validation)], boxed.validation.labels)


def test_classes_get_the_numbers_of_a_model():
    labels = np.full((1, 4, 7), -1, np.float32)
    labels[0, :3, 0] = [1, 0, -3]  # dog, cat, a crowd of dogs
    examples = BoxedImages(("a",), labels, ("cat", "dog")).renumbered(np.array([2, 0]), ("dog", "bird", "cat"))
    assert examples.labels[0, :, 0].tolist() == [0, 2, -2, -1]
    assert examples.class_names == ("dog", "bird", "cat")


def test_pictures_are_dealt_by_their_rarest_class(tmp_path):
    labels = np.full((4, 2, 7), -1.0, np.float32)
    labels[0, :, 0], labels[1, 0, 0], labels[2, 0, 0] = [0, 1], 0, 0
    examples = BoxedImages(("a", "b", "c", "d"), labels, ("cat", "dog"))
    assert rarest_classes(examples).tolist() == [1, 0, 0, 2]


def test_folds_hold_every_picture_out_once(boxed, detection):  # noqa: F811
    held = [name for fold in fold_splits(boxed, 2) for name in fold.validation.names]
    assert sorted(held) == sorted(SIZES)


def test_small_objects_are_named_with_the_size_that_shows_them():
    labels = np.full((50, 1, 7), -1, np.float32)
    labels[:, 0] = [0, 0.1, 0.1, 0.12, 0.12, 1000, 1000]  # 2 % of the side
    labels[:20, 0, :5] = [1, 0, 0, 0.5, 0.5]
    warning = small_objects(labels, ("cell", "tissue"), (224, 224))
    assert warning.startswith("60% of the objects (cell 100%) are smaller than a cell of 8 pixels at 224 x 224")
    assert "image_size=(416, 416) makes 95 % of them" in warning
    assert small_objects(labels, ("cell", "tissue"), (416, 416)) is None
    labels[..., 5:] = 100
    assert "the images have 100 x 100, so cut them into tiles" in small_objects(labels, ("a", "b"), (224, 224))
