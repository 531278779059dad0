"""Mixed examples: means stay, labels are the shares of what is seen, numbers repeat by seed, epoch and batch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import data, heads
from tfft.data.mixup import _beta, apply_mixup, one_hot
from tfft.errors import DataError, PlanError

RNG = np.random.default_rng(3)


def batches_of(count=24, size=8, *, side=6, batch_size=8):
    """Pictures whose every pixel is the number of their class times 10."""
    labels = np.arange(count) % size
    images = np.tile((10 * labels).astype(np.uint8)[:, None, None, None], (1, side, side, 3))
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)


def noise(count=40, shape=(5, 7, 3), classes=4, dtype=np.float32, batch_size=10):
    values = RNG.uniform(0, 255, (count, *shape)).astype(dtype)
    labels = RNG.integers(0, classes, count)
    return tf.data.Dataset.from_tensor_slices((values, labels)).batch(batch_size)


def drawn(dataset):
    return [[t.numpy() for t in tf.nest.flatten(batch)] for batch in dataset]


def same(one, other):
    return all(np.array_equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


WAYS = {
    "mixup": {"mixup_alpha": 0.4},
    "cutmix": {"cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.4, "cutmix_alpha": 1.0},
}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@pytest.mark.representative("mixup", "cutmix")
@pytest.mark.daily("both")
@each_way
def test_batches_keep_their_mean_and_labels_sum_to_one(way):
    plain, changed = noise(), apply_mixup(noise_again := noise(), 4, **way)
    assert plain.element_spec[0] == changed.element_spec[0]
    assert int(changed.cardinality()) == 4
    moved = 0
    for (x, y), (mixed_x, mixed_y) in zip(noise_again, changed, strict=True):
        np.testing.assert_allclose(mixed_x.numpy().mean(0), x.numpy().mean(0), rtol=1e-5)
        np.testing.assert_allclose(mixed_y.numpy().sum(0), np.bincount(y, minlength=4), atol=1e-5)
        np.testing.assert_allclose(mixed_y.numpy().sum(1), 1, atol=1e-6)
        assert mixed_y.numpy().min() >= 0
        moved += np.sum(np.any(mixed_x.numpy() != x.numpy(), axis=(1, 2, 3)))
    assert moved > 25


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_the_label_is_the_share_that_is_seen(way):
    rows = 0
    for x, y in apply_mixup(batches_of(240), 8, **WAYS[way]):
        seen = x.numpy()[..., 0].astype(float)
        if way == "cutmix":  # of every class exactly as many pixels as its label says
            counts = np.stack([(seen == 10 * k).mean((1, 2)) for k in range(8)], 1)
            np.testing.assert_allclose(y, counts, atol=1e-6)
        else:
            assert (seen == seen[:, :1, :1]).all()
            np.testing.assert_allclose(seen[:, 0, 0], y.numpy() @ (10 * np.arange(8)), atol=0.501)
        rows += np.sum(y.numpy().max(1) < 1)
    assert rows > 120


@pytest.mark.slow
def test_pixels_stay_whole_and_of_their_type():
    for x, _ in apply_mixup(noise(dtype=np.uint8), 4, mixup_alpha=0.4):
        assert x.dtype == tf.uint8
    for dtype in (np.float16, np.float64):
        for x, y in apply_mixup(noise(shape=(6,), dtype=dtype), 4, mixup_alpha=0.4):
            assert x.dtype == tf.as_dtype(dtype)
            assert y.dtype == tf.float32


@pytest.mark.parametrize("a", [0.05, 0.3, 1.0, 4.0])
def test_shares_are_those_of_the_beta_distribution(a):
    shares = _beta(a, 40_000, tf.constant([1, 2])).numpy()
    variance = 1 / (4 * (2 * a + 1))
    assert abs(shares.mean() - 0.5) < 0.01
    assert shares.var() == pytest.approx(variance, rel=0.03)
    kept = np.random.default_rng(0).beta(a, a, 40_000)
    at = np.array([0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
    np.testing.assert_allclose((shares[:, None] < at).mean(0), (kept[:, None] < at).mean(0), atol=0.012)


def test_a_pair_has_the_share_of_the_distribution_in_a_dataset_too():
    shares = np.concatenate(
        [y.numpy().max(1) for _, y in apply_mixup(batches_of(4000, batch_size=8), 8, mixup_alpha=1.0)]
    )
    shares = shares[shares < 1]  # a partner of the same class cannot be told
    assert shares.mean() == pytest.approx(0.75, abs=0.02)  # of the larger part of a uniform cut


@pytest.mark.daily("mixup")
@each_way
def test_numbers_are_a_pure_function_of_seed_epoch_and_batch(way):
    given = noise()
    with tf.device("CPU:0"):
        epoch = tf.Variable(0, dtype=tf.int64)
    told, counted = (apply_mixup(given, 4, seed=5, epoch=e, **way) for e in (epoch, None))
    passes = [drawn(counted) for _ in range(3)]
    assert not same(passes[0], passes[1])
    for number in (2, 0, 1, 1):
        epoch.assign(number)
        keras.utils.set_random_seed(number)
        assert same(drawn(told), passes[number])
    assert not same(drawn(apply_mixup(given, 4, seed=6, **way)), passes[0])
    epoch.assign(1)
    assert same(drawn(told.skip(2)), passes[1][2:])  # what a run that resumes within an epoch sees
    epoch.assign(2**40)
    assert len(drawn(told)) == 4


def test_each_batch_of_a_pass_has_its_own_numbers():
    one = tf.data.Dataset.from_tensors((np.eye(8, dtype=np.float32), np.arange(8))).repeat(4)
    found = [y.tobytes() for _, y in drawn(apply_mixup(one, 8, mixup_alpha=1.0))]
    assert len(set(found)) == 4


@pytest.mark.slow
def test_both_ways_take_about_half_of_the_batches():
    plain = batches_of(480)
    summed = 0
    for x, _ in apply_mixup(plain, 8, mixup_alpha=1.0, cutmix_alpha=1.0):
        flat = x.numpy()[..., 0].reshape(len(x), -1)
        summed += bool(np.all(flat == flat[:, :1]) and np.any(flat % 10))
    assert 18 <= summed <= 42


@pytest.mark.representative("mixup-1")
@pytest.mark.parametrize("count", [1, 2, 3, 7])
@each_way
def test_small_and_odd_batches(way, count):
    x, y = RNG.uniform(0, 1, (count, 4, 4, 2)).astype(np.float32), np.arange(count)
    given = tf.data.Dataset.from_tensors((x, y))
    [(mixed_x, mixed_y)] = drawn(apply_mixup(given, 8, **way))
    np.testing.assert_allclose(mixed_x.mean(0), x.mean(0), rtol=1e-5)
    alone = [i for i in range(count) if np.array_equal(mixed_y[i], np.eye(8)[i])]
    for i in alone:
        np.testing.assert_array_equal(mixed_x[i], x[i])
    assert count % 2 == 0 or alone


def test_features_of_several_inputs_and_any_rank_are_summed_by_one_share():
    flat = np.tile(np.arange(8, dtype=np.float32)[:, None], (1, 5))
    inputs = {"flat": flat, "map": np.tile(flat[:, :, None, None], (1, 1, 2, 3))}
    given = tf.data.Dataset.from_tensor_slices((inputs, np.arange(8))).batch(8)
    [(x, y)] = list(apply_mixup(given, 8, mixup_alpha=1.0))
    np.testing.assert_allclose(x["flat"][:, 0], y.numpy() @ np.arange(8), atol=1e-5)
    np.testing.assert_allclose(x["map"][:, 4, 1, 2], x["flat"][:, 0], atol=1e-6)


def test_nothing_to_mix_gives_one_hot_labels():
    for given in (apply_mixup(batches_of(), 8), one_hot(batches_of(), 8)):
        for (x, y), (u, v) in zip(given, batches_of(), strict=True):
            np.testing.assert_array_equal(x, u)
            np.testing.assert_array_equal(y, np.eye(8)[v])
    assert int(one_hot(batches_of(), 8).cardinality()) == 3


def test_labels_of_every_head():
    x = np.zeros((4, 3), np.float32)

    def shares(labels, classes):
        [(_, y)] = one_hot(tf.data.Dataset.from_tensors((x, labels)), classes)
        return y.numpy()

    np.testing.assert_array_equal(shares(np.array([0, 1, 1, 0]), 1), [[0], [1], [1], [0]])
    np.testing.assert_array_equal(shares(np.array([[2], [1], [1], [0]]), 3), np.eye(3)[[2, 1, 1, 0]])
    rows = np.array([[1, 1, 0]] * 4, np.float32)
    np.testing.assert_array_equal(shares(rows, 3), rows)
    with pytest.raises(tf.errors.InvalidArgumentError, match="Labels must be from 0 to 2"):
        shares(np.array([0, 1, 3, 0]), 3)


@pytest.mark.nightly
def test_a_model_fits_mixed_examples_and_is_validated_on_whole_ones():
    head = heads.classification([f"class {k}" for k in range(4)], dropout=0.0)
    keras.utils.set_random_seed(0)
    labels = RNG.integers(0, 4, 64)
    features = (3 * np.eye(6)[labels] + RNG.normal(size=(64, 6)) / 4).astype(np.float32)
    given = tf.data.Dataset.from_tensor_slices((features, labels)).batch(16)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, head.attach(inputs))
    model.compile(keras.optimizers.Adam(0.05), **head.compile_args(soft=True))
    train, held = apply_mixup(given, head.units, mixup_alpha=0.4), one_hot(given, head.units)
    history = model.fit(train, validation_data=held, epochs=15, verbose=0, shuffle=False).history
    assert history["val_accuracy"][-1] == 1.0
    assert history["loss"][-1] > history["val_loss"][-1]  # mixed labels cannot be told for sure


@pytest.mark.parametrize(
    ("given", "options", "match"),
    [
        (noise(shape=(6,)), {"cutmix_alpha": 1.0}, r"cutmix needs inputs \[B, H, W, C\].*mixup takes any"),
        (noise(dtype=np.int32), {"mixup_alpha": 1.0}, "uint8 pixels or floating"),
        (noise().map(lambda x, y: (x, y, y)), {"mixup_alpha": 1.0}, "Mix first, then call apply_class_weights"),
        (noise().map(lambda x, y: x), {"mixup_alpha": 1.0}, r"\(inputs, labels\)"),
        (noise().map(lambda x, y: ((x, x), y)), {"cutmix_alpha": 1.0}, "cutmix needs one input, received 2"),
        (
            noise().map(lambda x, y: (x, tf.cast(y, tf.float32))),
            {"mixup_alpha": 1.0},
            "integer labels .*Received: float32",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(given, options, match):
    with pytest.raises(DataError, match=match):
        apply_mixup(given, 4, **options)


def test_wrong_arguments_are_reported_together():
    with pytest.raises(PlanError, match="4 problems") as caught:
        apply_mixup(noise(), 0, mixup_alpha=-1, cutmix_alpha=float("nan"), epoch=3)
    for word in ("classes", "mixup_alpha", "cutmix_alpha", "epoch"):
        assert word in str(caught.value)


@pytest.mark.slow
def test_features_of_a_cache_are_mixed_in_their_own_order(tiny_model):
    from tfft import features

    images, labels = RNG.integers(0, 255, (12, 32, 32, 3), np.uint8), np.arange(12) % 3
    prefix, suffix = features.split_frozen(tiny_model)
    found = features.extract(prefix, (images, labels), cache=None, verbose=False)
    train = apply_mixup(found.dataset(4, shuffle=True, seed=1), 3, mixup_alpha=0.3, seed=1)
    suffix.compile("sgd", **heads.from_model(tiny_model).compile_args(soft=True))
    assert np.isfinite(suffix.fit(train, epochs=2, verbose=0, shuffle=False).history["loss"]).all()
    assert data.apply_mixup is apply_mixup
