"""Views of pictures: what stays, what changes, and that a cache of views shows what the pipeline shows."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from tfft import data, features
from tfft.data import BatchOptions
from tfft.errors import DataError, PlanError
from tfft.layers.preprocess import Preprocess
from tfft.modalities.image import ImageFiles, from_arrays, list_images
from tfft.modalities.image.augment import view_of
from tfft.modalities.image.batches import file_views
from tfft.modalities.image.randaugment import CHANGES, rand_augment
from tfft.specs import Augmentation, InputSpec, augmentation

SPEC = InputSpec(16, 16)
BOTH = Augmentation(flip=True, crop=0.3)


def pictures(count=6, size=(20, 26)):
    """Pictures whose every pixel tells its place and its picture."""
    rows, columns = np.meshgrid(np.arange(size[0]) * 8, np.arange(size[1]) * 8, indexing="ij")
    return np.stack([np.stack([rows, columns, np.full(size, 20 * i)], -1) for i in range(count)]).astype(np.uint8)


def passes(dataset, count):
    """All images of some passes, each in the order of the labels."""
    found = []
    for _ in range(count):
        images, labels = (np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True))
        found.append(images[np.argsort(labels)])
    return found


@pytest.mark.slow
def test_the_first_view_is_the_picture_and_others_differ():
    images, labels = pictures(), np.arange(6)
    plain = passes(from_arrays(images, labels, SPEC), 1)[0]
    first, second, third = passes(from_arrays(images, labels, SPEC, augment=BOTH), 3)
    assert np.array_equal(first, plain)
    assert not np.array_equal(second, plain)
    assert not np.array_equal(second, third)
    assert np.array_equal(second[..., 2], plain[..., 2])  # each is still of its own picture


@pytest.mark.slow
def test_views_repeat_by_seed_and_come_in_turn():
    images, labels = pictures(), np.arange(6)
    one, again, other = (
        passes(from_arrays(images, labels, SPEC, augment="crop", views=3, shuffle=True, seed=seed), 6)
        for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[1], other[1])
    for k in range(3):
        assert np.array_equal(one[k], one[k + 3])  # three views, whatever the order of the pictures
    assert not np.array_equal(one[1], one[2])


def test_a_flip_mirrors_about_half_and_changes_nothing_else():
    images, labels = pictures(64), np.arange(64)
    plain, varied = passes(from_arrays(images, labels, SPEC, augment="flip"), 2)
    mirrored = [np.array_equal(v, p[:, ::-1]) for v, p in zip(varied, plain, strict=True)]
    same = [np.array_equal(v, p) for v, p in zip(varied, plain, strict=True)]
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_a_crop_keeps_at_least_its_share():
    images, labels = pictures(40, (32, 32)), np.arange(40)
    spec = InputSpec(32, 32)
    _, varied = passes(from_arrays(images, labels, spec, augment=Augmentation(crop=0.5)), 2)
    height = np.ptp(varied[..., 0].astype(int), axis=(1, 2)) / (8 * 31)
    width = np.ptp(varied[..., 1].astype(int), axis=(1, 2)) / (8 * 31)
    assert (height * width > 0.4).all()
    assert (height * width < 0.99).mean() > 0.8
    assert len(np.unique(varied[:, 0, 0, 0])) > 5  # from many places


@pytest.mark.nightly
def test_files_and_arrays_show_the_same_views(image_folder):
    examples = list_images(image_folder(per_class=2))
    spec = InputSpec(12, 12)
    by_row = np.concatenate(
        [x for x, _ in file_views(examples.paths, examples.labels, spec, BOTH, 3, BatchOptions(4, seed=5))]
    )
    labels = np.concatenate(
        [y for _, y in file_views(examples.paths, examples.labels, spec, BOTH, 3, BatchOptions(4, seed=5))]
    )
    assert by_row.shape == (18, 12, 12, 3)
    assert np.array_equal(labels, np.tile(examples.labels, 3))
    dataset = data.to_dataset(examples, spec, batch_size=6, augment=BOTH, views=3, seed=5)
    assert np.array_equal(np.concatenate([next(iter(dataset))[0] for _ in range(3)]), by_row)


@pytest.mark.nightly
def test_features_of_views_are_those_of_the_views(image_folder, tiny_model, tmp_path):
    splits = data.load(image_folder())
    prefix, _ = features.split_frozen(tiny_model)
    settings = {"cache": tmp_path, "verbose": False, "augment": BOTH, "views": 3, "seed": 4}
    found = features.extract(prefix, splits.train, **settings)
    assert (len(found), found.views) == (len(splits.train), 3)
    assert features.extract(prefix, splits.train, **settings).cached
    assert not features.extract(prefix, splits.train, **{**settings, "seed": 5}).cached
    assert not features.extract(prefix, splits.train, **{**settings, "augment": "flip"}).cached
    for rand in (0.3, 0.4):
        other = Augmentation(flip=True, crop=0.3, rand=rand)
        assert not features.extract(prefix, splits.train, **{**settings, "augment": other}).cached
    order = {"batch_size": 5, "shuffle": True, "seed": 4}
    kept = found.dataset(**order)
    spec = InputSpec(32, 32, value_range=(-1.0, 1.0), source="the test")
    anew = data.to_dataset(splits.train, spec, augment=BOTH, views=3, **order)
    for _ in range(4):  # more passes than views
        for (a, labels), (images, expected) in zip(kept, anew, strict=True):
            assert np.array_equal(labels, expected)
            np.testing.assert_allclose(a, prefix(images, training=False), atol=1e-5)


def test_what_cannot_be_varied_is_refused(tiny_model):
    prefix, _ = features.split_frozen(tiny_model)
    dataset = from_arrays(pictures(), np.arange(6), SPEC)
    with pytest.raises(DataError, match="Only images and recordings can be augmented.*Received _"):
        features.extract(prefix, dataset, augment="flip", verbose=False)
    with pytest.raises(PlanError, match="views must be an integer"):
        features.extract(prefix, (pictures(), np.arange(6)), augment="flip", views=0, verbose=False)
    with pytest.raises(PlanError, match="views must be an integer"):
        from_arrays(pictures(), np.arange(6), SPEC, augment="flip", views=0)


def test_names_and_what_they_mean():
    assert augmentation(["flip", "crop"]) == Augmentation(flip=True, crop=0.5)
    assert augmentation("crop") == Augmentation(crop=0.5)
    assert augmentation(["rand", "flip"]) == Augmentation(flip=True, rand=0.5)
    assert augmentation(Augmentation(rand=0.2)) == Augmentation(rand=0.2)
    assert augmentation({"flip": True, "crop": 1.0}) == Augmentation(flip=True)
    assert augmentation(None) is augmentation([]) is augmentation(Augmentation()) is None
    with pytest.raises(PlanError, match="'flop' is unknown. Did you mean 'flip'"):
        augmentation("flop")
    with pytest.raises(PlanError, match="above 0 and at most 1. Received: 0"):
        augmentation(Augmentation(crop=0))
    with pytest.raises(PlanError, match="(?s)2 problems.*strength of RandAugment.* in 0 to 1. Received: 1.5"):
        augmentation(Augmentation(crop=0, rand=1.5))


@pytest.mark.slow
def test_a_view_does_not_depend_on_who_reads_beside_it():
    images, labels = pictures(), np.arange(6)
    alone = next(iter(from_arrays(images, labels, SPEC, augment=BOTH, epoch=_at(2)).take(1)))[0]
    batched = next(iter(from_arrays(images, labels, SPEC, augment=BOTH, epoch=_at(2), batch_size=2)))[0]
    assert np.array_equal(alone[:2], batched)


def _at(epoch):
    with tf.device("CPU:0"):
        return tf.Variable(epoch, dtype=tf.int64)


def photo(channels=3, size=(24, 30)):
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(*size, channels)), 0), 1)
    scaled = 20 + 200 * (smooth - smooth.min((0, 1))) / np.ptp(smooth, axis=(0, 1))
    return np.clip(scaled + rng.normal(0, 4, scaled.shape), 0, 255).astype(np.uint8)


def changed(name, pixels, sign, strength):
    found = CHANGES[name](tf.constant(pixels, tf.float32), tf.constant(float(sign)), strength)
    return np.clip(np.rint(found.numpy()), 0, 255)


PILLOW = {
    "brightness": lambda image, sign: ImageEnhance.Brightness(image).enhance(1 + sign * 0.45),
    "contrast": lambda image, sign: ImageEnhance.Contrast(image).enhance(1 + sign * 0.45),
    "colour": lambda image, sign: ImageEnhance.Color(image).enhance(1 + sign * 0.45),
    "sharpness": lambda image, sign: ImageEnhance.Sharpness(image).enhance(1 + sign * 0.45),
    "posterize": lambda image, sign: ImageOps.posterize(image, 6),
    "solarize": lambda image, sign: ImageOps.solarize(image, 128),
    "autocontrast": lambda image, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, sign: ImageOps.equalize(image),
    "rotate": lambda image, sign: image.rotate(sign * 15, Image.Resampling.BILINEAR, fillcolor=(128,) * 3),
    "identity": lambda image, sign: image,
}


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", PILLOW)
def test_changes_of_pictures_are_those_of_pillow(name, sign):
    pixels = photo()
    expected = np.asarray(PILLOW[name](Image.fromarray(pixels), sign)).astype(float)
    found = changed(name, pixels, sign, 0.5)
    if name == "rotate":  # Pillow has no half pixels at the edge of the picture
        assert np.mean(np.abs(found - expected)[4:-4, 4:-4] <= 2) > 0.98
    else:
        assert np.abs(found - expected).max() <= 1
    assert name == "identity" or np.abs(found - pixels).max() > 2


@pytest.mark.parametrize("sign", [-1, 1])
def test_shifts_and_shears_move_the_picture_over_grey(sign):
    pixels = photo(size=(20, 20))
    right = changed("translate_x", pixels, sign, 1.0)  # by 9 of 20 pixels
    kept, new = (slice(9, None), slice(None, 9)) if sign < 0 else (slice(None, -9), slice(-9, None))
    back = slice(None, -9) if sign < 0 else slice(9, None)
    np.testing.assert_array_equal(right[:, kept], pixels[:, back])
    assert (right[:, new] == 128).all()
    np.testing.assert_array_equal(
        changed("translate_y", pixels.transpose(1, 0, 2), sign, 1.0), right.transpose(1, 0, 2)
    )
    sheared = changed("shear_x", pixels, sign, 1.0)
    turned = changed("shear_y", pixels.transpose(1, 0, 2), sign, 1.0).transpose(1, 0, 2)
    np.testing.assert_allclose(turned, sheared, atol=1)  # the same, rounded
    top, bottom = (np.flatnonzero((sheared[row] == 128).all(-1)) for row in (0, -1))
    assert len(top) == len(bottom) == 2  # of 2.85, the third is a blend
    assert (top.max() < 10) != (bottom.max() < 10)  # out to the left above, to the right below, or the reverse


def test_plain_pictures_stay_and_grey_and_tiny_ones_pass():
    plain = np.full((6, 7, 3), 90, np.uint8)
    for name in ("autocontrast", "equalize", "sharpness", "contrast", "colour"):
        np.testing.assert_array_equal(changed(name, plain, 1, 0.5), plain)
    for shape in ((9, 8, 1), (2, 2, 3), (1, 1, 1)):
        pixels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        for seed in range(30):
            found = rand_augment(tf.constant(pixels), 0.7, tf.constant([seed, 0]))
            assert found.shape == shape
            assert found.dtype == tf.uint8


@pytest.mark.slow
def test_rand_draws_every_change_and_repeats_by_seed():
    pixels = tf.constant(photo())
    draw = tf.function(lambda seed: rand_augment(pixels, 0.5, seed))
    made = [draw(tf.constant([seed, 1])).numpy() for seed in range(300)]
    assert np.array_equal(made[7], draw(tf.constant([7, 1])))
    assert len({picture.tobytes() for picture in made}) > 100
    assert any(np.array_equal(picture, pixels) for picture in made)
    numbers = np.array([tf.random.stateless_uniform([2, 2], [seed, 1]) for seed in range(300)])
    seen = np.bincount((numbers[..., 0] * len(CHANGES)).astype(int).ravel(), minlength=len(CHANGES))
    assert len(CHANGES) == 14
    assert seen.min() > 20
    weak, strong = (
        np.mean([np.abs(rand_augment(pixels, m, [s, 1]).numpy() - photo().astype(int)).mean() for s in range(16)])
        for m in (0.1, 0.9)
    )
    assert strong > 2 * weak


@pytest.mark.nightly
def test_rand_views_are_views():
    images, labels = np.stack([photo(size=(16, 16))] * 6), np.arange(6)
    wish = Augmentation(rand=0.5)
    plain = passes(from_arrays(images, labels, SPEC), 1)[0]
    first, second, third = passes(from_arrays(images, labels, SPEC, augment=wish, seed=3), 3)
    again = passes(from_arrays(images, labels, SPEC, augment=wish, seed=3, batch_size=4, shuffle=True), 3)
    assert np.array_equal(first, plain)
    assert second.dtype == np.uint8
    assert len({picture.tobytes() for picture in [*second, *third]}) > 8
    assert np.array_equal(second, again[1])
    assert np.array_equal(third, again[2])
    both = passes(from_arrays(images, labels, SPEC, augment=Augmentation(flip=True, rand=0.5), seed=3), 2)[1]
    assert not np.array_equal(both, second)


# --- labels that are places in a picture --------------------------------------------------------------------------


@pytest.mark.nightly
@pytest.mark.parametrize("resize", ["crop", "stretch", "pad"])
@pytest.mark.parametrize("augment", [None, "flip", ["flip", "crop=0.4"]])
def test_a_point_follows_its_pixel(resize, augment, tmp_path):
    pixels = pictures(size=(24, 30))
    paths = [str(tmp_path / f"{i}.png") for i in range(len(pixels))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    points = np.random.default_rng(3).uniform(8, 16, (len(paths), 2)).astype(np.float32)
    examples = ImageFiles(tuple(paths), points, (), follow=lambda point, transform: transform.points(point))
    dataset = data.to_dataset(examples, InputSpec(48, 40, resize=resize), augment=augment, batch_size=4)
    seen, moved = 0, set()
    for _ in range(4):
        views, places = (np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True))
        for view, (row, column), point in zip(views, places, points, strict=True):
            if 2 < row < 46 and 2 < column < 38:
                at = view[int(row), int(column), :2] / 8 + 0.5  # its row and column in the picture
                assert np.abs(at - point).max() < 1.0
                seen += 1
            moved.add((round(float(row), 2), round(float(column), 2)))
    assert seen >= 12
    assert (len(moved) > len(paths)) == (augment is not None)


def test_boxes_and_masks_move_as_points_do():
    pixels = tf.constant(pictures(1, (24, 30))[0])
    for resize in ("crop", "stretch", "pad"):
        spec = InputSpec(48, 40, resize=resize)
        for view in range(5):
            seed = tf.constant([1, 2], tf.int64)
            shown, transform = view_of(pixels, spec, BOTH, seed, tf.constant(view))
            box = transform.boxes(tf.constant([[4.0, 6.0, 20.0, 22.0]])).numpy()[0]
            corners = transform.points(tf.constant([[4.0, 6.0], [20.0, 22.0]])).numpy()
            assert np.allclose(box, [*corners.min(axis=0), *corners.max(axis=0)], atol=1e-4)
            rows = np.arange(24)[:, None] * np.ones((1, 30), int)
            mask = transform.mask(tf.constant(rows), outside=-1).numpy()
            inside = mask >= 0
            assert mask.shape == (48, 40)
            assert inside.mean() > 0.4
            assert np.abs(shown.numpy()[..., 0] / 8 - mask)[inside].max() < 1.1
            assert inside.all() or resize == "pad"


@pytest.mark.nightly
def test_kept_features_of_views_come_with_the_labels_of_the_views(tmp_path):
    paths = tuple(str(tmp_path / f"{i}.jpg") for i in range(5))
    for number, (path, image) in enumerate(zip(paths, pictures(5, (24, 30)), strict=True)):
        turned = Image.Exif()
        turned[0x0112] = 6 if number % 2 else 1  # half of them lie on their side
        Image.fromarray(image).save(path, exif=turned)
    points = np.random.default_rng(3).uniform(8, 16, (5, 2)).astype(np.float32)
    examples = ImageFiles(paths, points, (), follow=lambda point, transform: transform.points(point))
    inputs = keras.Input((None, None, 3), dtype="uint8")
    first = Preprocess(InputSpec(48, 40, resize="stretch"), name="preprocess")(inputs)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(first))
    order = {"batch_size": 2, "shuffle": True, "seed": 4}
    plain = data.to_dataset(examples, model.layers[1].spec, augment=BOTH, views=3, **order)
    kept = features.extract(model, examples, cache=None, augment=BOTH, views=3, seed=4)
    assert kept.labels.shape == (15, 2)
    assert len(kept) == 5
    varied = kept.dataset(**order)
    for _ in range(4):
        for (pixels, wanted), (values, moved) in zip(plain, varied, strict=True):
            np.testing.assert_allclose(moved, wanted, atol=1e-3)
            np.testing.assert_allclose(values, model(pixels), atol=1e-5)


@pytest.mark.slow
def test_what_labels_cannot_follow_is_refused(image_folder):
    examples = list_images(image_folder(per_class=2))
    examples = dataclasses.replace(examples, follow=lambda label, transform: label)
    with pytest.raises(PlanError, match="'rand' cannot move labels"):
        data.to_dataset(examples, SPEC, augment="rand")
