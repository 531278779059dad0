"""Repeatable and yet different in each epoch: where seeds in Keras and tf.data go wrong, and that ours do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft.data.mixup import apply_mixup
from tfft.modalities.image import from_arrays
from tfft.specs import InputSpec

COUNT, EPOCHS = 12, 3
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
IMAGES[:, 0, 0, 0] = np.arange(COUNT)  # the number of the picture
SPEC = InputSpec(8, 8)


class Watch(keras.layers.Layer):
    """Writes down what comes by while training."""

    def __init__(self, write, **kwargs):
        super().__init__(**kwargs)
        self.write = write

    def call(self, x, training=None):
        if training:
            self.write(x.numpy())
        return keras.ops.cast(x[:, 0, 0, :1], "float32")


def seen_by_fit(*given, epochs=EPOCHS, **options):
    """Runs fit and returns the batches of each epoch, one array each."""
    log = []
    model = keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), Watch(log.append), keras.layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    model.fit(*given, epochs=epochs, verbose=0, **options)
    steps = len(log) // epochs
    return [np.concatenate(log[k * steps : (k + 1) * steps]) for k in range(epochs)]


def order(epochs):
    return [pictures[:, 0, 0, 0].tolist() for pictures in epochs]


def alike(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def at(epoch):
    with tf.device("CPU:0"):
        return tf.Variable(epoch, dtype=tf.int64)


def test_the_trap_a_seeded_fit_on_arrays_repeats_its_order_in_every_epoch():
    keras.utils.set_random_seed(7)
    orders = order(seen_by_fit(IMAGES, np.zeros(COUNT), batch_size=4, shuffle=True))
    assert sorted(orders[0]) == list(range(COUNT))
    assert orders[0] != list(range(COUNT))  # shuffled, yes
    assert orders[0] == orders[1] == orders[2]  # once and for all


@pytest.mark.slow
def test_the_trap_seeded_random_operations_in_a_map_repeat_their_changes_in_every_epoch():
    def change(image, label):
        return tf.image.random_brightness(tf.image.random_flip_left_right(image), 0.4), label

    keras.utils.set_random_seed(7)
    dataset = tf.data.Dataset.from_tensor_slices((IMAGES, np.zeros(COUNT))).map(change).batch(4)
    epochs = seen_by_fit(dataset, shuffle=False)
    assert not np.array_equal(epochs[0], IMAGES)  # changed, yes
    assert alike(epochs, [epochs[0]] * EPOCHS)  # in one way


@pytest.mark.nightly
@pytest.mark.parametrize("sampling", [None, "balanced"])
def test_our_order_differs_in_each_epoch_and_repeats_by_seed(sampling):
    def run(seed):
        keras.utils.set_random_seed(7)
        labels = np.arange(COUNT) % 2
        dataset = from_arrays(IMAGES, labels, SPEC, batch_size=4, shuffle=True, seed=seed, sampling=sampling)
        return order(seen_by_fit(dataset, shuffle=False))

    first = run(1)
    assert len({tuple(found) for found in first}) == EPOCHS
    assert all(sorted(found) == list(range(COUNT)) for found in first)
    assert run(1) == first
    assert run(2) != first


@pytest.mark.nightly
@pytest.mark.parametrize("augment", ["flip", "crop", "rand"])
def test_our_variations_differ_in_each_epoch_and_repeat_by_seed(augment):
    def run(seed):
        keras.utils.set_random_seed(7)
        dataset = from_arrays(IMAGES, np.zeros(COUNT, int), SPEC, batch_size=4, seed=seed, augment=augment)
        return seen_by_fit(dataset, shuffle=False)

    first = run(1)
    assert not any(np.array_equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert alike(run(1), first)
    assert not alike(run(2), first)


@pytest.mark.nightly
def test_a_run_that_resumes_in_the_middle_of_an_epoch_sees_what_it_would_have_seen():
    def made(epoch):
        train = from_arrays(
            IMAGES, np.arange(COUNT) % 3, SPEC, batch_size=4, shuffle=True, seed=5, epoch=epoch,
            augment=["flip", "crop", "rand"], sampling="balanced",
        )  # fmt: skip
        return apply_mixup(train, 3, mixup_alpha=0.4, cutmix_alpha=1.0, seed=5, epoch=epoch)

    epoch = at(0)
    whole = []
    uninterrupted = made(epoch)
    for number in range(EPOCHS):
        epoch.assign(number)
        whole.append([(x.numpy(), y.numpy()) for x, y in uninterrupted])
    resumed = list(made(at(2)).skip(1))  # another process, at epoch 2, batch 1
    assert len(resumed) == 2
    for (x, y), (images, labels) in zip(resumed, whole[2][1:], strict=True):
        np.testing.assert_array_equal(x, images)
        np.testing.assert_array_equal(y, labels)
    assert not np.array_equal(whole[1][1][0], whole[2][1][0])
