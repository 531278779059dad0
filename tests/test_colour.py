"""Changes of colour: by hand, as views, and with boxes and masks that stay in their places."""

import colorsys

import numpy as np
import pytest
import tensorflow as tf
from test_dense_recipes import boxes

import tfft
from tfft.data import BatchOptions
from tfft.errors import PlanError
from tfft.modalities.image.colour import vary_colour
from tfft.specs import Augmentation, InputSpec, augmentation


def by_hand(pixels, strength, seed):
    """The same with NumPy and the HSV colours of the standard library."""
    numbers = 2 * tf.random.stateless_uniform([4], seed).numpy().astype(float) - 1
    bright, contrast, saturation = 1 + strength * numbers[:3]
    grey = np.array([0.2989, 0.587, 0.114])  # of rgb_to_grayscale
    found = np.clip(pixels * bright, 0, 255)
    middle = (found @ grey).mean()
    found = np.clip(middle + contrast * (found - middle), 0, 255)
    own = (found @ grey)[..., None]
    found = np.clip(own + saturation * (found - own), 0, 255)
    for row in found.reshape(-1, 3):
        hue, sat, value = colorsys.rgb_to_hsv(*row / 255)
        row[:] = 255 * np.array(colorsys.hsv_to_rgb((hue + strength / 4 * numbers[3]) % 1, sat, value))
    return np.clip(found, 0, 255)


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_colours_change_as_by_hand(strength):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    results = []
    for number in range(4):
        seed = tf.constant([number, 3])
        found = vary_colour(tf.constant(pixels), strength, seed).numpy()
        np.testing.assert_allclose(found, by_hand(pixels.astype(float), strength, seed), atol=0.6)
        np.testing.assert_array_equal(found, vary_colour(tf.constant(pixels), strength, seed))
        results.append(found)
    assert len({one.tobytes() for one in results}) == 4


def test_grey_pictures_stay_grey():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 1), np.uint8)
    found = vary_colour(tf.constant(pixels), 0.4, tf.constant([1, 2])).numpy()
    in_colour = vary_colour(tf.constant(np.repeat(pixels, 3, -1)), 0.4, tf.constant([1, 2])).numpy()
    assert found.shape == pixels.shape
    np.testing.assert_allclose(in_colour, np.repeat(found, 3, -1), atol=1.0)


def test_the_name_takes_a_strength_and_older_files_stay_valid():
    assert augmentation("colour") == Augmentation(colour=0.4)
    assert augmentation("colour=0.2") == Augmentation(colour=0.2)
    assert "colour" not in Augmentation(flip=True).to_dict()
    assert augmentation(Augmentation(colour=0.2).to_dict()) == Augmentation(colour=0.2)
    with pytest.raises(PlanError, match=r"Expected colour \(strength of changes of colour\) in 0 to 1. Received: 2"):
        augmentation(Augmentation(colour=2))


@pytest.mark.nightly
def test_boxes_stay_where_only_colours_change(tmp_path):
    examples = tfft.data.load(boxes(tmp_path / "data", 4), task="object_detection", validation=0.5).train
    spec = InputSpec(96, 96, resize="stretch")
    epoch = tf.Variable(1, dtype=tf.int64)
    options = BatchOptions(8, augment="colour", epoch=epoch)
    [(pixels, labels)] = examples.batches(spec, options).as_numpy_iterator()
    [(plain, wanted)] = examples.batches(spec, BatchOptions(8)).as_numpy_iterator()
    np.testing.assert_allclose(labels, wanted, atol=1e-6)
    whole = tf.constant([0, len(examples)], tf.int64)
    seeds = [tf.random.fold_in(whole, at) for at in tf.range(len(examples), dtype=tf.int64)]
    for found, image, seed in zip(pixels, plain, seeds, strict=True):
        own = tf.random.fold_in(tf.random.fold_in(seed, tf.constant(1, tf.int64)), 2)
        np.testing.assert_allclose(found, by_hand(image.astype(float), 0.4, own), atol=0.6)
