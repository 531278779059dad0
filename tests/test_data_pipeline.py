"""Datasets: the same pixels whichever way, an order that differs per epoch and repeats per seed."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tfft.data import batches as pipeline_module
from tfft.data import to_dataset
from tfft.errors import DataError, PlanError
from tfft.layers.pixel_checks import check_pixels
from tfft.layers.preprocess import resize_pixels
from tfft.modalities.image import from_arrays, list_images
from tfft.modalities.image.decode import decode_image
from tfft.specs import InputSpec

RNG = np.random.default_rng(5)
SPEC = InputSpec(8, 6)


@pytest.fixture
def examples(tmp_path):
    for name, count in (("ants", 13), ("bees", 10)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = RNG.integers(0, 256, (RNG.integers(5, 30), RNG.integers(5, 30), 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return list_images(tmp_path)


def order_of(dataset):
    """Positions in the order of one pass; the images tell which they are."""
    return np.concatenate([x[:, 0, 0, 0].numpy() for x, _ in dataset]).tolist()


def numbered(count, **options):
    images = np.tile(np.arange(count, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 1))
    return from_arrays(images, np.arange(count), **options)


@pytest.mark.daily("False")
@pytest.mark.parametrize("cache", [True, False, "auto"])
def test_pixels_are_those_of_the_one_decoder(examples, cache):
    dataset = to_dataset(examples, SPEC, batch_size=5, cache=cache)
    assert int(dataset.cardinality()) == 5
    batches = list(dataset)
    assert [len(y) for _, y in batches] == [5, 5, 5, 5, 3]
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    expected = np.stack([decode_image(tf.io.read_file(path), SPEC) for path in examples.paths])
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(labels, examples.labels)
    assert pixels.dtype == np.uint8
    assert labels.dtype == np.int32
    assert tuple(dataset.element_spec[0].shape) == (None, 8, 6, 3)


@pytest.mark.daily("True")
@pytest.mark.parametrize("cache", [True, False])
def test_shuffled_passes_differ_keep_pairs_and_repeat_by_seed(examples, cache):
    def two_passes(seed):
        dataset = to_dataset(examples, SPEC, batch_size=4, shuffle=True, seed=seed, cache=cache)
        return [[(x.numpy().tobytes(), int(y)) for x, y in dataset.unbatch()] for _ in range(2)]

    first, second = two_passes(1)
    assert first != second
    assert sorted(first) == sorted(second)
    plain = to_dataset(examples, SPEC, cache=True).unbatch()
    assert sorted(first) == sorted((x.numpy().tobytes(), int(y)) for x, y in plain)
    assert two_passes(1) == [first, second]
    assert two_passes(2)[0] != first


@pytest.mark.nightly
def test_cached_and_decoded_again_come_in_the_same_order(examples):
    kept, again = (to_dataset(examples, SPEC, shuffle=True, seed=3, cache=cache) for cache in (True, False))
    for _ in range(2):
        for (x, y), (u, v) in zip(kept, again, strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, v)


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    counted = numbered(40, shuffle=True, seed=9)
    passes = [order_of(counted) for _ in range(4)]
    assert len({tuple(order) for order in passes}) == 4
    epoch = tf.Variable(0, dtype=tf.int64)
    told = numbered(40, shuffle=True, seed=9, epoch=epoch)
    for number in (2, 0, 3, 1, 1):
        epoch.assign(number)
        assert order_of(told) == passes[number]
    assert order_of(numbered(40)) == list(range(40))


def test_the_global_seed_does_not_touch_the_order():
    keras.utils.set_random_seed(1)
    first = order_of(numbered(30, shuffle=True, seed=0))
    keras.utils.set_random_seed(2)
    assert order_of(numbered(30, shuffle=True, seed=0)) == first
    assert order_of(numbered(30, shuffle=True, seed=-7)) != first


@pytest.mark.slow
def test_keras_fit_sees_another_order_in_each_epoch_and_the_same_in_each_run():
    def seen(epochs):
        log = []

        class Watch(keras.layers.Layer):
            def call(self, x):
                tf.py_function(lambda v: log.append(v.numpy().ravel().tolist()), [x[:, 0, 0, 0]], [])
                return keras.ops.cast(x[:, 0, 0, :], "float32")

        model = keras.Sequential([keras.Input((2, 2, 1), dtype="uint8"), Watch(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        model.fit(numbered(12, shuffle=True, seed=4, batch_size=12), epochs=epochs, verbose=0, shuffle=False)
        return [batch for batch in log if len(batch) == 12]

    first = seen(3)
    assert len(first) == 3
    assert len({tuple(order) for order in first}) == 3
    assert seen(3) == first


@pytest.mark.nightly
def test_auto_keeps_pixels_only_below_the_limit(examples, monkeypatch):
    size = 23 * 8 * 6 * 3
    monkeypatch.setattr(pipeline_module, "CACHE_LIMIT", size + 1)
    kept = to_dataset(examples, SPEC)
    monkeypatch.setattr(pipeline_module, "CACHE_LIMIT", size)
    read_again = to_dataset(examples, SPEC)
    os.remove(examples.paths[0])
    assert sum(len(y) for _, y in kept) == 23
    with pytest.raises(tf.errors.NotFoundError):
        list(read_again)


@pytest.mark.nightly
def test_kept_pixels_do_not_need_the_files_any_more(examples):
    dataset = to_dataset(examples, SPEC, cache=True)
    with open(examples.paths[3], "wb") as file:
        file.write(b"gone")
    assert sum(len(y) for _, y in dataset) == 23
    with pytest.raises(DataError, match=f"{examples.paths[3]} is text"):
        to_dataset(examples, SPEC, cache=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s)not an image.*{examples.paths[3]}"):
        list(to_dataset(examples, SPEC, cache=False))


@pytest.mark.slow
def test_arrays_of_every_kind_give_the_same_pixels():
    images = RNG.integers(0, 256, (7, 12, 9, 3), np.uint8)
    expected = resize_pixels(images, SPEC)
    for given in (images, images.astype(np.float32), images.astype(np.float64) + 0.3, images.astype(np.int64)):
        given = np.minimum(given, 255)
        for cache in (True, False):
            [(x, y)] = from_arrays(given, np.arange(7), SPEC, cache=cache)
            np.testing.assert_array_equal(x, tf.cast(expected, tf.uint8))
            assert y.dtype == tf.int32
    [(x, _)] = from_arrays(images[..., 0], np.arange(7), SPEC)
    assert x.shape == (7, 8, 6, 3)
    [(x, _)] = from_arrays(images[..., 0], np.arange(7))
    np.testing.assert_array_equal(x, images[..., :1])


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (np.arange(4), tf.int32),
        (np.arange(4).astype(np.uint8), tf.int32),
        ([True, False, True, True], tf.int32),
        (np.arange(4) / 2, tf.float32),
        (np.eye(4, dtype=int), tf.float32),
    ],
)
def test_labels_get_the_dtype_of_their_task(labels, dtype):
    [(_, y)] = from_arrays(np.zeros((4, 2, 2), np.uint8), labels)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, labels)


@pytest.mark.parametrize(
    ("images", "labels", "match"),
    [
        (np.zeros((4, 2)), np.zeros(4, int), "received shape"),
        (np.zeros((4, 3, 8, 8)), np.zeros(4, int), "channels come last"),
        (np.zeros((0, 8, 8, 3)), np.zeros(0, int), "nothing empty"),
        (np.zeros((4, 8, 8)), np.zeros(3, int), "received 4 images, labels"),
        (np.zeros((4, 8, 8)), np.int64(3), "one label for each image"),
        (np.full((4, 8, 8), 0.5), np.zeros(4, int), "multiply by 255"),
        (np.full((4, 8, 8), 256), np.zeros(4, int), "0 to 255, received 256 to 256"),
        (np.full((4, 8, 8), np.nan), np.zeros(4, int), "NaN"),
        (np.full((4, 8, 8), "x"), np.zeros(4, int), "images must be numbers"),
        (np.zeros((4, 8, 8)), np.array(["a", "b", "a", "b"]), "np.unique"),
        (np.zeros((4, 8, 8)), np.array([0, 1, -1, 0]), "must start at 0"),
        (np.zeros((4, 8, 8)), np.array([0.0, np.inf, 1, 0]), "labels must be finite"),
        (np.full((4, 8, 8), -1), np.array(["a"] * 3), "3 problems"),
    ],
)
def test_arrays_that_cannot_be_used_are_refused(images, labels, match):
    with pytest.raises(DataError, match=match):
        from_arrays(images, labels)


def test_wrong_arguments_are_all_named(examples):
    with pytest.raises(PlanError, match="3 problems") as caught:
        to_dataset(examples, SPEC, batch_size=0, cache="yes", epoch=3)
    for word in ("batch_size", "cache", "epoch"):
        assert word in str(caught.value)
    with pytest.raises(DataError, match="at least one example"):
        to_dataset(examples.take(np.array([], int)), SPEC)


def test_floating_pixels_that_are_scaled_already_are_refused():
    scaled = RNG.uniform(0, 1, (2, 4, 4, 3)).astype(np.float32)
    for given in (scaled, tf.constant(scaled), tf.constant(scaled, tf.bfloat16)):
        with pytest.raises(DataError, match="images of the dataset.*multiply by 255"):
            check_pixels(given, "the dataset")
    with pytest.raises(DataError, match="received -1 to"):
        check_pixels(scaled * 2 - 1 - (scaled == scaled.min()) * (1 + scaled * 2 - 1), "the dataset")
    for good in (scaled * 255, scaled * 0, np.ones((2, 4, 4, 3), np.uint8), tf.ones([2, 4], tf.int64)):
        check_pixels(good, "the dataset")
