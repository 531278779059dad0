"""Classes of unequal size: weights that reach the loss, an order that draws classes equally, labels looked at."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfft import data, features, heads
from tfft.data.class_balance import apply_class_weights, class_weights
from tfft.data.labels import check_labels
from tfft.data.mixup import apply_mixup, one_hot
from tfft.errors import DataError, PlanError
from tfft.modalities.image import from_arrays, list_images
from tfft.specs import Augmentation, InputSpec

NAMES = ("ants", "bees", "flies")
SIZES = (40, 12, 5)
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(3), SIZES))
SPEC = InputSpec(8, 8)


def numbered(labels=LABELS, **options):
    """Pictures that tell which they are; the dataset of one pass as (positions, labels)."""
    images = np.zeros((len(labels), 8, 8, 3), np.uint8) + np.arange(len(labels), dtype=np.uint8)[:, None, None, None]
    return from_arrays(images, labels, SPEC, **options)


def order_of(dataset):
    return np.concatenate([x[:, 0, 0, 0].numpy() for x, _ in dataset])


def at(epoch):
    with tf.device("CPU:0"):
        return tf.Variable(epoch, dtype=tf.int64)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    expected = compute_class_weight("balanced", classes=np.arange(3), y=LABELS)
    dataset = tf.data.Dataset.from_tensor_slices((np.zeros(57), LABELS)).batch(10)
    for given in (LABELS, LABELS[:, None], LABELS.astype(float), dataset, dataset.map(lambda x, y: (x, y, x))):
        found = class_weights(given, NAMES)
        np.testing.assert_allclose([found[k] for k in range(3)], expected)
    assert np.mean([found[k] for k in LABELS]) == pytest.approx(1)
    assert class_weights(LABELS, 3) == found


@pytest.mark.nightly
def test_weights_of_files_and_of_features(image_folder, tiny_model):
    examples = list_images(image_folder())
    assert class_weights(examples, examples.class_names) == {0: 1.0, 1: 1.0, 2: 1.0}
    prefix, _ = features.split_frozen(tiny_model)
    found = features.extract(prefix, examples, cache=None, verbose=False)
    assert class_weights(found, 3) == {0: 1.0, 1: 1.0, 2: 1.0}


def test_weights_by_name():
    assert class_weights(LABELS, NAMES, {"flies": 4, "ants": 0.5}) == {0: 0.5, 1: 1.0, 2: 4.0}
    assert class_weights(LABELS, NAMES, {2: 4}) == {0: 1.0, 1: 1.0, 2: 4.0}
    with pytest.raises(PlanError, match="3 problems") as caught:
        class_weights(LABELS, NAMES, {"fleis": 1, "ants": 0, "bees": float("nan"), "flies": 2})
    for word in ("class 'fleis'", "Did you mean 'flies'", "weight of 'ants'", "weight of 'bees'"):
        assert word in str(caught.value)
    with pytest.raises(PlanError, match="unknown class 3"):
        class_weights(LABELS, NAMES, {3: 1.0})
    with pytest.raises(PlanError, match="Received: 'balance'. Did you mean 'balanced'"):
        class_weights(LABELS, NAMES, "balance")


def test_classes_without_examples_and_strange_labels_have_no_weight():
    with pytest.raises(DataError, match="Received: none of bees"):
        class_weights(np.array([0, 2, 2]), NAMES)
    assert class_weights(np.array([0, 2, 2]), NAMES, {"bees": 2.0})[1] == 2.0
    with pytest.raises(DataError, match="labels must be in 0 to 2. Received: 3 at position 1"):
        class_weights(np.array([0, 3, 2]), NAMES)
    with pytest.raises(DataError, match="Expected integer labels"):
        class_weights(np.array(["a", "b"]), NAMES)


def slope(model, dataset, class_weight=None):
    """How a step of plain descent at rate 1 moves the kernel."""
    layer = model.get_layer("logits")
    before = [v.numpy() for v in (layer.kernel, layer.bias)]
    model.fit(dataset, epochs=1, verbose=0, shuffle=False, class_weight=class_weight)
    moved = layer.kernel.numpy() - before[0]
    for variable, value in zip((layer.kernel, layer.bias), before, strict=True):
        variable.assign(value)
    return moved


@pytest.mark.daily("binary")
@pytest.mark.parametrize("kind", ["classification", "binary"])
def test_weights_of_a_dataset_are_those_that_fit_applies(kind):
    labels = LABELS if kind == "classification" else np.minimum(LABELS, 1)
    names = NAMES if kind == "classification" else NAMES[:2]
    head = getattr(heads, kind)(names, dropout=0.0)
    values = np.random.default_rng(1).normal(size=(57, 5)).astype(np.float32)
    inputs = keras.Input((5,))
    model = keras.Model(inputs, head.attach(inputs))
    weights = class_weights(labels, names)
    plain = tf.data.Dataset.from_tensor_slices((values, labels)).batch(57)
    model.compile(keras.optimizers.SGD(1.0), **head.compile_args())
    expected = slope(model, plain, weights)
    np.testing.assert_allclose(slope(model, apply_class_weights(plain, weights)), expected, atol=1e-6)
    assert np.abs(slope(model, plain) - expected).max() > 1e-3  # the weights have an effect
    model.compile(keras.optimizers.SGD(1.0), **head.compile_args(soft=True))
    np.testing.assert_allclose(
        slope(model, apply_class_weights(one_hot(plain, head.units), weights)), expected, atol=1e-6
    )
    doubled = apply_class_weights(apply_class_weights(plain, weights), dict.fromkeys(weights, 2.0))
    model.compile(keras.optimizers.SGD(1.0), **head.compile_args())
    np.testing.assert_allclose(slope(model, doubled), 2 * expected, atol=1e-5)


def test_the_weight_of_a_mixed_example_is_that_of_its_shares():
    plain = tf.data.Dataset.from_tensor_slices((np.zeros((57, 2), np.float32), LABELS)).batch(19)
    weights = {0: 0.5, 1: 2.0, 2: 8.0}
    seen = 0
    for _, y, w in apply_class_weights(apply_mixup(plain, 3, mixup_alpha=1.0), weights):
        np.testing.assert_allclose(w, y.numpy() @ [0.5, 2.0, 8.0], rtol=1e-5)
        seen += np.sum(~np.isin(w, [0.5, 2.0, 8.0]))
    assert seen > 10


def test_weights_that_do_not_fit_the_labels_are_refused():
    plain = tf.data.Dataset.from_tensor_slices((np.zeros((57, 2), np.float32), LABELS)).batch(19)
    with pytest.raises(PlanError, match="Received: 0, 2"):
        apply_class_weights(plain, {0: 1.0, 2: 1.0})
    with pytest.raises(PlanError, match="weight of 1 must be a positive number"):
        apply_class_weights(plain, {0: 1.0, 1: 0.0, 2: 1.0})
    with pytest.raises(DataError, match=r"shares \[B, 2\] to weight 2 classes"):
        apply_class_weights(one_hot(plain, 3), {0: 1.0, 1: 1.0})
    with pytest.raises(DataError, match="Received: float32"):
        apply_class_weights(plain.map(lambda x, y: (x, tf.cast(y, tf.float32))), {0: 1.0, 1: 1.0, 2: 1.0})


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_balanced_pass_draws_classes_equally_and_examples_in_turn(shuffle):
    drawn = numbered(sampling="balanced", shuffle=shuffle, seed=3)
    passes = [order_of(drawn) for _ in range(9)]
    assert int(drawn.cardinality()) == 2
    for order in passes:
        assert len(order) == 57
        assert np.bincount(LABELS[order]).tolist() == [19, 19, 19]
        if not shuffle:
            assert LABELS[order[:6]].tolist() == [0, 1, 2] * 2
    times = np.bincount(np.concatenate(passes), minlength=57)
    for k, size in enumerate(SIZES):
        own = times[k == LABELS]
        assert own.sum() == 9 * 19
        assert own.max() - own.min() <= 1  # so every example of the largest class has come
        assert own.min() == 9 * 19 // size


def test_classes_that_do_not_divide_a_pass_take_turns_over_the_passes():
    labels = np.array([0] * 5 + [1] * 3 + [4] * 2)  # 10 draws for 3 classes, of numbers with gaps
    drawn = numbered(labels, sampling="balanced", shuffle=True)
    counts = [np.bincount(labels[order_of(drawn)], minlength=5) for _ in range(3)]
    assert all(set(count[[0, 1, 4]]) == {3, 4} for count in counts)
    assert np.sum(counts, axis=0).tolist() == [10, 10, 0, 0, 10]


@pytest.mark.slow
def test_the_balanced_order_is_a_pure_function_of_seed_and_epoch():
    counted = numbered(sampling="balanced", shuffle=True, seed=-4)
    passes = [order_of(counted).tolist() for _ in range(3)]
    assert passes[0] != passes[1]
    for number in (2, 0, 1):
        keras.utils.set_random_seed(number)
        assert (
            order_of(numbered(sampling="balanced", shuffle=True, seed=-4, epoch=at(number))).tolist() == passes[number]
        )
    assert order_of(numbered(sampling="balanced", shuffle=True, seed=5)).tolist() != passes[0]


def test_a_class_of_one_size_each_is_shown_like_without_sampling():
    labels = np.arange(12) % 3
    order = order_of(numbered(labels, sampling="balanced", shuffle=True))
    assert sorted(order) == list(range(12))


@pytest.mark.nightly
def test_files_arrays_and_features_come_in_one_balanced_order(image_folder, tiny_model):
    examples = list_images(image_folder())
    examples = examples.take(np.array([0, 1, 2, 3, 4, 5, 6, 7, 12]))
    spec = InputSpec(32, 32, value_range=(-1.0, 1.0), source="the test")
    settings = {"batch_size": 4, "shuffle": True, "seed": 2, "sampling": "balanced"}
    prefix, _ = features.split_frozen(tiny_model)
    views = {"augment": Augmentation(flip=True, crop=0.5), "views": 3}
    for varied in ({}, views):
        found = features.extract(prefix, examples, cache=None, verbose=False, seed=2, **varied)
        kept, anew = found.dataset(**settings), data.to_dataset(examples, spec, **settings, **varied)
        for _ in range(3):
            for (a, labels), (images, expected) in zip(kept, anew, strict=True):
                assert np.array_equal(labels, expected)
                np.testing.assert_allclose(a, prefix(images, training=False), atol=1e-5)
    cached, read = (data.to_dataset(examples, spec, cache=cache, **settings) for cache in (True, False))
    for (images, labels), (others, expected) in zip(cached, read, strict=True):
        assert np.array_equal(images, others)
        assert np.array_equal(labels, expected)


@pytest.mark.slow
def test_each_showing_of_an_example_is_another_view():
    labels = np.array([0] * 9 + [1])
    images = np.random.default_rng(0).integers(0, 255, (10, 64, 64, 3), np.uint8)
    drawn = from_arrays(images, labels, SPEC, sampling="balanced", augment=Augmentation(crop=0.3), shuffle=True)
    shown = [x.numpy().tobytes() for _ in range(2) for x, y in drawn.unbatch() if y == 1]
    assert len(shown) == len(set(shown)) == 10
    plain = next(iter(from_arrays(images[9:], labels[9:], SPEC)))[0][0].numpy().tobytes()
    assert shown.count(plain) == 1  # the first view is the picture


def test_what_cannot_be_balanced_is_refused(tiny_model):
    with pytest.raises(PlanError, match="Received: 'balance'. Did you mean 'balanced'"):
        numbered(sampling="balance")
    with pytest.raises(PlanError, match=r"integer labels \[N\].*Received: float32"):
        numbered(np.eye(57, dtype=np.float32)[:, :3], sampling="balanced")
    prefix, _ = features.split_frozen(tiny_model)
    found = features.extract(prefix, (np.zeros((4, 32, 32, 3), np.uint8), np.zeros((4, 2))), cache=None, verbose=False)
    with pytest.raises(PlanError, match=r"integer labels \[N\]"):
        found.dataset(sampling="balanced")


@pytest.mark.nightly
def test_good_labels_pass_and_an_unseen_class_is_told(image_folder):
    splits = data.load(image_folder())
    assert check_labels(splits.train, splits.validation, splits.class_names) == ()
    assert check_labels(LABELS, None, 3) == ()
    [note] = check_labels(LABELS, np.array([0, 0, 2]), NAMES)
    assert note.startswith("No validation example of bees")


def test_all_that_is_wrong_with_labels_is_told_at_once():
    train = np.array([0.0, 1.5, np.nan, 0, -1, 7])
    held = tf.data.Dataset.from_tensor_slices((np.zeros(4), [0, 1, 2, 3])).batch(3)
    with pytest.raises(DataError, match="4 problems") as caught:
        check_labels(train, held, NAMES)
    for text in (
        "training labels must be integers. Received: 1.5 at position 1, nan at position 2",
        "training labels must be in 0 to 2. Received: -1.0 at position 4, 7.0 at position 5",
        "validation labels must be in 0 to 2. Received: 3 at position 3",
        "no training example of bees, flies",
    ):
        assert text in str(caught.value)
    with pytest.raises(DataError, match=r"Received: shape \(4, 3\)"):
        check_labels(np.eye(4)[:, :3], None, NAMES)
    with pytest.raises(DataError, match="and 15 more"):
        check_labels(np.append(np.arange(3), np.full(20, 9)), None, NAMES)
    with pytest.raises(DataError, match="repeats without end"):
        check_labels(held.repeat(), None, NAMES)
