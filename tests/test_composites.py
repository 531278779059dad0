"""Views of several pictures: boxes and masks stay on their pixels, views repeat, and what cannot follow is refused."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_dense_contracts import Fail, Power, backbone
from test_dense_recipes import boxes, masks

import tfft
from tfft import cli, features
from tfft.config.stored_settings import current_names
from tfft.data import BatchOptions, to_dataset
from tfft.errors import PlanError
from tfft.layers.preprocess import Preprocess
from tfft.modalities.image import ImageFiles, from_arrays
from tfft.modalities.image.batches import view_labels
from tfft.modalities.image.composites import Part
from tfft.modalities.image.transform import PixelTransform
from tfft.specs import Augmentation, InputSpec, augmentation
from tfft.tasks.object_detection.annotations import BoxedObject, PictureBoxes, encode, join_objects, place_objects
from tfft.tasks.object_detection.data import BoxedImages
from tfft.tasks.semantic_segmentation import STRIDE, VOID
from tfft.tasks.semantic_segmentation.data import load_masks
from tfft.tasks.semantic_segmentation.losses import subsampled

SPEC = InputSpec(height=64, width=96, resize="stretch")
CLASSES = ("red", "green", "blue")
PICTURES = 12


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Black pictures of several sizes; each of the first three has one object, in the colour of its class."""
    root, rng, found = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0), []
    for at in range(PICTURES):
        height, width = 40 + 5 * at, 70 - 2 * at
        pixels, objects = np.zeros((height, width, 3), np.uint8), []
        if at < len(CLASSES):
            top, left = rng.integers(2, 12, 2)
            box = (top, left, top + 24, left + 31)
            pixels[box[0] : box[2], box[1] : box[3], at] = 255
            objects.append(BoxedObject(box, CLASSES[at], ""))
        path = str(root / f"{at}.png")
        Image.fromarray(pixels).save(path)
        found.append(PictureBoxes.of(path, "", objects, height=height, width=width))
    return BoxedImages(tuple(one.path for one in found), encode(found, CLASSES), CLASSES)


def passes(examples, changes, count, *, spec=SPEC, seed=0, first=1):
    """Views of all examples, from one number on."""
    with tf.device("CPU:0"):
        epoch = tf.Variable(first, dtype=tf.int64)
    dataset = examples.batches(spec, BatchOptions(len(examples), augment=changes, epoch=epoch, seed=seed))
    for number in range(count):
        epoch.assign(first + number)
        [(pixels, labels)] = dataset.as_numpy_iterator()
        yield pixels, labels


def lit_box(pixels, kind):
    """Top, left, bottom and right of the pixels in the colour of a class; None if there are none."""
    values = pixels[..., kind].astype(int)
    lit = values > values.max() / 2
    if values.max() < 60:
        return None
    down, across = (np.flatnonzero(lit.any(axis=axis)) for axis in (1, 0))
    return np.array([down[0], across[0], down[-1] + 1, across[-1] + 1])


@pytest.mark.daily("mosaic")
@pytest.mark.parametrize(
    "changes",
    [
        Augmentation(mosaic=1.0),
        Augmentation(mosaic=1.0, flip=True, crop=0.8),
        Augmentation(mixup=1.0, flip=True, crop=0.6),
    ],
    ids=["mosaic", "mosaic of crops", "mixup"],
)
def test_boxes_stay_on_the_colours_of_their_classes(drawn, changes):
    seen, together, own = 0, 0, 0
    for images, labels in passes(drawn, changes, 5 if changes.mosaic else 12):  # four pictures or two in each
        assert labels.shape == (PICTURES, 3, 7)
        for at, (image, rows) in enumerate(zip(images, labels, strict=True)):
            objects = rows[rows[:, 0] >= 0]
            assert len(set(objects[:, 0])) == len(objects)  # partners are different pictures
            for kind, *corners in objects[:, :5]:
                box = np.array(corners) * [64, 96, 64, 96]
                assert np.abs(box - lit_box(image, int(kind))).max() <= 1.0
                seen += 1
                own += int(kind) == at
            together += len(objects) > 1
            assert not rows[rows[:, 0] < 0, 1:5].any()
    assert seen > 25
    assert together > 1
    assert own > 5


def placed(label, box, corner, size, view, several=True):
    transform = PixelTransform(tf.constant(box, tf.float32), tf.constant(False), tf.constant(size))
    start = tf.constant(corner)
    shown = tf.concat([start, start + size], 0)
    return place_objects(
        Part(tf.constant(label, tf.float32), transform, start, shown, tf.constant(several)), tf.constant(view)
    )


ONE = [[0, 0.1, 0.2, 0.5, 0.6, 100, 200], [-3, 0, 0, 1, 1, 100, 200], [-1, 0, 0, 0, 0, 100, 200]]
TWO = [[1, 0.5, 0.0, 1.0, 0.5, 40, 40], [2, 0.0, 0.9, 0.5, 1.0, 40, 40], [1, 0.5, 0.6, 0.52, 0.62, 40, 40]]


def test_objects_move_into_their_quarter_as_numbers_say():
    right = (0, 0, 40, 37.5)  # three eighths are left of the second object, which is dropped
    parts = [
        placed(ONE, (0, 0, 100, 200), (0, 0), (60, 50), (120, 100)),
        placed(TWO, right, (0, 50), (60, 50), (120, 100)),
    ]
    joined = join_objects(tf.stack(parts), 5).numpy()
    view = np.array([120, 100, 120, 100])
    np.testing.assert_array_equal(joined[:, 0], [0, -3, 1, 1, -1])
    np.testing.assert_allclose(joined[0, 1:5] * view, [6, 10, 30, 30], atol=1e-4)
    np.testing.assert_allclose(joined[1, 1:5] * view, [0, 0, 60, 50], atol=1e-4)
    np.testing.assert_allclose(joined[2, 1:5] * view, [30, 50, 60, 50 + 50 * 20 / 37.5], atol=1e-4)
    assert not joined[4, 1:5].any()
    # Share of the view times height and width of the row is the object in pixels of its picture, as before.
    for row, (height, width) in ((0, (40, 80)), (2, (20, 20))):
        top, left, bottom, right, high, wide = joined[row, 1:]
        np.testing.assert_allclose([(bottom - top) * high, (right - left) * wide], [height, width], rtol=1e-5)


def test_objects_below_a_pixel_are_left_out_of_several_pictures():
    parts = [
        placed(TWO, (0, 0, 40, 40), (0, 0), (30, 30), (60, 60)),
        placed(ONE, (0, 0, 100, 200), (30, 0), (30, 30), (60, 60)),
    ]
    kinds = join_objects(tf.stack(parts), 3).numpy()[:, 0]
    np.testing.assert_array_equal(kinds, [1, 2, 0])  # 0.02 of 30 pixels is less than one; 3 rows at most
    alone = placed(TWO, (0, 0, 40, 40), (0, 0), (30, 30), (30, 30), several=False)
    np.testing.assert_array_equal(join_objects(alone[None], 5).numpy()[:, 0], [1, 2, 1, -1, -1])


def test_labels_have_room_for_the_four_fullest_pictures(drawn):
    counts = [3, 1, 0, 2, 5, 0, 4]
    labels = np.full((len(counts), 5, 7), -1.0, np.float32)
    for row, count in zip(labels, counts, strict=True):
        row[:count, 0] = 0
    examples = dataclasses.replace(drawn.take(np.arange(len(counts))), labels=labels)
    assert examples.combination.join.keywords == {"rows": 14}
    assert examples.take(np.array([0, 1, 2])).combination.join.keywords == {"rows": 12}  # a picture may come twice


@pytest.mark.nightly
def test_views_repeat_by_seed_and_are_mosaics_as_often_as_asked(drawn):
    changes = augmentation(["mosaic=0.5", "mixup=0.25"])
    views = [list(passes(drawn, changes, 2, seed=seed, first=0)) for seed in (1, 1, 2)]
    [(plain, wanted)] = drawn.batches(SPEC, BatchOptions(PICTURES)).as_numpy_iterator()
    for (first, labels), _ in views:
        np.testing.assert_array_equal(first, plain)  # view 0 is the picture itself
        np.testing.assert_allclose(labels[:, :1], wanted, atol=1e-6)
    one, again, other = (second for _, second in views)
    for values, same, different in zip(one, again, other, strict=True):
        np.testing.assert_array_equal(values, same)
        assert not np.array_equal(values, different)
    coloured = drawn.take(np.repeat([0], 24))  # the same picture four times, or twice, or once
    lit = [(images[..., 0] > 120).mean(axis=(1, 2)) for images, _ in passes(coloured, changes, 4)]
    share = np.mean(~np.isclose(np.concatenate(lit), (plain[0, ..., 0] > 120).mean(), atol=0.002))
    assert 0.35 < share < 0.65  # mixup of a picture with itself is the picture


@pytest.mark.nightly
@pytest.mark.parametrize("cuts", ["mosaic", "cutmix"])
def test_masks_stay_on_the_colours_of_their_classes(cuts, tmp_path):
    """Each picture has two regions and a stripe without a label, and its red channel says which."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rng = np.random.default_rng(0)
    for at in range(8):
        mask = np.full((30 + at, 44), at % 3, np.uint8)
        mask[rng.integers(8, 20) :, rng.integers(8, 30) :] = (at + 1) % 3
        mask[:, 36:40] = VOID
        Image.fromarray(mask).save(tmp_path / "masks" / f"{at}.png")
        red = np.where(mask == VOID, 250, 80 * mask).astype(np.uint8)
        Image.fromarray(np.stack([red, *[np.full_like(red, 30 * at)] * 2], -1)).save(tmp_path / "images" / f"{at}.png")
    examples = load_masks(tmp_path, validation=0.25).train
    changes = Augmentation(flip=True, crop=0.6, **{cuts: 1.0})
    several, every = 0, (changes, 6, BatchOptions(4), examples.follow, examples._joined(STRIDE))
    kept = view_labels(examples.paths, examples.labels, SPEC, *every)
    for view, (images, found) in enumerate(passes(examples, changes, 5), 1):
        assert found.shape == images.shape[:3]
        assert found.dtype == np.int32
        wanted = np.where(found == VOID, 250, 80 * found)
        inner = np.ones(found.shape, bool)
        for step in (-1, 1):
            for axis in (1, 2):
                inner &= np.roll(found, step, axis) == found
        source = images[..., 1].astype(int)
        inner[:, [0, -1]] = inner[:, :, [0, -1]] = False
        assert inner.mean() > 0.6
        edge = np.abs(images[..., 0] - wanted)[inner] > 6
        assert edge.mean() < 0.01  # two classes may meet within a pixel of a corner
        several += sum(len(np.unique(one[::3, ::3])) > 1 for one in source)
        small = kept[view * len(examples) : (view + 1) * len(examples)]
        np.testing.assert_array_equal(small, subsampled(found, np.zeros((1, 16, 24, 3))))
    assert several > 20


@pytest.mark.nightly
def test_kept_features_of_mosaics_are_those_of_mosaics(drawn):
    inputs = keras.Input((None, None, 3), dtype="uint8")
    first = Preprocess(SPEC, name="preprocess")(inputs)
    model = keras.Model(inputs, keras.layers.AveragePooling2D(16)(first))
    order, changes = {"batch_size": 5, "shuffle": True, "seed": 4}, ["flip", "crop", "mosaic=0.7", "mixup=0.2"]
    anew = to_dataset(drawn, SPEC, augment=changes, views=3, **order)
    kept = features.extract(model, drawn, cache=None, augment=changes, views=3, seed=4, verbose=False)
    varied = kept.dataset(**order)
    for _ in range(4):  # more passes than views
        for (pixels, wanted), (values, moved) in zip(anew, varied, strict=True):
            np.testing.assert_allclose(moved, wanted, atol=1e-3)
            np.testing.assert_allclose(values, model(pixels), atol=1e-4)


# --- what is refused


def test_shares_and_names_are_checked():
    assert augmentation(["flip", "mosaic"]) == Augmentation(flip=True, mosaic=0.5)
    assert augmentation("mixup=1") == Augmentation(mixup=1.0)
    assert augmentation(Augmentation(cutmix=0.5).to_dict()) == Augmentation(cutmix=0.5)
    assert not {"mosaic", "mixup", "cutmix"} & Augmentation(flip=True).to_dict().keys()  # older files stay valid
    with pytest.raises(PlanError, match=r"Expected mosaic \(share of the views\) in 0 to 1. Received: 2.0"):
        augmentation("mosaic=2")
    with pytest.raises(PlanError, match=r"of at most 1 together. Received: 1.2"):
        augmentation(["mosaic=0.7", "mixup=0.5"])


def test_stored_settings_keep_their_names():
    changes = Augmentation(flip=True, mixup=0.2, cutmix=0.3)
    stored = {"settings": {"augment": changes.to_dict(), "phases": {"head": {"mixup": 0.1}}}}
    found = current_names(stored)["settings"]
    assert found["augment"] == changes.to_dict()
    assert found["phases"] == {"head": {"mixup_alpha": 0.1}}  # of an earlier version
    plan = tfft.Plan(backbone="a", data="b", augment=changes)
    assert tfft.Plan.from_dict(plan.to_dict()).augment == changes


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        (
            "object_detection",
            "cutmix",
            "augment='cutmix' combines several images. Expected task='semantic_segmentation'",
        ),
        ("semantic_segmentation", "mixup", "augment='mixup' combines several images. Expected task='object_detection'"),
        ("classification", "mosaic", "Expected task='object_detection', task='semantic_segmentation', whose labels"),
        ("classification", "mixup=0.3", "classes of whole images are mixed by mixup_alpha= of a phase"),
        ("auto", "mosaic", "augment='mosaic' combines several images"),
    ],
)
def test_labels_that_cannot_follow_are_refused_before_anything_is_read(task, change, told):
    with pytest.raises(PlanError, match=told):
        tfft.finetune("no-such-backbone", "/no/such/folder", task=task, augment=["flip", change])


def test_pipelines_refuse_what_labels_cannot_follow(drawn):
    with pytest.raises(PlanError, match="augment='cutmix' combines several images, which these labels cannot. For"):
        to_dataset(drawn, SPEC, augment="cutmix")
    plain = ImageFiles(drawn.paths, np.zeros(PICTURES, int), ("a",))
    for make in (
        lambda: to_dataset(plain, SPEC, augment="mosaic"),
        lambda: from_arrays(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int), SPEC, augment="mosaic"),
        lambda: features.extract(_pooled(), plain, cache=None, augment="mosaic", views=2, verbose=False),
    ):
        with pytest.raises(PlanError, match="augment='mosaic' combines several images"):
            make()


def _pooled():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(Preprocess(SPEC, name="preprocess")(inputs)))


# --- runs


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "write", "changes", "cache"),
    [
        ("object_detection", boxes, ["flip", "mosaic=0.6", "mixup=0.3"], None),
        ("semantic_segmentation", masks, ["flip", "crop", "mosaic", "cutmix"], "kept"),
    ],
)
def test_a_run_with_mosaics_resumes(task, write, changes, cache, tmp_path):
    data = write(tmp_path / "data", 10)
    settings = {
        "head_epochs": 2, "unfreeze": "none", "views": 3, "batch_size": 4, "verbose": False, "export_to": False,
        "deterministic": True, "augment": changes, "cache": None if cache is None else tmp_path / cache,
    }  # fmt: skip
    whole = tfft.finetune(backbone(), data, task, **settings)
    assert all(getattr(whole.plan.augment, name.partition("=")[0]) for name in changes)
    out = tmp_path / "run"
    with pytest.raises(Power):
        tfft.finetune(backbone(), data, task, out=out, callbacks=[Fail(3)], **settings)
    again = tfft.finetune(backbone(), data, task, out=out, **settings)
    assert [row["loss"] for row in again.history.rows] == [row["loss"] for row in whole.history.rows]
    for one, other in zip(again.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("task", "write", "change"), [("object_detection", boxes, "mosaic=1"), ("semantic_segmentation", masks, "cutmix=1")]
)
def test_a_preview_shows_several_pictures(task, write, change, tmp_path):
    data, grids = write(tmp_path / "data", 8), []
    for name, augment in (("several", change), ("one", "flip")):
        out = str(tmp_path / f"{name}.png")
        command = ["preview", str(data), "--task", task, "--image-size", "64", "--out", out, "--augment", augment]
        assert cli.main([*command, "--rows", "5", "--columns", "3"]) == 0
        grids.append(np.asarray(Image.open(out)).astype(int))
    several, one = grids
    assert several.shape == one.shape
    np.testing.assert_array_equal(several[:, :64], one[:, :64])  # the pictures themselves
    assert np.abs(several[:, 70:] - one[:, 70:]).mean() > 10
